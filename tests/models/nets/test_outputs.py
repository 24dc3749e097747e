"""Outputs of any network: which one is the main one, and the names of the others."""

from __future__ import annotations

import pytest
import torch

from lgc.errors import PluginError
from lgc.models.nets.outputs import get_logits, is_logits, split_outputs

from ...user_networks import Pair, Result

A, B, C = (torch.full((1, 3, 2, 2), float(value)) for value in range(3))


@pytest.mark.parametrize(
    ("output", "main", "names"),
    [
        (A, A, []),
        ([A, B], A, ["1"]),
        ((A, [B, C]), A, ["1.0", "1.1"]),
        ({"aux": A, "out": B}, B, ["aux"]),
        ({"first": A, "second": None, "third": B}, A, ["third"]),
        (Result(A, B), B, ["feature"]),
        (Pair(A, B), A, ["edge"]),
        ({"loss": 3.0, "logits": A}, A, []),
        ({"aux": A, "pred": B}, B, ["aux"]),
        ({"Aux_1": A, "aux_2": B}, A, ["aux_2"]),
    ],
)
def test_main_output_and_names(output, main, names):
    logits, others = split_outputs(output)
    assert logits is main
    assert get_logits(output) is main
    assert list(others) == names


@pytest.mark.parametrize("output", [None, "logits", [], {"out": None}])
def test_outputs_without_tensor_are_refused(output):
    with pytest.raises(PluginError, match="without a tensor"):
        split_outputs(output)


def test_main_output_is_chosen_by_name():
    assert split_outputs((A, B), "1") == (B, {"0": A})
    with pytest.raises(PluginError, match="no output '1', as it did before, but 0"):
        split_outputs((A,), "1")


def test_logits_have_a_channel_per_class():
    assert is_logits(A, 3)
    assert not is_logits(A, 4)
    assert not is_logits(A[0], 3)
    assert not is_logits(A.long(), 3)
