"""TF32 as torch reports it: off while networks are measured and scored, restored after scoring."""

from __future__ import annotations

import pytest
import torch

from lgc.precisions import disable_tf32, without_tf32

CUDNN, MATMUL, MKLDNN = torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
SWITCHES = (MATMUL, MKLDNN, CUDNN.conv, CUDNN.rnn)


def test_tf32_is_disabled_and_read_back(fp32_precision):
    for place in (torch.backends, CUDNN.conv, CUDNN.rnn):
        place.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("high")
    assert disable_tf32() is False
    assert [place.fp32_precision for place in SWITCHES] == ["ieee"] * 4
    assert torch._C._get_cublas_allow_tf32() is False, (
        "cuBLAS reads this switch, and raises if it contradicts the others"
    )


def test_tf32_that_stays_on_is_reported(fp32_precision, monkeypatch):
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    MATMUL.fp32_precision = "tf32"
    assert disable_tf32() is True


def test_deprecated_tf32_switch_is_not_used(fp32_precision, monkeypatch):
    def fail(*_):
        raise AssertionError("deprecated switch")

    for name in ("_set_cublas_allow_tf32", "_get_cublas_allow_tf32"):
        monkeypatch.setattr(torch._C, name, fail)
    for name in ("getter", "setter"):
        monkeypatch.setattr(type(torch.backends.cudnn).__dict__["allow_tf32"], name, fail)
    assert disable_tf32() is False


def set_contradiction():
    """Set matrix products by the new switch alone, after which torch refuses to read the old one."""
    torch.set_float32_matmul_precision("highest")
    MATMUL.fp32_precision = "tf32"


def allow_by_old_switches():
    CUDNN.allow_tf32 = MATMUL.allow_tf32 = True


def forbid_by_old_switches():
    CUDNN.allow_tf32 = MATMUL.allow_tf32 = False


def read_state():
    """Return what torch reports by its new and old switches; None for what it refuses to read."""
    state = [switch.fp32_precision for switch in SWITCHES]
    for read in (torch.get_float32_matmul_precision, lambda: MATMUL.allow_tf32, lambda: CUDNN.allow_tf32):
        try:
            state.append(read())
        except RuntimeError:
            state.append(None)
    return state


@pytest.mark.parametrize(
    "set_up",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        disable_tf32,
        set_contradiction,
        allow_by_old_switches,
        forbid_by_old_switches,
    ],
)
def test_tf32_is_restored_after_scoring(fp32_precision, set_up):
    set_up()
    before = read_state()
    with without_tf32():
        assert [switch.fp32_precision for switch in SWITCHES] == ["ieee"] * 4
    assert read_state() == before
