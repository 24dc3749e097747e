"""Export of the user's modules: code that tracing would freeze is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lgc.errors import PluginError
from lgc.models.nets.outputs import MainOutput
from lgc.models.onnx.tracing import export_checked

from ... import user_networks

SHAPE = (1, 3, 32, 32)


def export(name):
    torch.manual_seed(0)
    module = MainOutput(getattr(user_networks, name)(11)).eval()
    return module, export_checked(module, SHAPE, "float32", name)


@pytest.mark.parametrize("name", ["Toy", "Tied", "Asserting"])
def test_exported_network_computes_the_same(name):
    module, model = export(name)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).standard_normal(SHAPE, dtype=np.float32)
    (logits,) = session.run(None, {"input_0": image})
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(torch.from_numpy(image)).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Branch", "if y.mean() > 0:"),
        ("Number", "return y * float(x.max())"),
        ("Array", "return y * torch.from_numpy(x.numpy().max(keepdims=True))"),
        ("Values", "return y * x.flatten()[:1].tolist()[0]"),
    ],
)
def test_reading_values_of_the_image_is_refused(name, line):
    with pytest.raises(PluginError) as caught:
        export(name)
    source = user_networks.__file__
    number = [text.strip() for text in Path(source).read_text().splitlines()].index(line) + 1
    assert f"{name} cannot be exported: {source}, line {number}, `{line}`" in str(caught.value)


def test_random_outputs_are_refused():
    with pytest.raises(PluginError, match="different outputs for the same image"):
        export("Random")


def test_unsupported_operator_is_named():
    with pytest.raises(PluginError, match=r"Unsupported cannot be exported to ONNX: .*aten::special_erfcx"):
        export("Unsupported")
