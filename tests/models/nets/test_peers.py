"""Peers: costs match the published ones; folding, export and execution work as for our networks."""

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
from lgc.models.onnx.counting.costs import count_costs
from lgc.models.onnx.export import simplify, to_onnx

TOLERANCE = 0.02
SIZE = (128, 256)
PRECEDING_NORMS = {"bisenetv2": 1, "ddrnet-23-slim": 12, "pidnet-s": 9, "stdc1-seg": 0, "fast-scnn": 0}
"""Norms before a convolution, which cannot be folded: context modules, heads, BiSeNetV2's global average."""

WITHOUT_NORMS = ("fast-scnn",)
"""Published without norms: Fast-SCNN's convolutions have 1.11 M parameters, with norms it has 1.14 M."""


class Stdc1Classifier(nn.Module):
    """STDC1 with its ImageNet classifier, the network of the published figures."""

    def __init__(self):
        super().__init__()
        self.backbone = STDC1()
        self.last = conv_norm(1024, 1024, 1)
        self.linear = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 1000, bias=False))

    def forward(self, x):
        return self.linear(self.last(self.backbone(x)[-1]).mean((2, 3)))


def build_on_meta(make):
    with torch.device("meta"):
        return make().eval()


def parameters(module, *, norms=True):
    skipped = set() if norms else {id(p) for m in batch_norms(module) for p in m.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in skipped)


def batch_norms(module):
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


def published_form(name):
    """Return the network that the published figures count."""
    return build_on_meta(lambda: build_peer(name) if PEERS[name].published.whole else Stdc1Classifier())


def peer(name, classes=19):
    """Return a peer with random norms, as after training."""
    torch.manual_seed(0)
    network = build_peer(name, classes)
    randomise_norms(network, 0)
    for norm in batch_norms(network):
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.normal_(norm.bias, std=0.1)
    return network


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.published.parameters])
def test_parameters_match_published_number(name):
    ours = parameters(published_form(name), norms=name not in WITHOUT_NORMS)
    assert ours == pytest.approx(PEERS[name].published.parameters, rel=TOLERANCE)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.published.macs])
def test_macs_match_published_number(name):
    published = PEERS[name].published
    assert macs(published_form(name), published.size) == pytest.approx(published.macs, rel=TOLERANCE)


def test_unpublished_costs_are_unchanged():
    """Regression values of our own; the authors published no figures."""
    assert parameters(published_form("bisenetv2")) == 5_223_043
    assert macs(published_form("fast-scnn"), (1024, 2048)) == 6_709_649_408
    whole = build_on_meta(lambda: build_peer("stdc1-seg"))
    assert parameters(whole) == 8_275_104
    assert macs(whole, (512, 1024)) == 16_863_133_696


@pytest.mark.parametrize("size", [(512, 1024), (1024, 2048), (720, 960), (769, 1537), (32, 32), (97, 161)])
@pytest.mark.parametrize("name", PEERS)
def test_logits_stride_is_8_at_any_size(name, size):
    network = build_on_meta(lambda: build_peer(name, classes=11))
    logits = network(torch.empty(2, 3, *size, device="meta"))
    assert tuple(logits.shape) == (2, 11, -(-size[0] // LOGITS_STRIDE), -(-size[1] // LOGITS_STRIDE))


@pytest.mark.parametrize("name", PEERS)
def test_folding_preserves_output_and_preceding_norms(name):
    network = peer(name)
    light = fold_norms(network)
    assert not any(isinstance(child, ConvNormAct) and batch_norms(child) for child in light.modules())
    assert len(batch_norms(light)) == PRECEDING_NORMS[name]
    x = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(light(x), expected, atol=1e-4, rtol=1e-4)
    assert tuple(expected.shape) == (1, 19, SIZE[0] // LOGITS_STRIDE, SIZE[1] // LOGITS_STRIDE)
    assert expected.std() > 1e-2, "a constant output would always agree"


@pytest.mark.parametrize("size", [(64, 128), (97, 161)])
@pytest.mark.parametrize("name", PEERS)
def test_exported_graph_computes_same_logits(name, size):
    light = fold_norms(peer(name))
    model = simplify(to_onnx(light, [(1, 3, *size)]))
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input_0": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), light(x), atol=1e-4, rtol=1e-4)
    graph = onnx.load_model_from_string(model).graph
    assert not {"Shape", "Gather", "Slice", "Unsqueeze"} & {node.op_type for node in graph.node}, "dynamic shapes"
    batch_norms_in_graph = sum(node.op_type == "BatchNormalization" for node in graph.node)
    assert batch_norms_in_graph == PRECEDING_NORMS[name]


@pytest.mark.parametrize("name", PEERS)
def test_graph_macs_match_module_macs(name):
    exported = count_costs(to_onnx(fold_norms(build_peer(name)), [(1, 3, *SIZE)]))
    assert exported.macs == pytest.approx(macs(build_on_meta(lambda: build_peer(name)), SIZE), rel=TOLERANCE)
    assert not exported.uncounted


@pytest.mark.parametrize("size", [(6, 12), (16, 32), (25, 49), (1, 1)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_grid_average_equals_adaptive_pooling(size, bins):
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(grid_average(x, bins), F.adaptive_avg_pool2d(x, bins))


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 3, 64, 16), (1, 4, 64, 64)])
@pytest.mark.parametrize("name", PEERS)
def test_unsupported_images_are_rejected(name, shape):
    with pytest.raises(UsageError, match=r"needs images of 3 channels and at least 32x32 pixels, got \d channels"):
        build_on_meta(lambda: build_peer(name))(torch.empty(shape, device="meta"))


def test_unknown_peer_lists_known_peers():
    with pytest.raises(UnknownNameError, match="did you mean 'pidnet-s'") as caught:
        build_peer("pidnet")
    assert all(name in str(caught.value) for name in PEERS)


def test_registry_imports_no_torch():
    code = (
        "import sys; from lgc.models.nets.peers import PEERS; assert len(PEERS) == 5; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", PEERS)
def test_published_figures_are_complete_and_documented(name):
    entry = PEERS[name]
    assert entry.name == name
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.paper)
    assert entry.published.parameters or entry.published.macs
    assert entry.published.source
    assert entry.published.counted
    assert entry.published.frame_rates
    page = (Path(lgc.__file__).parent / "docs" / "peers.md").read_text()
    assert f"arXiv {entry.paper}" in page
    for rate in entry.published.frame_rates:
        assert all([rate.fps > 0, rate.gpu, rate.backend, rate.source, rate.miou_test])
        assert (
            f"| {entry.title} | {rate.fps:g} | {rate.gpu} | {rate.backend} | {'x'.join(map(str, rate.input))}" in page
        )
