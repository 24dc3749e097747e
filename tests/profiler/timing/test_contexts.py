"""What is run to learn an operator's latency: the graphs, and the law by which the entry follows from them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lgc.errors import UnknownNameError
from lgc.lut import LatencyTable, Target
from lgc.models import OPERATORS, PRESETS, OpSpec, SearchSpace
from lgc.models.space.operators import input_shapes, is_free
from lgc.profiler.backends.base import generate_inputs
from lgc.profiler.timing.contexts import (
    CARRIERS,
    CONTEXTS,
    COPIES,
    ISOLATED,
    PROTOCOL,
    count_copies,
    find_image,
    list_terms,
    output_size,
    register_benchmarks,
)

from ...operators import EXAMPLES
from .. import conftest as law

BLOCKS = (
    *("res_conv_3x3", "res_sep_conv_3x3", "res_sep_conv_3x3_d2", "res_sep_conv_3x3_d4"),
    *("inv_res_3x3_e2", "inv_res_3x3_e4", "fused_res_3x3_e2", "pool_gate", "pool_pyramid"),
)
PLACES = [
    OpSpec("conv_3x3", 3, 8, 17, 9, 2),
    OpSpec("conv_3x3", 4, 4, 9, 8),
    OpSpec("conv_1x1", 8, 4, 9, 8),
    OpSpec("sep_conv_3x3", 4, 4, 9, 8),
    OpSpec("sep_conv_3x3", 4, 4, 9, 8, 2),
    OpSpec("sep_conv_3x3_d2", 4, 4, 9, 8),
    OpSpec("sep_conv_3x3_d4", 4, 4, 9, 8),
    OpSpec("sep_conv_3x3_d8", 4, 4, 9, 8),
    OpSpec("max_pool_3x3", 4, 4, 9, 8),
    OpSpec("max_pool_3x3", 4, 4, 9, 8, 2),
    OpSpec("skip", 4, 4, 9, 8, 2),
    *(OpSpec(name, 4, 4, 9, 8, stride) for name in BLOCKS for stride in (1, 2)),
    OpSpec("classifier", 8, 3, 9, 8),
    OpSpec("add", 4, 4, 9, 8),
    OpSpec("concat", 4, 12, 9, 8),
    OpSpec("downsample", 4, 4, 9, 8, 2),
    OpSpec("upsample", 4, 4, 9, 8, 4),
    OpSpec("upsample_strided", 4, 4, 9, 8, 4),
    OpSpec("argmax", 3, 1, 9, 8),
    *(OpSpec(name, 4, 4, 9, 8, stride) for name in EXAMPLES for stride in (1, 2)),
]
DEPTHWISE = ("sep_conv_3x3", "sep_conv_3x3_d2", "sep_conv_3x3_d4", "sep_conv_3x3_d8")
REPEATED = {f"{name}/c4-4/9x8/s1/b1" for name in ("conv_3x3", "max_pool_3x3", *DEPTHWISE, *BLOCKS, *EXAMPLES)}
"""Those of `PLACES` that take one tensor and give one of its shape."""


def specs_of(name):
    return [spec for spec in SearchSpace.load(name).specs() if not is_free(spec)]


def entry_ms(spec, context, image=None):
    """What an entry comes out as under the law of the simulated device."""
    return sum(term.coefficient * law.workload_ms(term.workload) for term in list_terms(spec, context, image))


def test_every_operator_with_latency_is_tested():
    assert {spec.operator for spec in PLACES} == set(OPERATORS) - {"zero"}


class TestLaw:
    """Entries under the simulated device's law, for every operator of every preset."""

    @pytest.mark.parametrize("preset", PRESETS)
    def test_between_carriers_overhead_borders_and_carriers_cancel(self, preset):
        specs = specs_of(preset)
        image = find_image(specs)
        for spec in specs:
            assert entry_ms(spec, CARRIERS, image) == pytest.approx(law.exact_ms(spec), rel=1e-9), spec

    @pytest.mark.parametrize("preset", PRESETS)
    def test_isolated_entry_includes_overhead_and_borders(self, preset):
        for spec in specs_of(preset):
            borders = sum(law.border_ms(shape[1:]) for shape in input_shapes(spec))
            borders += law.border_ms(law.output_shape(spec))
            assert entry_ms(spec, ISOLATED) == pytest.approx(law.true_ms(spec) + law.OVERHEAD_MS + borders), spec

    @pytest.mark.parametrize("preset", PRESETS)
    def test_convolution_of_the_image_includes_half_overhead_and_input_border(self, preset):
        specs = [spec for spec in specs_of(preset) if spec.c_in == 3]
        height, width = image = SearchSpace.load(preset).input
        assert find_image(specs_of(preset)) == image
        assert {(spec.operator, spec.height, spec.width) for spec in specs} == {("conv_3x3", height, width)}
        for spec in specs:
            wanted = law.true_ms(spec) + law.OVERHEAD_MS / 2 + law.border_ms((3, height, width))
            assert entry_ms(spec, CARRIERS, image) == pytest.approx(wanted)
            assert entry_ms(spec, CARRIERS) == pytest.approx(law.true_ms(spec)), "the earlier protocol"

    def test_argmax_includes_half_overhead_and_output_border(self):
        spec = OpSpec("argmax", 3, 1, 9, 8)
        wanted = law.true_ms(spec) + law.OVERHEAD_MS / 2 + law.border_ms((1, 9, 8))
        assert entry_ms(spec, CARRIERS) == pytest.approx(wanted)

    def test_copies_divide_both_coefficients(self):
        """Copies divide the carriers' uncertainty."""
        spec = OpSpec("sep_conv_3x3", 4, 4, 9, 8)
        probe, passage = list_terms(spec, CARRIERS)
        assert (probe.coefficient, passage.coefficient) == (1 / COPIES, -1 / COPIES)


class TestGraphs:
    """The modules that are run."""

    @pytest.mark.parametrize("spec", PLACES, ids=str)
    def test_a_probe_is_the_operator_between_carriers(self, spec):
        term, *_ = list_terms(spec, CARRIERS)
        module = term.workload.build()
        inputs = input_shapes(spec)
        assert term.workload.input_shapes == inputs
        assert count_copies(spec) == len(module.operators) == (COPIES if str(spec) in REPEATED else 1)
        out = module(*(torch.from_numpy(x) for x in generate_inputs(inputs)))
        height, width = output_size(spec)
        assert tuple(out.shape) == ((1, height, width) if spec.operator == "argmax" else (1, spec.c_out, height, width))
        assert not module.training
        assert not any(isinstance(child, nn.BatchNorm2d) for child in module.modules())
        for carrier, shape in zip(module.before, inputs, strict=True):
            assert (carrier.conv.in_channels, carrier.conv.out_channels) == (shape[1], shape[1])
            assert carrier.conv.kernel_size == (1, 1)
        assert isinstance(module.behind, nn.Identity) == (spec.operator == "argmax")

    def test_convolution_of_the_image_has_no_carrier_in_front(self):
        probe, passage = list_terms(PLACES[0], CARRIERS, (17, 9))
        assert (probe.key, passage.key) == (f"image/{PLACES[0]}/x1", "carrier/c8/9x5/x1")
        module = probe.workload.build()
        (x,) = (torch.from_numpy(array) for array in generate_inputs(input_shapes(PLACES[0])))
        torch.testing.assert_close(module(x), module.behind(module.operators[0](x)))
        assert module.behind.conv.kernel_size == (1, 1)

    @pytest.mark.parametrize(
        "spec",
        [
            OpSpec("conv_3x3", 3, 3, 9, 5),  # deeper in the network
            OpSpec("conv_3x3", 4, 8, 17, 9, 2),
            OpSpec("max_pool_3x3", 3, 3, 17, 9),
        ],
        ids=str,
    )
    def test_other_operators_have_their_carriers(self, spec):
        found, wanted = ([term.key for term in list_terms(spec, CARRIERS, image)] for image in ((17, 9), None))
        assert found == wanted

    def test_argmax_of_one_channel_is_not_repeated(self):
        assert count_copies(OpSpec("argmax", 1, 1, 9, 8)) == 1

    def test_probe_computes_its_operators_in_sequence(self):
        spec = OpSpec("conv_3x3", 4, 4, 9, 8)
        module = list_terms(spec, CARRIERS)[0].workload.build()
        (x,) = (torch.from_numpy(array) for array in generate_inputs(input_shapes(spec)))
        (before,), (first, second, third) = module.before, module.operators
        torch.testing.assert_close(module(x), module.behind(third(second(first(before(x))))))

    def test_probe_has_a_carrier_per_input(self):
        spec = OpSpec("add", 4, 4, 9, 8)
        module = list_terms(spec, CARRIERS)[0].workload.build()
        x, y = (torch.from_numpy(array) for array in generate_inputs(input_shapes(spec)))
        a, b = (carrier(z) for carrier, z in zip(module.before, (x, y), strict=True))
        torch.testing.assert_close(module(x, y), module.behind(a + b))
        assert not torch.equal(module.before[0].conv.weight, module.before[1].conv.weight)

    def test_copies_have_weights_of_their_own(self):
        """Equal ones would be found in the caches."""
        first, second, third = list_terms(OpSpec("conv_3x3", 4, 4, 9, 8), CARRIERS)[0].workload.build().operators
        assert not torch.equal(first.conv.weight, second.conv.weight)
        assert not torch.equal(second.conv.weight, third.conv.weight)

    @pytest.mark.parametrize("spec", PLACES, ids=str)
    def test_baselines_are_carriers_of_inputs_and_output(self, spec):
        passages = {term.key: term for term in list_terms(spec, CARRIERS)[1:]}
        assert {term.kind for term in passages.values()} == {"carrier"}
        inputs = input_shapes(spec)
        _, channels, height, width = inputs[0]
        wanted = {f"carrier/c{channels}/{height}x{width}/x{len(inputs)}"}
        if spec.operator != "argmax":
            wanted.add("carrier/c{}/{}x{}/x1".format(*law.output_shape(spec)))
        assert set(passages) == wanted
        for term in passages.values():
            xs = [torch.from_numpy(x) for x in generate_inputs(term.workload.input_shapes)]
            outs = term.workload.build()(*xs)
            assert [tuple(out.shape) for out in (outs if isinstance(outs, tuple) else [outs])] == [
                tuple(x.shape) for x in xs
            ]
            convolutions = [m for m in term.workload.build().modules() if isinstance(m, nn.Conv2d)]
            assert len(convolutions) == 2 * len(xs)

    @pytest.mark.parametrize("spec", PLACES[:1], ids=str)
    def test_baselines_have_the_batch_of_the_probe(self, spec):
        for term in list_terms(replace(spec, batch=8), CARRIERS):
            assert {shape[0] for shape in term.workload.input_shapes} == {8}
            assert "/b8" in term.key

    @pytest.mark.parametrize("spec", [PLACES[0], PLACES[12], PLACES[13], PLACES[16]], ids=str)
    def test_runtimes_that_want_onnx_get_it(self, spec):
        for term in list_terms(spec, CARRIERS):
            assert len(term.workload.onnx) > 100

    def test_alone_is_the_operator_itself(self):
        spec = OpSpec("sep_conv_3x3", 4, 4, 9, 8)
        (term,) = list_terms(spec, ISOLATED)
        assert (term.key, term.kind, term.coefficient) == (f"alone/{spec}", "operator", 1.0)
        assert len([m for m in term.workload.build().modules() if isinstance(m, nn.Conv2d)]) == 2

    def test_keys_tell_what_is_run(self):
        keys = {
            term.key: term.workload for spec in PLACES for context in CONTEXTS for term in list_terms(spec, context)
        }
        assert all(workload.name == key for key, workload in keys.items())
        shapes = {key: workload.input_shapes for key, workload in keys.items()}
        again = {t.key: t.workload.input_shapes for spec in PLACES for c in CONTEXTS for t in list_terms(spec, c)}
        assert shapes == again


def test_an_unknown_context_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown context 'alone'; known: carriers, isolated"):
        list_terms(PLACES[0], "alone")


@pytest.fixture(params=[(CARRIERS, PROTOCOL), (CARRIERS, "interleaved-rounds"), (ISOLATED, PROTOCOL)], ids="-".join)
def registered(request, tmp_path, mini_space):
    context, name = request.param
    protocol = {"name": name, "context": context, "statistic": "minima"}
    with LatencyTable.create(tmp_path / "t.lut", Target("cpu", "torch"), mini_space, protocol, {}) as table:
        yield table, register_benchmarks(table, mini_space), protocol


def test_registered_table_has_terms_and_benchmarks(registered, mini_space):
    table, workloads, protocol = registered
    context, image = protocol["context"], mini_space.input if protocol["name"] == PROTOCOL else None
    for spec in mini_space.specs():
        wanted = {} if is_free(spec) else {term.key: term.coefficient for term in list_terms(spec, context, image)}
        assert table.components(spec) == wanted
    assert [subject.key for subject in table.benchmarks()] == list(workloads)
    assert {subject.status for subject in table.benchmarks()} == {"pending"}
    kinds = [subject.kind for subject in table.benchmarks()]
    assert kinds == sorted(kinds), "carriers come first: a budget that ends early then leaves whole entries"
    assert ("carrier" in kinds) == (context == CARRIERS)
    assert len(workloads) == len(set(workloads)) >= len(table.entries())


def test_registering_again_changes_nothing(registered, mini_space):
    table, workloads, _ = registered
    before = table.path.read_bytes()
    assert list(register_benchmarks(table, mini_space)) == list(workloads)
    assert table.path.read_bytes() == before
