"""Networks whose outputs would silently be read as something else: order, values, names and sizes of outputs."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lgc.errors import PluginError
from lgc.models.nets.checks import OutputReport, check_outputs, check_training
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.outputs import UNKNOWN_ACTIVATION, ActivationMarks, find_activation
from lgc.models.nets.sources import FactorySource

from ...user_networks import Toy

CLASSES = 4


class Two(Toy):
    """Logits of two heads, which subclasses return in different ways."""

    def forward(self, x: Tensor) -> object:
        feature = self.body(x)
        return self.combine(self.head(feature), self.side(feature), x)


class SwappedInTraining(Two):
    def combine(self, main, aux, x):
        return (aux, main) if self.training else (main, main.softmax(1))


class DropPath(nn.Module):
    def forward(self, x):
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5) if self.training else x


class SwappedWithDropPath(SwappedInTraining):
    def __init__(self, classes):
        super().__init__(classes)
        self.head = nn.Sequential(self.head, DropPath())


class UpsampledInEvaluation(Two):
    def combine(self, main, aux, x):
        resized = F.interpolate(main, size=x.shape[2:], mode="bilinear", align_corners=True)
        return (aux, main) if self.training else resized


class SoftmaxInEvaluation(Two):
    def combine(self, main, aux, x):
        return (aux, main) if self.training else main.softmax(1)


class Beside(Two):
    def combine(self, main, aux, x):
        features = {"features": aux, "positive": aux.relu(), "cropped": aux[:, :, 2:-2, 2:-2]}
        return {"logits": main, "prob": main.softmax(1), "side": aux, **features}


class AuxiliaryFirst(Two):
    def combine(self, main, aux, x):
        return [aux, main]


class EdgeFirst(Two):
    def combine(self, main, aux, x):
        return aux.mean(1, keepdim=True), main


class Single(Two):
    """The main output alone, which subclasses change."""

    def combine(self, main, aux, x):
        return self.change(main)


class Squashed(Single):
    change = staticmethod(torch.sigmoid)


class Cropped(Single):
    def change(self, y):
        return y[:, :, 1:-1, 1:-1]


class Padded(Single):
    def change(self, y):
        return F.pad(y, (0, 8, 0, 16))


class Transposed(Single):
    def change(self, y):
        return y.transpose(2, 3)


class ChannelsLast(Single):
    def change(self, y):
        return y.permute(0, 2, 3, 1)


class OneChannel(Single):
    def change(self, y):
        return y[:, :1]


class ChangesInput(Toy):
    def forward(self, x):
        x -= 0.1
        return self.head(self.body(x))


class HookClosure(Single):
    def __init__(self, classes):
        super().__init__(classes)
        self.kept = {}
        self.body.register_forward_hook(lambda module, args, output: self.kept.__setitem__("body", output))

    def change(self, y):
        return y + self.kept["body"].mean(1, keepdim=True)


def define(factory, size=(32, 48)) -> NetworkDefinition:
    return NetworkDefinition(FactorySource(factory, f"mine.py:{factory.__name__}", ""), size, CLASSES)


def train(factory, size=(32, 48)) -> OutputReport:
    definition = define(factory, size)
    return check_training(definition.build(), definition, 2, None)


@pytest.mark.parametrize(
    "factory", [SwappedInTraining, SwappedWithDropPath, UpsampledInEvaluation, SoftmaxInEvaluation]
)
def test_main_output_equals_the_evaluated(factory):
    report = train(factory)
    assert (report.main, report.auxiliary) == ("1", ("0",))


def test_probabilities_in_evaluation_are_reported():
    definition = define(SoftmaxInEvaluation)
    assert train(SoftmaxInEvaluation).format_warnings() == []
    (warning,) = check_outputs(definition.build(), definition).format_warnings(" in evaluation mode")
    assert "main output in evaluation mode looks like probabilities (0 to 1)" in warning
    assert "remove softmax" in warning


def test_sigmoid_is_reported():
    assert "looks like probabilities (0 to 1), but" in train(Squashed).format_warnings()[0]


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(1, 4, 2, 2),
        3 * torch.rand(1, 4, 2, 2),
        -torch.rand(1, 4, 2, 2),
    ],
)
def test_logits_have_no_activation(values):
    assert find_activation(values) == ""


@pytest.mark.parametrize("values", [0.9 * torch.rand(1, 2, 8, 8), torch.tensor([0.5, 0.51]).reshape(1, 2, 1, 1)])
def test_unmarked_values_may_be_probabilities(values):
    assert find_activation(values) == UNKNOWN_ACTIVATION


class Scaled(Single):
    def change(self, y):
        return y.abs() / (1 + y.abs().max())


def test_values_like_probabilities_are_reported():
    (warning,) = train(Scaled).format_warnings()
    assert "looks like probabilities (0 to 1), but" in warning
    assert warning.endswith(": if forward ends in an activation, remove it")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_sigmoid_in_compiled_forward_is_reported():
    class Compiled(Single):
        change = staticmethod(torch.compile(torch.sigmoid, backend="eager"))

    assert train(Compiled).activation == "sigmoid"


def paste(values: Tensor) -> Tensor:
    """Return a copy, put together from two halves."""
    whole = torch.zeros_like(values)
    whole[..., :4] = values[..., :4]
    whole[..., 4:] += values[..., 4:]
    return whole


@pytest.mark.parametrize(
    ("function", "activation"),
    [
        (torch.sigmoid, "sigmoid"),
        (lambda y: nn.Upsample(scale_factor=2)(y.sigmoid())[:, :, 1:].contiguous(), "sigmoid"),
        (lambda y: torch.cat([F.hardsigmoid(y[:, :1]), torch.special.expit(y[:, 1:])], 1), "hardsigmoid"),
        (lambda y: F.avg_pool2d(y.sigmoid(), 3, 1, 1), "sigmoid"),
        (lambda y: (y.sigmoid() + y.flip(3).sigmoid().flip(3)) / 2, "sigmoid"),
        (lambda y: 0.5 * y.sigmoid() + 0.5 * F.interpolate(y[..., ::2].sigmoid(), size=y.shape[2:]), "sigmoid"),
        (lambda y: torch.cat([part.clone().sigmoid_() for part in y.split(2, 1)], 1).clip(0, 1), "sigmoid"),
        (lambda y: torch.cat(y.sigmoid().chunk(2, 1), 1), "sigmoid"),
        (lambda y: y.sigmoid() * torch.ones_like(y[:, :1]), "sigmoid"),
        (lambda y: torch.maximum(y[:, :1].detach().clamp(0, 0), y.sigmoid()), "sigmoid"),
        (lambda y: F.pad(y.sigmoid(), (1, 1, 1, 1)), "sigmoid"),
        (lambda y: paste(y.sigmoid()), "sigmoid"),
        (lambda y: (y.tanh() + 1) / 2, "tanh"),
        (lambda y: F.relu6(y) / 6, "relu6"),
        (lambda y: F.conv2d(y.sigmoid(), torch.full((3, 3, 1, 1), 0.1)), UNKNOWN_ACTIVATION),
        (lambda y: F.linear(y.sigmoid(), torch.full((8, 8), 0.1)), UNKNOWN_ACTIVATION),
        (lambda y: 0.1 * y.sigmoid() @ torch.ones(8, 8), UNKNOWN_ACTIVATION),
        (lambda y: -0.1 * y.sigmoid().log(), UNKNOWN_ACTIVATION),
        (lambda y: y.sigmoid().logit(), ""),
        (lambda y: F.batch_norm(y.sigmoid(), None, None, training=True), ""),
        (lambda y: F.interpolate(y.softmax(1), scale_factor=2.0, mode="bilinear"), "softmax"),
        (lambda y: y * y.sigmoid(), ""),
        (lambda y: y.abs() / (1 + y.abs().max()), UNKNOWN_ACTIVATION),
    ],
)
@pytest.mark.parametrize("grad", [True, False])
def test_activation_is_seen_in_the_calls(function, activation, grad):
    """Logits of a random or small head may all lie in 0..1."""
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=grad)
    with ActivationMarks():
        values = function(logits)
    assert find_activation(values) == activation


def test_outputs_beside_logits_are_not_trained():
    report = train(Beside)
    assert (report.main, report.auxiliary) == ("logits", ("side",))
    assert report.ignored == (
        "prob [2, 4, 16, 24] (no negative values)",
        "features [2, 4, 16, 24] (features by its name)",
        "positive [2, 4, 16, 24] (no negative values)",
        "cropped [2, 4, 12, 20] (not the area of images 32x48)",
    )


def test_assumed_main_output_names_the_option():
    assert train(AuxiliaryFirst).format_remarks(0.4)[0] == (
        "main output: 0 (position, from 0); another one: --output-name NAME"
    )


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Cropped, "logits of 14x22 for images of 32x48: no whole stride divides both sides so"),
        (Padded, "logits of 32x32 for images of 32x48"),
        (Transposed, "logits of 24x16 for images of 32x48"),
        (ChannelsLast, r"its output \[2, 16, 24, 4\] has the channels last: .*permute\(0, 3, 1, 2\)"),
        (OneChannel, "returned 1 channels for 4 classes: a single channel cannot hold them"),
        (EdgeFirst, "its main output is 0, but 1 would fit: choose with --output-name 1"),
        (ChangesInput, "changes its input in place, .* use x = x - y"),
        (HookClosure, "a copy of it fails, .*KeyError: 'body'.*: let hooks use the module that they get"),
    ],
)
def test_wrong_outputs_are_refused(factory, message):
    with pytest.raises(PluginError, match=message):
        train(factory)


def test_swapped_axes_of_square_images_are_refused():
    definition = define(Transposed, (32, 32))
    with pytest.raises(PluginError, match="logits of 16x8 for an image of 16x32: height and width are swapped"):
        check_outputs(definition.build(), definition)


class NumpyWeights(Single):
    def __init__(self, classes):
        super().__init__(classes)
        self.seed()
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(np.random.standard_normal(self.head.weight.shape)))
            self.head.bias.fill_(random.random())

    def seed(self):
        """Leave the generators as they are."""

    def change(self, y):
        return y


class OwnSeed(NumpyWeights):
    def seed(self):
        np.random.seed(time.perf_counter_ns() % 2**32)


class OwnEntropy(NumpyWeights):
    def seed(self):
        np.random.seed()


def test_numpy_and_python_draw_initial_weights():
    train(NumpyWeights)
    random.seed(3)
    np.random.seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist()
    first, again, other = (define(NumpyWeights).build(seed).head for seed in (0, 0, 1))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    for name in ("weight", "bias"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("network", [OwnSeed, OwnEntropy])
def test_unseeded_initial_weights_are_refused(network):
    with pytest.raises(
        PluginError, match=r"different initial values of head.weight, .* draw random numbers with torch"
    ):
        train(network)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torchscript_is_refused():
    with pytest.raises(PluginError, match=r"mine.py:build returns TorchScript, .* without torch.jit"):
        FactorySource(lambda classes: torch.jit.script(nn.Conv2d(3, classes, 1)), "mine.py:build", "").build(4)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_hooked_weight_norms_are_accepted():
    class Normalised(Single):
        def __init__(self, classes):
            super().__init__(classes)
            self.head = nn.utils.weight_norm(self.head)

        def change(self, y):
            return y

    assert train(Normalised).auxiliary == ()


def test_disabled_gradients_are_named():
    torch.set_grad_enabled(False)
    try:
        with pytest.raises(PluginError, match="gradients are disabled"):
            train(Single)
    finally:
        torch.set_grad_enabled(True)
