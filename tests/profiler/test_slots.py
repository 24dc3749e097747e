"""Tables of a list of slots, with networks that the user builds."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lgc
from lgc import ExpectedCost, LatencyTable, OpSpec, Predictor, Slot
from lgc.errors import MismatchError, PluginError, UsageError
from lgc.models import Decision
from lgc.models.nets.layers import build_module
from lgc.models.space.cost import Cost
from lgc.models.space.operators import is_free
from lgc.profiler.network_checks import check_networks
from lgc.profiler.slots import make_network_builder

from . import conftest as law
from .conftest import TARGET

SLOTS = [
    Slot("stem", (OpSpec("conv_3x3", 3, 8, 32, 32, 2),)),
    *(
        Slot(f"block{index}", tuple(OpSpec(name, 8, 8, 16, 16) for name in ("skip", "conv_3x3", "sep_conv_3x3")))
        for index in range(3)
    ),
]
SHAPES = [(1, 3, 32, 32)]


def build(choices):
    """Return the network of choices; slots with one candidate have no choice."""
    chosen = iter(choices)
    specs = [slot.candidates[next(chosen) if len(slot.candidates) > 1 else 0] for slot in SLOTS]
    return nn.Sequential(*map(build_module, specs))


def measure(out, slots=SLOTS, **options):
    return lgc.profile(slots, TARGET.device, out=out, backend=TARGET.backend, **options)


class TestOperators:
    """Without networks; on a device whose true latencies are known."""

    @pytest.fixture
    def table(self, device, out):
        device.noise = 0.0
        with measure(out) as table:
            yield table

    def test_predictions_sum_the_operators(self, table):
        predictor = Predictor(SLOTS, table)
        for network in predictor.space.spread(8, 0):
            wanted = sum(law.exact_ms(spec) for spec in network.specs() if not is_free(spec))
            assert predictor.predict(network) == pytest.approx(wanted, rel=0.02)

    def test_expectation_weighs_the_candidates(self, table):
        latency = ExpectedCost(table, SLOTS)
        logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        expected = latency(torch.softmax(logits, 1))
        stem, *blocks = ([table.latency_ms(spec) for spec in slot.candidates] for slot in SLOTS)
        wanted = stem[0] + (torch.softmax(logits, 1) * torch.tensor(blocks)).sum()
        assert expected.item() == pytest.approx(wanted.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(expected, logits)
        (reference,) = torch.autograd.grad(wanted, logits)
        torch.testing.assert_close(gradient, reference)
        assert latency([*torch.softmax(logits, 1)]).item() == pytest.approx(expected.item())

    def test_wrong_probabilities(self, table):
        latency = ExpectedCost(table, SLOTS)
        with pytest.raises(UsageError, match="expected probabilities of 3 decisions, got 2"):
            latency([torch.ones(3) / 3] * 2)
        with pytest.raises(UsageError, match=r"block2 has 3 choices, its probabilities have shape \[2\]"):
            latency([torch.ones(3) / 3] * 2 + [torch.ones(2) / 2])

    @pytest.mark.parametrize(
        "row",
        [
            [0.0, 0.0, 0.0],
            [1.0, 1.0, 0.0],
            [1.5, -0.5, 0.0],
            [-1.0, -2.0, -0.5],
            [math.nan, 1.0, 0.0],
            [math.inf, 0, 0],
        ],
    )
    def test_values_must_be_probabilities(self, table, row):
        p = torch.tensor([[1.0, 0.0, 0.0], row, [0.2, 0.3, 0.5]])
        with pytest.raises(UsageError, match=r"decision block1: \[.*\] is not a distribution .*: pass torch.softmax"):
            ExpectedCost(table, SLOTS)(p)

    def test_mass_beyond_the_choices_is_refused(self, table):
        latency = ExpectedCost.from_cost(
            Cost("ms", "", 0.0, np.zeros((2, 3)), {}), (Decision("a", ("x", "y", "z")), Decision("b", ("x", "y")))
        )
        with pytest.raises(UsageError, match=r"decision b: .* not a distribution over its 2 choices"):
            latency(torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.3]]))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64])
    def test_probabilities_of_any_type(self, table, dtype):
        p = torch.softmax(torch.arange(9.0).view(3, 3), 1) if dtype.is_floating_point else torch.eye(3)
        latency = ExpectedCost(table, SLOTS)
        assert latency(p.to(dtype)).item() == pytest.approx(latency(p).item(), rel=1e-2)

    def test_other_slots_are_refused(self, table, out):
        with pytest.raises(MismatchError, match="has a different space"):
            Predictor(SLOTS[:2], table)
        with pytest.raises(MismatchError, match="has a different space"):
            measure(out, SLOTS[:2])

    def test_table_is_not_verified(self, table):
        assert table.metadata("verification") is None
        with pytest.raises(UsageError, match="cannot build networks of space slots"):
            lgc.profiler.verification.verify(table, 2, 0)


def test_networks_calibrate_and_verify(tmp_path):
    with measure(tmp_path / "t.lut", build=build, input_shapes=SHAPES, networks=4, rounds=4) as table:
        assert [scope for _, _, scope in table.networks()] == ["dense"] * 4
        assert table.metadata("verification")["dense"]["networks"] == 4
        assert Predictor(SLOTS, table).calibrated
        report = lgc.verify(table, build, SHAPES, networks=2)
        assert len(report.networks) == 2
    with LatencyTable.open(table.path) as again:
        assert again.space.slots()[1].candidates == SLOTS[1].candidates


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"networks": 4}, UsageError, "needs build"),
        ({"build": build}, UsageError, "both build and input_shapes"),
        (
            {"build": lambda choices: 1 / 0, "input_shapes": SHAPES, "networks": 4},
            PluginError,
            r"build\(.*\) failed: ZeroDivisionError: division by zero \(.*test_slots.py, line \d+\)",
        ),
        (
            {"build": lambda choices: "network", "input_shapes": SHAPES, "networks": 4},
            PluginError,
            "returned str, not a torch module",
        ),
    ],
)
def test_bad_networks(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        measure(tmp_path / "t.lut", **options)


def build_fastest(choices):
    return build([0] * len(choices))


@pytest.mark.parametrize(
    ("make", "shapes", "growth"),
    [(build, [(1, 3, 64, 64)], 4.0), (build, [(4, 3, 32, 32)], 4.0), (build_fastest, SHAPES, 0.0)],
    ids=["larger", "batch", "choices ignored"],
)
def test_networks_of_other_size_are_refused(tmp_path, make, shapes, growth):
    networks = {"networks": 4, "rounds": 4}
    with pytest.raises(UsageError, match="do not have the slots' sizes or choices") as refusal:
        measure(tmp_path / "t.lut", build=make, input_shapes=shapes, **networks)
    slots, built = (int(number.replace(",", "")) for number in re.findall(r"by ([\d,]+)[,:]", str(refusal.value)))
    assert built == growth * slots
    with measure(tmp_path / "t.lut", build=build, input_shapes=SHAPES, **networks) as table:
        assert Predictor(SLOTS, table).calibrated, "the same file, with the right networks"
        with pytest.raises(UsageError, match="do not have the slots' sizes or choices"):
            lgc.verify(table, make, shapes, networks=8)


def build_wider(choices):
    """Return the network with a part that has no slot, as its head."""
    return nn.Sequential(build(choices), nn.Conv2d(8, 8, 3, padding=1))


def test_parts_without_a_slot_are_allowed(tmp_path):
    measure(tmp_path / "t.lut", build=build_wider, input_shapes=SHAPES, networks=4, rounds=4).close()


def test_table_keeps_its_networks(tmp_path):
    options = {"input_shapes": SHAPES, "networks": 4, "rounds": 4}
    measure(tmp_path / "t.lut", build=build, **options).close()
    with pytest.raises(MismatchError, match=r"was measured with other networks: for choices .* with out="):
        measure(tmp_path / "t.lut", build=build_wider, **options)
    with measure(tmp_path / "t.lut", build=build, **options) as table:
        with pytest.raises(MismatchError, match="was measured with other networks"):
            lgc.verify(table, build_wider, SHAPES, networks=2)
        with table.store.transaction() as connection:
            connection.execute("DELETE FROM meta WHERE key = 'builds'")
    measure(tmp_path / "t.lut", build=build_wider, **options).close()  # a table of an earlier version


class Untraceable(nn.Sequential):
    """Network that decides by values, which no run on meta tensors can follow."""

    def forward(self, x):
        return super().forward(x) * (1 if x.sum() < math.inf else 2)


def test_networks_that_cannot_be_compared_are_reported(device, tmp_path, caplog):
    table = lgc.LatencyTable.create(tmp_path / "t.lut", TARGET, lgc.SlotSpace.from_slots(SLOTS), {}, {})
    networks = [*table.space.spread(2, 0)]
    check_networks(table, networks, make_network_builder(lambda choices: Untraceable(build(choices)), SHAPES))
    (line,) = caplog.messages
    assert line.startswith("warning: networks are not compared with their slots")
    assert "values of a tensor decide" in line


@torch.library.custom_op("lgc_tests::opaque_conv", mutates_args=())
def opaque_conv(x: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
    return F.conv2d(x, weight, padding=padding)


@opaque_conv.register_fake
def _(x, weight, padding):
    return F.conv2d(x, weight, padding=padding)


class OpaqueConv(nn.Module):
    """Convolution by an operation of another package."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return opaque_conv(x, self.conv.weight, self.conv.padding[0])


def test_networks_that_cannot_be_counted_are_reported(device, tmp_path, caplog):
    """Their products would be zero, those of the slots are not."""

    def build_opaque(choices):
        network = build(choices)
        for layer in [*network.modules()]:
            conv = getattr(layer, "conv", None)
            if isinstance(conv, nn.Conv2d) and conv.groups == 1 and conv.stride == (1, 1):
                layer.conv, layer.norm = OpaqueConv(conv), nn.Identity()
        return network

    table = lgc.LatencyTable.create(tmp_path / "t.lut", TARGET, lgc.SlotSpace.from_slots(SLOTS), {}, {})
    networks = [*table.space.spread(2, 0)]
    check_networks(table, networks, make_network_builder(build_opaque, SHAPES))
    (line,) = caplog.messages
    assert line.startswith(
        "warning: networks are not compared with their slots: torch cannot count the products of lgc_"
    )


@pytest.mark.parametrize(("weight", "reported"), [(0.0, True), (0.9, False), (2.3, True)])
def test_implausible_calibration_is_reported(tmp_path, caplog, weight, reported):
    with measure(tmp_path / "t.lut", build=build, input_shapes=SHAPES, networks=4, rounds=4) as table:
        stored = {"form": "affine", "intercept_ms": 0.1, "weights": [weight], "error_pct": 1.0, "networks": 4}
        table.set_metadata("calibration", {"dense": stored})
        caplog.clear()
        measure(table.path).close()
    assert (f"takes {weight:.2f} times as long as the sum" in caplog.text) == reported


def test_slots_as_a_file(call, tmp_path):
    """The space's content is a YAML file that lgc-profile takes."""
    path = tmp_path / "slots.yaml"
    path.write_text(str(lgc.SlotSpace.from_slots(SLOTS).to_dict()).replace("None", "null"))
    common = ["--device", "cpu", "--space", path, "--rounds", 4, "--networks", 0, "--out", tmp_path / "t.lut"]
    done = call("lgc-profile", *common)
    assert (done.code, done.err.splitlines()[0]) == (
        0,
        f"profiling slots on cpu, onnxruntime, fp32, 1 thread into {tmp_path / 't.lut'}",
    )
    assert "Not verified" in call("lgc-lut", "show", tmp_path / "t.lut").out
    assert "cannot build networks of space slots" in call("lgc-lut", "verify", tmp_path / "t.lut").refusal("lgc-lut")
    refusal = call("lgc-profile", *common, "--input", "64x64").refusal("lgc-profile")
    assert "space slots is a SlotSpace: only SearchSpace is supported" in refusal
