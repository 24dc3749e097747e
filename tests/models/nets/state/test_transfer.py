"""Weights of other programs: read from any file, matched by name, transferred part by part."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lgc.errors import FileFormatError, UsageError
from lgc.models.nets.state.state_dicts import StateDict, _read_torch, read_state_dict
from lgc.models.nets.state.transfer import count_fitting, transfer_weights


class SmallNet(nn.Module):
    """Backbone of three normalised convolutions, a neck and a classifier."""

    def __init__(self, classes: int = 5, width: int = 4) -> None:
        super().__init__()
        block = [nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width)]
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), *block)
        self.neck = nn.Conv2d(width, 2 * width, 1)
        self.head = nn.Conv2d(2 * width, classes, 1)


def make_weights(network: nn.Module | None = None) -> dict[str, torch.Tensor]:
    """Return weights that differ from those of every other network."""
    network = network or SmallNet()
    return {name: value + 7 if value.ndim else value for name, value in network.state_dict().items()}


def transfer(weights, network=None, classes=5, **options):
    return transfer_weights(network or SmallNet(classes), StateDict("w.pth", weights), classes, **options)


WRAPPINGS = {
    "plain": ({}, ""),
    "state_dict": ({"epoch": 3, "state_dict": None}, ""),
    "ema.module": ({"model": {"a": torch.zeros(1)}, "ema": {"module": None, "decay": 0.9}}, "module."),
    "trainee": ({"step": 3, "trainee": None, "noise": torch.zeros(2)}, "network."),
    "weights": ({"weights": None}, "module._orig_mod."),
    "net": ({"net": None, "rng_state": torch.zeros(8, dtype=torch.uint8)}, ""),
}


@pytest.mark.parametrize("entry", WRAPPINGS)
@pytest.mark.parametrize("legacy", [False, True])
def test_wrapped_state_dicts_are_read_whole(tmp_path, entry, legacy):
    content, prefix = WRAPPINGS[entry]
    weights = {prefix + name: value for name, value in make_weights().items()}
    content = fill(content, weights) if content else weights
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    stored = read_state_dict(tmp_path / "w.pth")
    assert stored.entry == ("" if entry == "plain" else entry)
    network = SmallNet()
    result = transfer_weights(network, stored, 5)
    assert (result.random, result.unused) == ((), 0)
    expected = {name.removeprefix(prefix): value for name, value in weights.items()}
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("complete", [False, True])
def test_entry_that_fits_is_read(tmp_path, complete):
    network, weights = SmallNet(), make_weights()
    averaged = weights if complete else {name: weights[name] for name, _ in network.named_parameters()}
    torch.save({"model": make_weights(), "ema": averaged, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    stored = read_state_dict(tmp_path / "w.pth", partial(count_fitting, network))
    assert stored.entry == ("ema" if complete else "model")
    assert transfer_weights(network, stored, 5).random == ()


def fill(content, weights):
    """Put weights in the place of None."""
    return {
        key: weights if value is None else fill(value, weights) if isinstance(value, dict) else value
        for key, value in content.items()
    }


def test_safetensors_are_read_by_content(tmp_path):
    save_file(make_weights(), tmp_path / "w.bin")
    assert set(read_state_dict(tmp_path / "w.bin").tensors) == set(SmallNet().state_dict())


def test_classifier_of_other_classes_stays_random():
    network = SmallNet(3)
    before = network.head.weight.clone()
    result = transfer(make_weights(), network, 3)
    assert result.random == ("head.weight", "head.bias")
    assert result.classifiers == {"head": 5}
    assert result.random_parts == ("head",)
    assert torch.equal(network.head.weight, before)
    assert "random head (2; 5 classes in the file)" in result.describe()[-1]
    assert "backbone (" in result.describe()[1]


@pytest.mark.parametrize(("removed", "added"), [("backbone.", "backbone."), ("model.backbone.", "backbone.")])
def test_backbone_alone_is_transferred(removed, added):
    names = {name: value for name, value in make_weights().items() if name.startswith("backbone.")}
    network = SmallNet()
    result = transfer({name.removeprefix("backbone."): value for name, value in names.items()}, network)
    assert set(result.random) == {"neck.weight", "neck.bias", "head.weight", "head.bias"}
    assert all(torch.equal(network.state_dict()[name], value) for name, value in names.items())
    assert (result.removed, result.added) == ("", "backbone.")
    prefixed = {removed + name.removeprefix("backbone."): value for name, value in names.items()}
    assert transfer(prefixed).random_parts == ("neck", "head")


def test_modules_are_transferred_whole_or_not():
    weights = make_weights()
    del weights["backbone.1.running_var"]
    network = SmallNet()
    result = transfer(weights, network)
    assert result.random_parts == ("backbone.1",)
    assert float(network.backbone[1].running_mean.abs().sum()) == 0


def test_half_precision_weights_become_float32():
    network = SmallNet()
    transfer({name: value.half() for name, value in make_weights().items()}, network)
    assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: {"other.weight": torch.zeros(4, 3)}, "no part of w.pth fits .* such as other.weight"),
        (lambda: make_weights(SmallNet(width=6)), "weights of another network: 14 of its tensors .* only 1 fit"),
        (
            lambda: {**{f"x{index}": torch.zeros(2) for index in range(40)}, "neck.bias": torch.zeros(8)},
            "only 1 of its 41 tensors fit",
        ),
        (lambda: {"neck.bias": torch.zeros(8), "head.bias": torch.zeros(5)}, "no part of w.pth .* as a whole"),
    ],
)
def test_weights_of_other_networks_are_refused(weights, message):
    network = SmallNet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        transfer(weights(), network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_non_finite_weights_are_named(value, word):
    weights = make_weights()
    weights["neck.weight"][0] = value
    with pytest.raises(FileFormatError, match=rf"tensor neck.weight has {word} values \(4 of 32\)"):
        transfer(weights)


class Settings:
    """Object that only code could rebuild."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}, "epoch": 3}, "holds no tensors by name, but the keys state_dict, epoch"),
        ([torch.zeros(2)], "an object of type list"),
        ({"model": {"a": torch.zeros(2)}, "args": Settings()}, r"Python objects \(.*Settings\)"),
    ],
)
def test_files_without_state_dict_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(FileFormatError, match=message):
        read_state_dict(tmp_path / "w.pt")


def test_foreign_files_are_described(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun):
            read_state_dict(path)


class TiedNet(nn.Module):
    """Two layers that share a weight, but not their biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


@pytest.mark.parametrize("kept", ["first.weight", "second.weight"])
def test_tied_tensors_stored_once_are_loaded(kept):
    weights = make_weights(TiedNet())
    weights = {name: value for name, value in weights.items() if name == kept or name.endswith("bias")}
    network = TiedNet()
    result = transfer(weights, network)
    assert (result.random, result.unused) == ((), 0)
    assert torch.equal(network.first.weight, weights[kept])
    assert network.first.weight is network.second.weight
    assert torch.equal(network.second.bias, weights["second.bias"])


def test_network_next_to_a_loss_is_found():
    """Lightning stores the network of a module, and its loss, by their attributes."""
    weights = {f"unet.{name}": value for name, value in make_weights().items()}
    result = transfer({**weights, "criterion.weight": torch.ones(5)})
    assert (result.removed, result.random, result.unused) == ("unet.", (), 1)


@pytest.mark.parametrize("extra", [{}, {"teacher.aux.weight": torch.ones(3), "teacher.aux.bias": torch.ones(3)}])
def test_two_networks_that_fit_are_refused(extra):
    weights = {f"{part}.{name}": value for part in ("student", "teacher") for name, value in make_weights().items()}
    with pytest.raises(UsageError, match=r"two networks .* equally well, under 'student\.' and 'teacher\.': save"):
        transfer({**weights, **extra})


def test_network_stored_twice_is_loaded():
    weights = make_weights()
    twice = {f"{part}.{name}": value for part in ("first", "second") for name, value in weights.items()}
    assert transfer(twice).random == ()


@pytest.mark.parametrize("other", ["teacher", "model_ema"])
def test_network_that_fits_best_is_loaded(other):
    """It may have fewer tensors than another one, or the name of a wrapper."""
    weights, others = make_weights(), make_weights(SmallNet() if other == "model_ema" else SmallNet(width=6))
    prefix = "model." if other == "model_ema" else "student."
    result = transfer(
        {
            **{f"{other}.{name}": value + 1 for name, value in others.items()},
            **{f"{other}.aux{index}": torch.ones(3) for index in range(30)},
            **{prefix + name: value for name, value in weights.items()},
        }
    )
    assert (result.removed, result.random) == (prefix, ())


NUMBERS = [np.float64(0.5), np.float32(-2), np.int64(-7), np.uint8(200), np.bool_(True), np.dtype(">f8").type(0.25)]


@pytest.mark.parametrize("number", [*NUMBERS, np.array(3.5, ">f4")[()], np.str_("best é")], ids=repr)
@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_scalars_next_to_weights_are_read(tmp_path, number, legacy):
    path = tmp_path / "w.pt"
    torch.save({"best": number, "state_dict": make_weights()}, path, _use_new_zipfile_serialization=not legacy)
    assert read_state_dict(path).entry == "state_dict"
    content = _read_torch(path)
    assert content["best"] == number


def test_names_of_earlier_numpy_are_known(tmp_path):
    torch.save({"best": np.float64(0.5), "state_dict": make_weights()}, tmp_path / "w.pt")
    data = (tmp_path / "w.pt").read_bytes()
    assert b"numpy._core.multiarray" in data
    torch.save({"best": np.float64(0.5)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pt").write_bytes(old)
    assert _read_torch(tmp_path / "old.pt") == {"best": 0.5}


@pytest.mark.parametrize("value", [np.zeros(3), np.bytes_(b"a"), np.datetime64(3, "s")], ids=["array", "bytes", "date"])
def test_other_numpy_objects_are_refused(tmp_path, value):
    torch.save({"best": value, "state_dict": make_weights()}, tmp_path / "w.pt")
    with pytest.raises(FileFormatError, match=r"holds Python objects \(numpy\S+\), .* if you trust it"):
        read_state_dict(tmp_path / "w.pt")
