import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lgc.models import LGCNet, SearchSpace
from lgc.models.nets.layers import ConvNormAct, _layer, build_module, fold_norms, is_foldable
from lgc.models.nets.network import DenseOutput, randomise_norms
from lgc.models.recipe import Conv, MaxPool, output_shape
from lgc.models.space.opspec import OpSpec


def with_random_norms(module, seed):
    """Randomise statistics, scales and shifts of all norms, as after training."""
    randomise_norms(module, seed)
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data = torch.randn(norm.num_features, generator=generator)
            norm.bias.data = torch.randn(norm.num_features, generator=generator)
    return module.eval()


@given(
    operator=st.sampled_from(["conv_3x3", "conv_1x1", "sep_conv_3x3_d2"]),
    channels=st.integers(1, 9),
    stride=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30)
def test_folding_preserves_output(operator, channels, stride, seed):
    module = with_random_norms(build_module(OpSpec(operator, channels, channels, 13, 18, stride)), seed)
    x = torch.randn(2, channels, 13, 18, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fold_norms(module)(x), module(x), atol=1e-5, rtol=1e-5)


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
@settings(max_examples=60)
def test_only_the_stride_changes_the_size(kernel, stride, dilation, blocks):
    even = any((dilation * (side - 1) + 1) % 2 == 0 for side in kernel)
    assume(stride > 1 or not even)
    layer = Conv(2, 3, kernel, stride, dilation)
    height, width = (stride * count for count in blocks)
    for size in ((height, width), *(() if even else ((height + 1, width + stride - 1),))):
        shape = output_shape((layer,), (2, *size))
        assert shape == (3, -(-size[0] // stride), -(-size[1] // stride))
        assert _layer(layer)(torch.zeros(2, 2, *size)).shape[1:] == shape
    assume(kernel[0] == kernel[1] and (kernel[0] % 2 or stride > 1))
    pooled = _layer(MaxPool(kernel[0], stride))(torch.zeros(1, 2, height, width))
    assert pooled.shape == (1, 2, *blocks)


def test_patch_embedding_reads_each_pixel_once():
    """A 2x2 convolution of stride 2 has no padding."""
    conv = _layer(Conv(1, 1, 2, 2, plain=True))
    conv.weight.data.fill_(1)
    conv.bias.data.zero_()
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    torch.testing.assert_close(conv(x), 4 * nn.functional.avg_pool2d(x, 2))


def test_folding_copies_network_and_preserves_output(mini_space):
    torch.manual_seed(0)
    network = with_random_norms(LGCNet(mini_space, mini_space.sample(3)), 0).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    light = fold_norms(network)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(isinstance(child, nn.BatchNorm2d) for child in light.modules())
    assert not any(parameter.requires_grad for parameter in light.parameters())
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(light(x), network.eval()(x), atol=1e-5, rtol=1e-5)


def test_folding_is_idempotent():
    layer = with_random_norms(build_module(OpSpec("conv_3x3", 4, 4, 8, 8)), 1)
    assert isinstance(layer, ConvNormAct)
    once = fold_norms(layer)
    assert all(map(torch.equal, once.parameters(), fold_norms(once).parameters()))


def make_sequence(conv=None, norm=None):
    conv = nn.Conv2d(3, 4, 3) if conv is None else conv
    return nn.Sequential(conv, nn.BatchNorm2d(4) if norm is None else norm, nn.ReLU())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "norms"),
    [
        (nn.utils.spectral_norm, 0),
        (nn.utils.weight_norm, 0),
        (nn.utils.parametrizations.spectral_norm, 0),
        (nn.utils.parametrizations.weight_norm, 0),
        (lambda conv: nn.BatchNorm2d(4, track_running_stats=False), 1),
        (lambda conv: nn.BatchNorm2d(4, affine=False), 0),
    ],
    ids=["spectral", "weight", "spectral parametrisation", "weight parametrisation", "no statistics", "no scale"],
)
def test_folding_of_special_layers_preserves_output(wrap, norms):
    with torch.no_grad():
        layer = wrap(nn.Conv2d(3, 4, 3))
    module = make_sequence(norm=layer) if isinstance(layer, nn.BatchNorm2d) else make_sequence(layer)
    randomise_norms(module.eval(), 0)
    folded, x = fold_norms(module), torch.randn(1, 3, 8, 8)
    assert sum(isinstance(child, nn.BatchNorm2d) for child in folded.modules()) == norms
    assert not any("orig" in name for name in folded.state_dict()), "computed weights are plain"
    torch.testing.assert_close(folded(x), module(x), atol=1e-5, rtol=1e-5)


class Tapped(nn.Module):
    """Reads the convolution's output before its normalisation."""

    def __init__(self):
        super().__init__()
        self.layers = make_sequence()

    def forward(self, x):
        return {"out": self.layers(x), "tap": 0.1 * self.layers[0](x)}


def test_tapped_convolution_is_not_foldable():
    tapped = Tapped()
    before = {name: value.clone() for name, value in tapped.state_dict().items()}
    assert not is_foldable(tapped, [(1, 3, 8, 8)])
    assert is_foldable(tapped.layers, [(1, 3, 8, 8)])
    assert is_foldable(nn.Conv2d(3, 4, 3), [])
    assert not is_foldable(tapped, [(1, 5, 8, 8)]), "fails on this input"
    assert tapped.training
    assert all(torch.equal(value, before[name]) for name, value in tapped.state_dict().items())
    assert isinstance(fold_norms(tapped, sequences=False).layers[1], nn.BatchNorm2d)


def test_hooked_layers_stay_unfolded():
    module = make_sequence()
    module[0].register_forward_hook(lambda module, args, output: None)
    assert isinstance(fold_norms(module)[1], nn.BatchNorm2d)


@pytest.mark.parametrize("size", [(64, 64), (128, 192), (192, 256)])
def test_network_accepts_crops_of_whole_strides(size):
    space = SearchSpace.load("tiny")
    network = DenseOutput(LGCNet(space, space.sample(0)), space.plan.dense).eval()
    with torch.inference_mode():
        assert tuple(network(torch.zeros(1, 3, *size)).shape) == (1, *size)


def test_seed_determines_random_statistics():
    first, second, other = (nn.Sequential(nn.BatchNorm2d(5)) for _ in range(3))
    for module, seed in ((first, 1), (second, 1), (other, 2)):
        randomise_norms(module, seed)
    assert torch.equal(first[0].running_var, second[0].running_var)
    assert not torch.equal(first[0].running_var, other[0].running_var)
    assert bool((first[0].running_var > 0).all())
