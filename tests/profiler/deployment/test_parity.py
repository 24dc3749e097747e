"""Parity with torch: real networks, files and backends."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from lgc.errors import DataError, MeasurementError, UnknownNameError
from lgc.lut import Target
from lgc.models import LGCNet
from lgc.models.images import Normalisation, normalise_image
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.onnx.export import simplify
from lgc.models.space.protocol import CORE, DENSE
from lgc.profiler.backends import get_backend
from lgc.profiler.backends.base import generate_inputs
from lgc.profiler.backends.precision import cast_model
from lgc.profiler.deployment import parity
from lgc.profiler.deployment.network import Network
from lgc.profiler.deployment.parity import (
    IMAGES,
    MAX_ABS_DIFF,
    RANDOM,
    ROUNDINGS,
    TOLERANCES,
    Parity,
    compare_backend,
    compare_file,
    compare_outputs,
    compute_file_outputs,
    compute_reference,
    compute_runner_outputs,
    is_within_tolerance,
    random_inputs,
)
from lgc.profiler.timing.workloads import image_input, network_module, network_workload

ORT = Target("cpu", "onnxruntime")


def exported(architecture, scope, weights=None):
    return simplify(network_workload(architecture, scope, weights).onnx)


def compare(architecture, weights, inputs, source, convert=lambda model: model, exports=None):
    """Compare a network's files in scopes core and dense, each passed through `convert`."""
    reference = compute_reference(network_module(architecture, "dense", weights), inputs, source)
    core, dense = (
        compute_file_outputs(convert(exported(architecture, scope, exports or weights)), reference.tensors)
        for scope in ("core", "dense")
    )
    return compare_outputs(reference, dense, core)


def noise(space):
    return generate_inputs((image_input(space.input, "core")[0],))


@pytest.mark.parametrize("seed", range(3))
def test_fp32_files_of_random_weights_pass(mini_space, seed):
    parity = compare(mini_space.sample(seed), None, noise(mini_space), RANDOM)
    assert parity.max_abs_diff <= 1e-5
    assert parity.images == 1
    assert is_within_tolerance("fp32", parity, trained=False)


def test_every_precision_passes_on_images(trained):
    inputs = [normalise_image(frame) for frame in trained.unseen]
    full, half = (
        compare(trained.architecture, trained.weights, inputs, IMAGES, lambda model, to=to: cast_model(model, to))
        for to in ("fp32", "fp16")
    )
    assert (full.source, full.images) == ("images", len(inputs))
    assert full.max_abs_diff <= 1e-4
    assert full.argmax_agreement_pct >= 99.99
    assert is_within_tolerance("fp32", full)
    assert half.max_abs_diff > 1e-4
    assert half.mean_abs_diff < half.max_abs_diff
    assert half.argmax_agreement_pct >= 99.9
    assert is_within_tolerance("fp16", half)
    assert not is_within_tolerance("fp32", half)


def test_other_weights_fail_in_every_precision(trained):
    torch.manual_seed(7)
    other = LGCNet(trained.architecture.space, trained.architecture).state_dict()
    inputs = [normalise_image(frame) for frame in trained.unseen[:2]]
    parity = compare(trained.architecture, trained.weights, inputs, IMAGES, exports=other)
    assert parity.relative_diff > 0.3
    for precision in TOLERANCES:
        assert not is_within_tolerance(precision, parity)
        assert not is_within_tolerance(precision, parity, trained=False)


def test_end_to_end_is_compared_on_bytes(trained):
    architecture, weights = trained.architecture, trained.weights
    reference = compute_reference(network_module(architecture, "dense", weights), trained.unseen, IMAGES)
    frames = compute_file_outputs(exported(architecture, "end-to-end", weights), reference.inputs)
    logits = compute_file_outputs(exported(architecture, "core", weights), reference.tensors)
    assert frames[0].dtype == np.uint8
    parity = compare_outputs(reference, frames, logits)
    assert is_within_tolerance("fp32", parity)
    assert parity.argmax_agreement_pct >= 99.99
    assert compare_outputs(reference, frames).max_abs_diff is None
    mirrored = compute_file_outputs(
        exported(architecture, "end-to-end", weights), [frame[..., ::-1].copy() for frame in reference.inputs]
    )
    assert not is_within_tolerance("fp32", compare_outputs(reference, mirrored)), "BGR instead of RGB fails"


def test_timed_program_of_backends_passes(mini_space, cpu_backend):
    architecture, target = mini_space.sample(2), Target("cpu", cpu_backend.name)
    reference = compute_reference(network_module(architecture, "dense"), noise(mini_space) * 2, RANDOM)
    core, dense = (
        compute_runner_outputs(cpu_backend, network_workload(architecture, scope), target, reference.tensors)
        for scope in ("core", "dense")
    )
    parity = compare_outputs(reference, dense, core)
    assert is_within_tolerance("fp32", parity, trained=False)
    assert parity.images == 2


def test_file_is_compared_image_by_image(trained, monkeypatch):
    """The numbers are those of all images together, but logits of few are held."""
    network = Network(trained.architecture, trained.weights, CORE)
    images = [normalise_image(frame) for frame in trained.unseen]
    reference = compute_reference(network.reference(DENSE), images, IMAGES)
    outputs = [compute_file_outputs(network.model("fp32", scope), images) for scope in (DENSE, CORE)]
    alive, counts = [], []

    def record(*arguments):
        made = compute_reference(*arguments)
        alive.extend(map(weakref.ref, made.logits))
        counts.append(sum(each() is not None for each in alive))
        return made

    monkeypatch.setattr(parity, "compute_reference", record)
    assert compare_file(network, "fp32", images, IMAGES) == compare_outputs(reference, *outputs)
    assert (len(counts), max(counts)) == (len(images), 2), "this one and the last"


def test_random_inputs_have_the_range_of_images(mini_space):
    """int8 clips others, so that a network of pixels in 0..255 would fail."""
    definition = NetworkDefinition.of(mini_space.sample(0))
    plain = random_inputs(Network(definition, None, CORE))[0]
    assert np.array_equal(plain, noise(mini_space)[0])
    pixels = replace(definition, normalisation=Normalisation((0.0,) * 3, (1 / 255,) * 3))
    means = random_inputs(Network(pixels, None, CORE))[0].mean((0, 2, 3))
    np.testing.assert_allclose(means, (123.7, 116.3, 103.5), atol=8)
    assert random_inputs(Network(pixels, None, "end-to-end"))[0].dtype == np.uint8


def test_differences_are_measured(mini_space):
    reference = compute_reference(network_module(mini_space.sample(2), "dense"), noise(mini_space), RANDOM)
    logits, labels = reference.logits[0].copy(), reference.labels[0].copy()
    logits.flat[:2] += 0.5, -0.25
    labels.flat[: labels.size // 4] += 1
    parity = compare_outputs(reference, [labels], [logits])
    assert parity.max_abs_diff == pytest.approx(0.5, rel=1e-4)
    assert parity.mean_abs_diff == pytest.approx(0.75 / logits.size, rel=1e-4)
    assert parity.relative_diff == pytest.approx(parity.mean_abs_diff / reference.logits[0].std(), rel=1e-4)
    assert parity.argmax_agreement_pct == pytest.approx(75)


def test_wrong_shapes_and_numbers_are_rejected(mini_space):
    whole = network_module(mini_space.sample(2), "dense")
    reference = compute_reference(whole, noise(mini_space), RANDOM)
    labels, logits = list(reference.labels), list(reference.logits)
    with pytest.raises(MeasurementError, match=r"classes have shapes .*\(1, 1, 32\).*, torch.s .*\(1, 32, 32\)"):
        compare_outputs(reference, [labels[0][:, :1]], logits)
    with pytest.raises(MeasurementError, match="logits have shapes"):
        compare_outputs(reference, labels, logits * 2)
    with pytest.raises(MeasurementError, match="not finite"):
        compare_outputs(reference, labels, [logits[0] * np.inf])
    with pytest.raises(DataError, match="no images to compare"):
        compute_reference(whole, [], IMAGES)
    with pytest.raises(MeasurementError, match="ONNX Runtime rejects net: "):
        compute_file_outputs(cast_model(exported(mini_space.sample(2), "core"), "bf16"), reference.tensors, "net")


def make_parity(max_abs_diff, relative_diff, pct, source):
    return Parity(max_abs_diff, relative_diff, relative_diff, pct, 1, source)


def test_differences_up_to_twice_the_rounding_error():
    large = Parity(0.2, 0.05, 1e-6, 100, 1, RANDOM)
    assert is_within_tolerance("fp32", replace(large, rounding=0.1))
    assert not is_within_tolerance("fp32", replace(large, rounding=0.09))
    assert not is_within_tolerance("fp32", large)


def test_rounding_error_of_large_logits_is_measured(mini_space):
    """Weights a million times too large: right outputs pass, those of other weights do not."""
    architecture = mini_space.sample(2)
    torch.manual_seed(3)
    weights = LGCNet(architecture.space, architecture).state_dict()
    large = {
        name: tensor * 1e6 if name.startswith("head.") and tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    network = Network(architecture, large, "core")
    right = compare_backend(network, get_backend("onnxruntime"), ORT)
    wrong = compare_backend(network, WrongWeights(architecture), ORT)
    assert right.max_abs_diff > MAX_ABS_DIFF
    assert 0 < right.max_abs_diff <= ROUNDINGS * right.rounding
    assert is_within_tolerance("fp32", right)
    assert not is_within_tolerance("fp32", wrong)


def test_tolerances():
    assert not is_within_tolerance("fp32", make_parity(1.1e-4, 0.0, 100, IMAGES))
    assert not is_within_tolerance("fp32", make_parity(1e-5, 0.0, 99.8, RANDOM), trained=False)
    assert not is_within_tolerance("fp16", make_parity(1e-2, 2e-4, 99.89, IMAGES))
    assert is_within_tolerance("fp16", make_parity(1e-2, 2e-4, 99.89, IMAGES), trained=False)
    assert not is_within_tolerance("fp16", make_parity(1e-2, 2e-4, 98.9, RANDOM))
    assert not is_within_tolerance("fp16", make_parity(None, None, 98.9, RANDOM), trained=False), (
        "only classes were compared"
    )
    assert not is_within_tolerance("fp16", make_parity(1e-2, 3e-3, 100, IMAGES), trained=False)
    assert not is_within_tolerance("int8", make_parity(0.5, 0.02, 97.9, IMAGES))
    assert is_within_tolerance("int8", make_parity(0.5, 0.02, 98.0, IMAGES))
    assert is_within_tolerance("int8", make_parity(0.5, 0.05, 90, RANDOM))
    assert not is_within_tolerance("int8", make_parity(0.5, 0.11, 100, RANDOM))
    with pytest.raises(UnknownNameError, match="unknown precision 'int4'"):
        is_within_tolerance("int4", make_parity(0.5, 0.11, 100, RANDOM))


class WrongWeights:
    """Backend that runs the network with other weights."""

    def __init__(self, architecture) -> None:
        torch.manual_seed(77)
        self._network = Network(architecture, LGCNet(architecture.space, architecture).state_dict(), "core")
        self._scopes = iter(("dense", "core"))

    def compile(self, workload, target):
        return get_backend("onnxruntime").compile(self._network.workload(next(self._scopes)), target)


def test_backend_with_wrong_weights_fails(mini_space):
    network = Network(mini_space.sample(2), None, "core")
    right = compare_backend(network, get_backend("onnxruntime"), ORT)
    wrong = compare_backend(network, WrongWeights(network.architecture), ORT)
    assert is_within_tolerance("fp32", right, trained=False)
    assert not is_within_tolerance("fp32", wrong, trained=False)
