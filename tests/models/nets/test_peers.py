"""Peers: their costs are the published ones, and they fold, export and run like our own networks."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lgc
from lgc.errors import UnknownNameError, UsageError
from lgc.models.nets.layers import ConvNormAct, fold_norms
from lgc.models.nets.network import randomise_norms
from lgc.models.nets.peers import LOGITS_STRIDE, PEERS, build_peer
from lgc.models.nets.peers.common import conv_norm
from lgc.models.nets.peers.fastscnn import grid_average
from lgc.models.nets.peers.stdc import STDC1
from lgc.models.onnx.costs import count_costs
from lgc.models.onnx.export import simplify, to_onnx

TOLERANCE = 0.02
SIZE = (128, 256)
STANDING_NORMS = {"bisenetv2": 1, "ddrnet-23-slim": 12, "pidnet-s": 9, "stdc1-seg": 0, "fast-scnn": 0}
"""Norms in front of a convolution, which cannot be folded: context modules, heads, BiSeNetV2's global average."""

WITHOUT_NORMS = ("fast-scnn",)
"""Published without the norms' numbers: 1.11 M are Fast-SCNN's convolutions to the digit, with norms it has 1.14 M."""


class Stdc1Classifier(nn.Module):
    """STDC1 as its published figures count it: with its classifier for ImageNet."""

    def __init__(self):
        super().__init__()
        self.backbone = STDC1()
        self.last = conv_norm(1024, 1024, 1)
        self.linear = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 1000, bias=False))

    def forward(self, x):
        return self.linear(self.last(self.backbone(x)[-1]).mean((2, 3)))


def on_meta(make):
    with torch.device("meta"):
        return make().eval()


def parameters(module, *, norms=True):
    skipped = set() if norms else {id(p) for m in norms_of(module) for p in m.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in skipped)


def norms_of(module):
    return [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]


def macs(module, size):
    """Multiply-accumulates of convolutions and linear layers, of a module on the meta device."""
    counts = []

    def count(layer, _, output):
        weights = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_features
        counts.append(output.numel() * weights)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    module(torch.empty(1, 3, *size, device="meta"))
    return sum(counts)


def counted(name):
    """The network in the form in which its published figures count it."""
    return on_meta(lambda: build_peer(name) if PEERS[name].published.whole else Stdc1Classifier())


def peer(name, classes=19):
    """A peer whose norms all do something, as after training."""
    torch.manual_seed(0)
    network = build_peer(name, classes)
    randomise_norms(network, 0)
    for norm in norms_of(network):
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
    return network


@pytest.mark.parametrize("name", [name for name, found in PEERS.items() if found.published.parameters])
def test_parameters_are_the_published_ones(name):
    ours = parameters(counted(name), norms=name not in WITHOUT_NORMS)
    assert ours == pytest.approx(PEERS[name].published.parameters, rel=TOLERANCE)


@pytest.mark.parametrize("name", [name for name, found in PEERS.items() if found.published.macs])
def test_macs_are_the_published_ones(name):
    published = PEERS[name].published
    assert macs(counted(name), published.size) == pytest.approx(published.macs, rel=TOLERANCE)


def test_what_is_not_published_stays_as_it_is():
    """No figure of the authors to hold these against: they are ours, here to be noticed when they change."""
    assert parameters(counted("bisenetv2")) == 5_223_043
    assert macs(counted("fast-scnn"), (1024, 2048)) == 6_709_649_408
    whole = on_meta(lambda: build_peer("stdc1-seg"))
    assert parameters(whole) == 8_275_104
    assert macs(whole, (512, 1024)) == 16_863_133_696


@pytest.mark.parametrize("size", [(512, 1024), (1024, 2048), (720, 960), (769, 1537), (32, 32), (97, 161)])
@pytest.mark.parametrize("name", PEERS)
def test_logits_come_at_stride_8_for_images_of_any_size(name, size):
    network = on_meta(lambda: build_peer(name, classes=11))
    logits = network(torch.empty(2, 3, *size, device="meta"))
    assert tuple(logits.shape) == (2, 11, -(-size[0] // LOGITS_STRIDE), -(-size[1] // LOGITS_STRIDE))


@pytest.mark.parametrize("name", PEERS)
def test_folding_changes_no_output_and_leaves_only_what_stands_before_a_convolution(name):
    network = peer(name)
    light = fold_norms(network)
    assert not any(isinstance(child, ConvNormAct) and norms_of(child) for child in light.modules())
    assert len(norms_of(light)) == STANDING_NORMS[name]
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(light(x), expected, atol=1e-4, rtol=1e-4)
    assert tuple(expected.shape) == (1, 19, SIZE[0] // LOGITS_STRIDE, SIZE[1] // LOGITS_STRIDE)
    assert expected.std() > 1e-2, "an output of one value would agree with anything"


@pytest.mark.parametrize("size", [(64, 128), (97, 161)])
@pytest.mark.parametrize("name", PEERS)
def test_the_exported_graph_computes_the_same(name, size):
    light = fold_norms(peer(name))
    model = simplify(to_onnx(light, [(1, 3, *size)]))
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_0": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), light(x), atol=1e-4, rtol=1e-4)
    graph = onnx.load_model_from_string(model).graph
    assert not {"Shape", "Gather", "Slice", "Unsqueeze"} & {node.op_type for node in graph.node}, "shapes are static"
    standing = sum(node.op_type == "BatchNormalization" for node in graph.node)
    assert standing == STANDING_NORMS[name]


@pytest.mark.parametrize("name", PEERS)
def test_the_count_in_the_graph_is_the_count_in_the_module(name):
    exported = count_costs(to_onnx(fold_norms(build_peer(name)), [(1, 3, *SIZE)]))
    assert exported.macs == pytest.approx(macs(on_meta(lambda: build_peer(name)), SIZE), rel=TOLERANCE)
    assert not exported.uncounted


@pytest.mark.parametrize("size", [(6, 12), (16, 32), (25, 49), (1, 1)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_averages_over_a_grid_are_adaptive_pooling(size, bins):
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(grid_average(x, bins), F.adaptive_avg_pool2d(x, bins))


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 3, 64, 16), (1, 4, 64, 64)])
@pytest.mark.parametrize("name", PEERS)
def test_images_that_do_not_fit_are_refused(name, shape):
    with pytest.raises(UsageError, match=r"3 channels, 32x32 pixels or more .*multiples of 1.*not of \d channels"):
        on_meta(lambda: build_peer(name))(torch.empty(shape, device="meta"))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="did you mean 'pidnet-s'") as caught:
        build_peer("pidnet")
    assert all(name in str(caught.value) for name in PEERS)


def test_the_registry_does_not_import_torch():
    code = (
        "import sys; from lgc.models.nets.peers import PEERS; assert len(PEERS) == 5; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PEERS)
def test_what_is_published_is_complete_and_on_its_page(name):
    found = PEERS[name]
    assert found.name == name
    assert re.fullmatch(r"\d{4}\.\d{5}", found.paper)
    assert found.published.parameters or found.published.macs
    assert found.published.source
    assert found.published.counted
    assert found.published.frame_rates
    page = (Path(lgc.__file__).parent / "docs" / "peers.md").read_text()
    assert f"arXiv {found.paper}" in page
    for rate in found.published.frame_rates:
        assert all([rate.fps > 0, rate.gpu, rate.backend, rate.source, rate.miou_test])
        assert (
            f"| {found.title} | {rate.fps:g} | {rate.gpu} | {rate.backend} | {'x'.join(map(str, rate.input))}" in page
        )
