"""Checks of the user's networks: every fault has a message that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgc.errors import PluginError, UsageError
from lgc.models.nets.checks import check_outputs, check_training
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.outputs import MainOutput
from lgc.models.nets.peers import PEERS
from lgc.models.nets.sources import PeerSource, load_source
from lgc.models.onnx.export import to_onnx
from lgc.models.onnx.tracing import require_traceable

from ... import user_networks

FILE = user_networks.__file__


def define(name, size=(32, 32)):
    return NetworkDefinition(load_source(f"{FILE}:{name}"), size, 11)


def test_outputs_are_reported():
    definition = define("build")
    report = check_outputs(definition.build(), definition)
    assert (report.size, report.auxiliary, report.ignored) == ((16, 16), ("side",), ("feature [1, 8, 16, 16]",))
    trained, unused = report.format_remarks(0.4), report.format_remarks(0.0)
    assert trained[0] == "main output: out"
    assert trained[1] == "auxiliary outputs: side; in the loss with weight 0.4, not in evaluation and export"
    assert "not trained (--aux 0)" in unused[1]
    assert trained[2] == "outputs that are not logits of the classes are ignored: feature [1, 8, 16, 16]"


def test_checks_leave_the_network_unchanged():
    definition = define("build")
    network = definition.build()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check_training(network, definition, 2, (16, 32))
    check_outputs(network, definition)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_outputs_of_training_mode_are_reported():
    definition = define("Lazy")
    network = definition.build()
    assert check_training(network, definition, 2, None).auxiliary == ("1",)
    assert check_outputs(network, definition).auxiliary == ()


def test_main_output_of_training_is_recognised():
    definition = define("AuxiliaryFirst")
    report = check_training(definition.build(), definition, 2, None)
    assert (report.main, report.auxiliary) == ("1", ("0",))
    assert report.format_remarks(0.4)[0] == "main output: 1 (position, from 0); another one: --output-name NAME"


def test_probabilities_are_reported():
    definition = define("Probabilities")
    network = definition.build()
    for report in (check_outputs(network, definition), check_training(network, definition, 2, None)):
        assert "warning: the main output looks like probabilities" in report.format_remarks(0.4)[0]
    assert not check_outputs(define("Tied").build(), define("Tied")).activation


def test_random_outputs_are_no_score():
    with pytest.raises(PluginError, match="different outputs for the same image"):
        check_outputs(define("Random").build(), define("Random"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("build_frozen", "has no parameters to train"),
        ("build_grey", r"failed on images \[2, 3, 32, 32\]: RuntimeError: .*to have 1 channels, but got 3 channels"),
        ("build_nineteen", "returned 19 channels for 11 classes: use the argument `classes`"),
        ("NotANumber", "returned NaN or infinite logits"),
        ("Flat", r"returned \[2, 11\] for 2 images; expected logits \[N, 11, h, w\]"),
        ("Labels", "of type int64"),
        ("Detached", "no gradient reaches its parameters"),
        ("State", "the state '_extra_state' is not a tensor"),
        ("Text", "Text: the network returned str without a tensor"),
        (
            "RandomConstant",
            "with the same state dict, its logits .* differ .*: keep tensors with register_",
        ),
        ("PlainState", "values that its state dict lacks"),
        ("Unnamed", "2 outputs in training mode, 1 in evaluation mode, and which of 0, 1 is the main one is unknown"),
        ("NoNumber", "the initial values of number are not finite"),
        ("Random", "different outputs for the same image in evaluation mode"),
        ("Exiting", r"SystemExit: the code ends the program with exit code 0 \(.*user_networks.py, line \d+\)"),
    ],
)
def test_faults_of_networks_are_named(name, message):
    definition = define(name)
    with pytest.raises(PluginError, match=message):
        check_training(definition.build(), definition, 2, None)


def test_message_names_a_size_that_works():
    definition = define("Divisible", (24, 32))
    network = definition.build()
    with pytest.raises(PluginError, match=r"\(.*user_networks.py, line \d+\); .*multiples of 16: use --input 32x32$"):
        check_outputs(network, definition)
    with pytest.raises(PluginError, match=r"multiples of 16: use --crop 16x32$"):
        check_training(network, define("Divisible"), 2, (16, 24))


def test_network_of_fixed_size_gets_no_advice():
    with pytest.raises(PluginError, match=r"must match the size of tensor b .*, line \d+\)$"):
        check_training(define("Attention").build(), define("Attention"), 2, (16, 32))


@pytest.mark.parametrize("source", [load_source(f"{FILE}:Pooled"), PeerSource("fast-scnn")], ids=["factory", "peer"])
def test_single_value_norm_needs_larger_batch(source):
    definition = NetworkDefinition(source, (32, 32), 11)
    network = definition.build()
    with pytest.raises(UsageError, match="use --batch 2 or more"):
        check_training(network, definition, 1, None)
    check_training(network, definition, 2, None)


@pytest.mark.parametrize("name", PEERS)
def test_peers_pass_the_checks(name):
    definition = NetworkDefinition(PeerSource(name), (64, 64), 11)
    report = check_training(definition.build(), definition, 2, None)
    assert (report.size, report.auxiliary, report.ignored) == ((8, 8), (), ())


def require(name):
    torch.manual_seed(0)
    require_traceable(MainOutput(getattr(user_networks, name)(11)).eval(), [(1, 3, 32, 32)], "float32", name)


@pytest.mark.parametrize("name", ["Toy", "Tied", "Asserting"])
def test_traceable_networks_pass(name):
    require(name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Branch", "if y.mean() > 0:"),
        ("Number", "return y * float(x.max())"),
        ("Array", "return y * torch.from_numpy(x.numpy().max(keepdims=True))"),
        ("Values", "return y * x.flatten()[:1].tolist()[0]"),
        ("Equal", "return 0 * y if torch.equal(x[:, 0], x[:, 1]) else y"),
        ("Close", "return 0 * y if torch.allclose(x[:, 0], x[:, 1]) else y"),
    ],
)
def test_reading_values_of_the_image_is_refused(name, line):
    with pytest.raises(PluginError) as caught:
        require(name)
    source = user_networks.__file__
    number = [text.strip() for text in Path(source).read_text().splitlines()].index(line) + 1
    assert f"{name} cannot be exported: {source}, line {number}, `{line}`" in str(caught.value)


def test_deciding_by_size_of_values_is_refused():
    with pytest.raises(PluginError, match=r"user_networks.py, line \d+, `return y if len\(torch.unique"):
        to_onnx(user_networks.Unique(11).eval(), [(1, 3, 32, 32)])
    assert to_onnx(user_networks.Nonzero(11).eval(), [(1, 3, 32, 32)])


def test_random_outputs_are_refused():
    with pytest.raises(PluginError, match="different outputs for the same input"):
        require("Random")
