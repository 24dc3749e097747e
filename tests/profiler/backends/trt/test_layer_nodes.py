"""ONNX nodes of a layer, from strings of TensorRT 8 to 11 and TensorRT-RTX."""

import json

import pytest

from lgc.profiler.backends.trt.layer_nodes import Layer, parse_log, parse_nodes, parse_report, select_fusions

LOG = """Layers:
Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: input_0, Dimensions: [1,3,8,8], Datatype: Float, Format: \
(Linear) Row major linear format }], Constants: [], Outputs: [ { Name: a.1_2_myl0, Dimensions: [1,3,8,8], Datatype: \
Half, Format: (NHWC) Channel major format }], TacticName: __myl_Move_0x54, StreamId: 0, Metadata:\x20
Name: /stem/conv/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: a.1_2_myl0, Datatype: Half }], Constants: [ { \
Name: c, Datatype: Float }], Outputs: [ { Name: b, Datatype: Half }], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: /stem/conv/Conv]\x1f[ONNX Layer: /stem/act/Relu]
Name: exit^bb^wait^3_myl0_126, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
EventId: 26, Metadata:\x20

I/O Tensors:
 Name: input_0, IOMode: Input, DataType: Float, Dimensions: [1,3,8,8], Location: Device
"""

LOG_10 = """Layers:
Name: Reformatting CopyNode for Input Tensor 0 to /a/Conv, LayerType: Reformat, Inputs: [ { Name: x, Location: Device, \
Dimensions: [1,3,8,8], Format/Datatype: Float }], Outputs: [ { Name: Reformatted Input Tensor 0 to /a/Conv, Location: \
Device, Dimensions: [1,3,8,8], Format/Datatype: Int8 }], ParameterType: Reformat, Origin: REFORMAT, TacticValue: \
0x00000000000003e8, StreamId: 0, Metadata:\x20
Name: /a/Conv + /a/Relu, LayerType: CaskConvolution, Inputs: [ { Name: x2, Location: Device, Dimensions: [1,3,8,8], \
Format/Datatype: Float }], Outputs: [ { Name: (Unnamed Layer* 3) [Shuffle]_output, Location: Device, Dimensions: \
[1,8,4,4], Format/Datatype: Half }], ParameterType: Convolution, Kernel: [3,3], PrePadding: [1,1], Stride: [2,2], \
Weights: {"Type": "Half", "Count": 216}, HasReLU: 1, TacticName: sm80_xmma_fprop_implicit_gemm, TacticValue: \
0x280b0ad3c23d8442, StreamId: 0, Metadata: [ONNX Layer: /a/Conv]\x1e[ONNX Layer: /a/Relu]
Name: __myl_MulSumAddCas_myl0_0, LayerType: kgen, Inputs: [ { Name: c, Dimensions: [10], Format/Datatype: Float }], \
Outputs: [ { Name: d, Dimensions: [1,10], Format/Datatype: BFloat16 }, { Name: e, Dimensions: [1], Format/Datatype: \
Float }], TacticName: __myl_MulSumAddCas_0xacf8, StreamId: 0, Metadata:\x20
Name: /b/Shape, LayerType: NoOp, Inputs: [ { Name: f, Format/Datatype: Half }], Outputs: [], TacticValue: 0x0, \
StreamId: 0, Metadata:\x20
"""
"""Log of a TensorRT 10 builder: the parameters of a layer are between its outputs and its tactic."""


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("/stem/conv/Conv", ["/stem/conv/Conv"]),
        ("Conv_0 + Relu_1", ["Conv_0", "Relu_1"]),
        ("/a/Conv + /a/Add + /a/Relu", ["/a/Conv", "/a/Add", "/a/Relu"]),
        ("/a/Conv || /b/Conv", ["/a/Conv", "/b/Conv"]),
        ("PWN(/a/Sigmoid, /a/Mul)", ["/a/Sigmoid", "/a/Mul"]),
        ("PWN(PWN(/a/Sigmoid), /a/Mul)", ["/a/Sigmoid", "/a/Mul"]),
        ("/a/Conv + PWN(PWN(/a/Sigmoid), PWN(/a/Mul))", ["/a/Conv", "/a/Sigmoid", "/a/Mul"]),
        ("PWN(/a/Sigmoid) + /a/Mul", ["/a/Sigmoid", "/a/Mul"]),
        ("0.weight + 0.weight_QuantizeLinear + /0/Conv", ["0.weight", "0.weight_QuantizeLinear", "/0/Conv"]),
        ("{ForeignNode[/a/Conv.../b/Relu]}", ["/a/Conv", "/b/Relu"]),
        ("{ForeignNode[/a/Conv...ONNXTRT_castHelper_99]}", ["/a/Conv"]),
        ("{ForeignNode[/a/Conv + /a/Relu.../b/Add]}", ["/a/Conv", "/a/Relu", "/b/Add"]),
        ("{ForeignNode[/a/Softmax]}", ["/a/Softmax"]),
        ("/0/Conv_myl0_1", ["/0/Conv"]),
        ("Reformatting CopyNode for Input Tensor 0 to /a/Conv + /a/Relu", []),
        ("__myl_CastReshCast_myl0_124", []),
        ("(Unnamed Layer* 3) [Constant] + (Unnamed Layer* 4) [Shuffle]", []),
        ("(Unnamed Layer* 3) [Constant] + /a/Mul", ["/a/Mul"]),
        ("ONNXTRT_Broadcast_12", []),
        ("[HostToDeviceCopy 0]", []),
        ("exit^bb^wait^3_myl0_126", []),
        ("Add_1 + Add_1", ["Add_1"]),
        ("", []),
    ],
)
def test_nodes_are_parsed_from_name(name, nodes):
    assert parse_nodes(name) == tuple(nodes)


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("[ONNX Layer: /a/Conv]", ["/a/Conv"]),
        ("[ONNX Layer: /a/Conv]\x1f[ONNX Layer: /a/Relu]", ["/a/Conv", "/a/Relu"]),
        ("[ONNX Layer: /a/Conv]\x1e[ONNX Layer: /b/Conv]\x1f[ONNX Layer: /b/Relu]", ["/a/Conv", "/b/Conv", "/b/Relu"]),
        ("[ONNX Layer: /a/Conv][ONNX Layer: /a/Relu]", ["/a/Conv", "/a/Relu"]),
        ("[ONNX Layer: /a/Conv]\x1f[ONNX Layer: /a/Conv]", ["/a/Conv"]),
        ("[ONNX Layer: blocks[0]/Conv]\x1f[ONNX Layer: blocks[1]/Conv]", ["blocks[0]/Conv", "blocks[1]/Conv"]),
        ("[ONNX Layer: a + b]", ["a + b"]),
    ],
)
def test_metadata_takes_precedence_over_name(metadata, nodes):
    assert parse_nodes("__myl_CorrAdd_myl0_7", metadata) == tuple(nodes)


def test_rtx_builder_log_is_parsed():
    move, conv, wait = parse_log(LOG)
    assert move == Layer("__myl_Move_myl0_0", "kgen", (), "__myl_Move_0x54", "fp16")
    assert conv == Layer(
        "/stem/conv/Conv_myl0_1", "correlation", ("/stem/conv/Conv", "/stem/act/Relu"), "__myelin_CASK_STUB", "fp16"
    )
    assert wait == Layer("exit^bb^wait^3_myl0_126", "wait")
    assert select_fusions((move, conv, wait)) == (conv,)


def test_full_tensorrt_log_is_parsed():
    copy, conv, kgen, empty = parse_log(LOG_10)
    assert copy.precision == "int8"
    assert conv == Layer(
        "/a/Conv + /a/Relu", "CaskConvolution", ("/a/Conv", "/a/Relu"), "sm80_xmma_fprop_implicit_gemm", "fp16"
    )
    assert (kgen.tactic, kgen.precision) == ("__myl_MulSumAddCas_0xacf8", "bf16")
    assert empty == Layer("/b/Shape", "NoOp", ("/b/Shape",))


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        ("Format/Datatype: Row major linear FP32", "fp32"),
        ("Format/Datatype: Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Format/Datatype: Half", "fp16"),
        ("Datatype: Half, Format: (Linear) Row major linear format", "fp16"),
        ("Format: (NHWC) Channel major format where channel % 8 == 0, Datatype: BFloat16", "bf16"),
        ("DataType: Int8, Format: (Linear) Row major linear format", "int8"),
        ("Datatype: UInt8, Format: (Linear) Row major linear format", ""),
    ],
)
def test_precision_is_parsed_from_log(tensor, precision):
    outputs = f"Outputs: [ {{ Name: y, Location: Device, Dimensions: [1,8], {tensor} }}, {{ Name: z, Datatype: Bool }}]"
    (parsed,) = parse_log(f"Layers:\nName: a, LayerType: CaskConvolution, Inputs: [], {outputs}, Stride: [2,2]\n")
    assert parsed.precision == precision


@pytest.mark.parametrize(
    ("datatype", "precision"),
    [
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Float", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("BFloat16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Row major Int8 format", "int8"),
        ("Half", "fp16"),
        ("Row major linear UINT8", ""),
        ("Int32", ""),
        ("Int64", ""),
    ],
)
def test_inspector_report_is_parsed(datatype, precision):
    layer = {
        "Name": "/a/Conv + /a/Relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 8], "Format/Datatype": datatype}],
        "TacticName": "sm80_xmma_fprop",
        "Metadata": "[ONNX Layer: /a/Conv]\x1f[ONNX Layer: /a/Relu]",
    }
    (parsed,) = parse_report(json.dumps({"Layers": [layer], "Bindings": ["x", "y"]}))
    nodes = ("/a/Conv", "/a/Relu")
    assert parsed == Layer("/a/Conv + /a/Relu", "CaskConvolution", nodes, "sm80_xmma_fprop", precision, (1, 8))
    assert not parsed.is_copy


def test_copy_between_formats_is_recognised():
    name = "Reformatting CopyNode for Input Tensor 0 to /a/Conv"
    (parsed,) = parse_report(json.dumps({"Layers": [{"Name": name, "LayerType": "Reformat", "Outputs": []}]}))
    assert (parsed.is_copy, parsed.nodes, parsed.shape) == (True, (), ())


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
@pytest.mark.parametrize(
    ("datatype", "precision"),
    [("Float", "fp32"), ("Half", "fp16"), ("BFloat16", "bf16"), ("Int8", "int8"), ("Bool", "")],
)
def test_tensorrt_11_report_is_parsed(key, datatype, precision):
    tensor = {
        "Name": "y",
        "Location": "Device",
        "Dimensions": [1, 8, 4, 4],
        "Format": "(NHWC) Channel major format where channel % 8 == 0",
        key: datatype,
    }
    layer = {
        "Name": "/a/Conv_myl0_1",
        "LayerType": "correlation",
        "Inputs": [{**tensor, "Name": "x", key: "Int32"}],
        "Outputs": [tensor],
        "TacticName": "__myelin_CASK_STUB",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: /a/Conv]\x1f[ONNX Layer: /a/Relu]",
    }
    ends = [{"Name": "x", "IOMode": "Input", "DataType": "Float", "IsShapeInferenceIO": False}]
    report = json.dumps({"Layers": [layer], "I/O Tensors": ends, "Engine Metadata": {"Multi-Device": "Disabled"}})
    for text in (report, report.replace("\\u001f", "\x1f")):
        (parsed,) = parse_report(text)
        nodes, shape = ("/a/Conv", "/a/Relu"), (1, 8, 4, 4)
        assert parsed == Layer("/a/Conv_myl0_1", "correlation", nodes, "__myelin_CASK_STUB", precision, shape)


def test_report_of_names_only_is_parsed():
    assert parse_report('{"Layers": ["Conv_0 + Relu_1", "Reformatting CopyNode for Output Tensor 0 to Conv_0"]}') == (
        Layer("Conv_0 + Relu_1", nodes=("Conv_0", "Relu_1")),
        Layer("Reformatting CopyNode for Output Tensor 0 to Conv_0"),
    )
    assert parse_report("{}") == ()
