"""Any ONNX file becomes a self-contained model with static shapes that computes the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from lgc.errors import FileFormatError, UsageError
from lgc.models.onnx.model import OnnxModel
from lgc.models.onnx.tensors import generate_array

from ... import onnx_files as files

SIZE, MACS, PARAMETERS = files.SIZE, 8 * 27 * 96 + 4 * 8 * 96, 8 * 27 + 8 + 4 * 8


def run(model, feeds):
    """Return name -> output of a file or of bytes, without optimisations, which depend on what is constant."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


SAME = {
    "static": (files.make, {}),
    "dynamic": (files.dynamic, {"input_size": SIZE}),
    "batch": (lambda: files.dynamic(("n", 3, *SIZE), ("n", 4, 8, 12)), {}),
    "unnamed axes": (files.unnamed_axes, {"input_size": SIZE}),
    "all axes dynamic": (lambda: files.dynamic(("n", "c", "h", "w")), {"input_size": SIZE}),
    "channels last": (lambda: files.channels_last(("n", "h", "w", 3)), {"input_size": SIZE}),
    "one output": (lambda: files.two_outputs(("n", 3, "h", "w")), {"input_size": SIZE, "output": "main"}),
    "weights as inputs": (files.weights_as_inputs, {}),
    "weights as inputs, later": (lambda: files.weights_as_inputs(ir=8), {}),
    "constants": (files.constants, {}),
    "function": (files.with_function, {}),
    "branch": (files.branch, {}),
    "branch, cut": (files.branch, {"output": "y"}),
    "stale shape": (files.stale_shape, {}),
    "computed shape": (files.reshaped, {}),
    "float16": (lambda: files.half(keep_io=False), {}),
    "float16 inside": (lambda: files.half(keep_io=True), {}),
    "pixels": (files.pixels, {}),
    "tokens": (files.tokens, {}),
    **{f"opset {opset}": ((lambda opset=opset: files.old(opset)), {}) for opset in range(7, 13)},
}


@pytest.mark.parametrize("kind", SAME)
def test_model_computes_the_same_as_file(kind, tmp_path):
    make, options = SAME[kind]
    path = files.save(make(), tmp_path / "m.onnx")
    model = OnnxModel.load(path, **options)
    rng = np.random.default_rng(1)
    feeds = {spec.name: generate_array(rng, spec.shape, spec.dtype) for spec in model.inputs}
    expected, actual = run(path, feeds), run(model.data, feeds)
    for spec in model.outputs:
        assert spec.shape == actual[spec.name].shape
        assert spec.dtype == actual[spec.name].dtype
        np.testing.assert_array_equal(actual[spec.name], expected[spec.name])
    assert OnnxModel.parse(model.data, "again").outputs == model.outputs


@pytest.mark.parametrize("kind", ["dynamic", "QDQ", "QOperator"])
def test_quantised_file_is_int8_and_counted(kind, tmp_path):
    path = files.quantise(tmp_path, kind)
    model = OnnxModel.load(path)
    assert (model.precision, model.quantisation, model.is_quantised) == ("int8", kind, True)
    assert (model.costs.macs, model.costs.uncounted) == (MACS, ())
    assert model.costs.parameters == PARAMETERS
    feeds = {"x": np.ones(files.IMAGE, np.float32)}
    np.testing.assert_array_equal(run(model.data, feeds)["y"], run(path, feeds)["y"])


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (files.make, "fp32"),
        (files.constants, "fp32"),
        (files.stored_as_half, "fp32"),
        (lambda: files.half(keep_io=True), "fp16"),
        (lambda: files.half(keep_io=False), "fp16"),
    ],
)
def test_precision_is_that_of_the_computation(make, precision, tmp_path):
    model = OnnxModel.load(files.save(make(), tmp_path / "m.onnx"))
    assert (model.precision, model.quantisation) == (precision, None)
    assert (model.costs.parameters, model.costs.macs) == (PARAMETERS, MACS)


def test_partly_quantised_file_is_remarked(tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, path = files.save(files.make(), tmp_path / "plain.onnx"), tmp_path / "m.onnx"
    options = {"op_types_to_quantize": ["Conv"], "nodes_to_exclude": ["last"], "weight_type": QuantType.QUInt8}
    quantize_dynamic(source, path, **options)
    assert OnnxModel.load(path).remarks == ("13 % of the multiply-accumulates are not quantised",)
    quantize_dynamic(source, path, **{**options, "nodes_to_exclude": []})
    assert OnnxModel.load(path).remarks == ()


def quantised_net(places):
    """Return the small network with Q/DQ before the tensors in `places`, `x`, `w1`, `r`, `w2` or `y`."""
    weights = files.WEIGHTS | {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    nodes = []
    for node in files.net_nodes(y="y_float" if "y" in places else "y"):
        pairs = [name for name in node.input if name in places]
        for name in pairs:
            nodes += [
                helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
                helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]),
            ]
        inputs = [f"{name}_d" if name in pairs else name for name in node.input]
        node.input[:] = inputs
        nodes.append(node)
    kind = onnx.TensorProto.FLOAT
    if "y" in places:
        nodes.append(helper.make_node("QuantizeLinear", ["y_float", "s", "z"], ["y"]))
        kind = onnx.TensorProto.INT8
    return files.make(nodes, outputs=[files.value("y", (1, 4, 8, 12), kind)], weights=weights)


@pytest.mark.parametrize(
    ("places", "precision", "remarks"),
    [
        (("x", "w1", "r", "w2"), "int8", ()),
        (("x", "w1"), "int8", ("13 % of the multiply-accumulates are not quantised",)),
        (("r", "w2"), "fp32", ("mixed precision, multiply-accumulates 87 % in fp32, 13 % in int8: called fp32",)),
        (("x", "r"), "fp32", ("quantises values, but computes all products in fp32",)),
        (("y",), "fp32", ("quantises values, but computes all products in fp32",)),
    ],
)
def test_products_of_quantised_factors_are_int8(places, precision, remarks, tmp_path):
    """Activations between Q and DQ alone leave a product in float, as does a quantised output."""
    model = OnnxModel.load(files.save(quantised_net(places), tmp_path / "m.onnx"))
    assert (model.precision, model.remarks) == (precision, remarks)
    assert (model.costs.parameters, model.costs.macs) == (PARAMETERS, MACS)
    assert model.is_quantised


def test_pooling_between_quantised_tensors_stays_int8(tmp_path):
    model = quantised_net(("x", "w1", "r", "w2"))
    place = next(index for index, node in enumerate(model.graph.node) if node.name == "last")
    model.graph.node.insert(place, helper.make_node("MaxPool", ["r_d"], ["p"], kernel_shape=[1, 1]))
    model.graph.node[place + 1].input[0] = "p"
    assert OnnxModel.load(files.save(model, tmp_path / "m.onnx")).remarks == ()


@pytest.mark.parametrize("stored", ["input", "weight"])
def test_only_stored_weights_are_called_so(stored, tmp_path):
    """A quantised image is no quantised weight."""
    scale = {"s": np.array(0.1, np.float32)}
    name, target = ("x", "f") if stored == "input" else ("w1_q", "w1")
    dequantise = helper.make_node("DequantizeLinear", [name, "s"], [target])
    if stored == "input":
        inputs = [files.value("x", files.IMAGE, onnx.TensorProto.UINT8)]
        model = files.make([dequantise, *files.net_nodes("f")], inputs, weights=files.WEIGHTS | scale)
    else:
        rest = {key: array for key, array in files.WEIGHTS.items() if key != "w1"}
        model = files.make([dequantise, *files.net_nodes()],
                           weights=rest | scale | {"w1_q": np.ones((8, 3, 3, 3), np.int8)})  # fmt: skip
    loaded = OnnxModel.load(files.save(model, tmp_path / "m.onnx"))
    assert (loaded.precision, loaded.quantisation) == ("fp32", None)
    expected = () if stored == "input" else ("only weights are quantised, for storage: it computes in fp32",)
    assert loaded.remarks == expected


def test_mixed_precision_is_remarked(tmp_path):
    model = files.half(keep_io=True)
    model.graph.node[3].input[1] = "w2f"
    model.graph.initializer.append(files.tensor("w2f", files.WEIGHTS["w2"]))
    model.graph.node.insert(3, helper.make_node("Cast", ["r"], ["rf"], to=files.FLOAT))
    model.graph.node[4].input[0], model.graph.node[4].output[0] = "rf", "y"
    del model.graph.node[5]
    mixed = OnnxModel.load(files.save(model, tmp_path / "m.onnx"))
    assert mixed.precision == "fp16"
    assert "mixed precision, multiply-accumulates 87 % in fp16, 13 % in fp32: called fp16" in mixed.remarks


def test_float64_is_refused(tmp_path):
    weights = {"w": np.ones((24, 5))}
    double = onnx.TensorProto.DOUBLE
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = files.make(nodes, [files.value("x", (1, 24), double)], [files.value("y", (1, 5), double)], weights)
    with pytest.raises(FileFormatError, match="computes in float64"):
        OnnxModel.load(files.save(model, tmp_path / "m.onnx"))


def test_what_was_bound_is_remarked(tmp_path):
    path = files.save(files.dynamic(), tmp_path / "m.onnx")
    assert OnnxModel.load(path, input_size=(32, 48)).remarks == ("input x [n, 3, h, w] bound to 1x3x32x48",)
    assert OnnxModel.load(files.save(files.make(), path)).remarks == ()


def test_unchanged_file_keeps_its_bytes(tmp_path):
    path = files.save(files.make(), tmp_path / "m.onnx")
    assert OnnxModel.load(path, input_size=SIZE).data == path.read_bytes()


def test_several_outputs_are_all_kept(tmp_path):
    model = OnnxModel.load(files.save(files.two_outputs(), tmp_path / "m.onnx"))
    assert [tensor.name for tensor in model.outputs] == ["aux", "main"]
    assert "computes all 2 outputs: aux float32 1x4x8x12 (auxiliary logits?), main" in model.remarks[0]
    with pytest.raises(UsageError, match=r"has 2 outputs: aux .*choose one with --output-name NAME"):
        _ = model.output


def test_custom_operators_are_named(tmp_path):
    node = helper.make_node("Magic", ["z"], ["y"], domain="vendor")
    path = files.save(files.make([*files.net_nodes(y="z"), node], domains=["vendor"]), tmp_path / "m.onnx")
    assert OnnxModel.load(path).remarks == ("not every backend runs its custom operators: vendor::Magic",)
    model = files.make([*files.net_nodes(y="z"), node], outputs=[files.value("y", ("a", "b"))], domains=["vendor"])
    with pytest.raises(FileFormatError, match=r"ONNX Runtime rejects the model.*custom operators: vendor::Magic"):
        OnnxModel.load(files.save(model, path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (files.make().SerializeToString()[:-100], "or truncated"),
        (b"PK\x03\x04" + bytes(600), "a zip archive, perhaps a torch checkpoint"),
        (b"\x18\0\0\0ORTM" + bytes(600), "ONNX Runtime's own format"),
        (b"", "an empty file"),
        (b"\x08\x08", "no operators"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        OnnxModel.load(path)


def test_invalid_graph_is_refused(tmp_path):
    model = files.make()
    model.graph.node[1].op_type = "Reelu"
    with pytest.raises(FileFormatError, match="invalid ONNX model: No Op registered for Reelu"):
        OnnxModel.load(files.save(model, tmp_path / "m.onnx"))


def test_weight_without_data_is_named(tmp_path):
    model = files.make()
    name = model.graph.initializer[0].name
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(FileFormatError, match=f"invalid ONNX model: weight {name} has no data$"):
        OnnxModel.load(files.save(model, tmp_path / "m.onnx"))


def test_newer_format_names_the_fix(tmp_path):
    with pytest.raises(FileFormatError, match=r"ir_version 99 is higher than .*: export it with an older IR version"):
        OnnxModel.load(files.save(files.make(ir=99), tmp_path / "m.onnx"))


def test_checker_is_quoted_to_the_end(tmp_path):
    model = files.make()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], nodes[2]])
    (remark,) = OnnxModel.load(files.save(model, tmp_path / "m.onnx")).remarks
    assert remark.endswith("input 'a' of node: name: relu OpType: Relu is not output of any previous nodes.")


def test_stale_shape_is_corrected_with_remark(tmp_path):
    model = OnnxModel.load(files.save(files.stale_shape(), tmp_path / "m.onnx"))
    assert model.outputs[0].shape == (1, 4, 8, 12)
    assert "although ONNX's checker reports" in model.remarks[0]


def test_shape_dependent_on_the_image_is_refused(tmp_path):
    nodes = [*files.net_nodes(y="z"), helper.make_node("NonZero", ["r"], ["y"])]
    model = files.make(nodes, outputs=[files.value("y", ("n", "m"), onnx.TensorProto.INT64)])
    with pytest.raises(FileFormatError, match="the shape of output y depends on the values of the input"):
        OnnxModel.load(files.save(model, tmp_path / "m.onnx"))


@pytest.mark.parametrize("is_static", [False, True])
def test_size_as_input_must_be_a_constant(is_static, tmp_path):
    """Random sizes, 0 and 1, are no sizes."""
    nodes = [
        *files.net_nodes(y="z"),
        helper.make_node("Concat", ["channels", "size"], ["sizes"], axis=0),
        helper.make_node("Resize", ["z", "", "", "sizes"], ["y"]),
    ]
    inputs = [files.value("x", files.IMAGE), files.value("size", (2,), onnx.TensorProto.INT64)]
    outputs = [files.value("y", (1, 4, *files.SIZE) if is_static else (1, 4, "h", "w"))]
    model = files.make(nodes, inputs, outputs, files.WEIGHTS | {"channels": np.array([1, 4])})
    path = files.save(model, tmp_path / "m.onnx")
    if is_static:
        (remark,) = OnnxModel.load(path).remarks
        assert remark == "input size int64 2 gets random 0 and 1: if it is a size, make it a constant of the model"
        return
    with pytest.raises(FileFormatError, match="needs values of input size, not random 0 and 1: make it a constant"):
        OnnxModel.load(path)


def test_sequence_output_asks_for_a_tensor(tmp_path):
    nodes = [*files.net_nodes(), helper.make_node("SequenceConstruct", ["y"], ["s"])]
    sequence = helper.make_tensor_sequence_value_info("s", files.FLOAT, None)
    model = files.make(nodes, outputs=[sequence, files.value("y", (1, 4, 8, 12))])
    path = files.save(model, tmp_path / "m.onnx")
    with pytest.raises(
        FileFormatError, match="output s is a sequence, not a tensor: choose a tensor with --output-name: y"
    ):
        OnnxModel.load(path)
    assert OnnxModel.load(path, output="y").outputs[0].name == "y"


@pytest.mark.parametrize(
    ("kind", "domain", "outcome"),
    [
        ("FLOAT8E4M3FN", "", "quantised to float8e4m3fn, which no backend supports"),
        ("UINT16", "", "quantised to uint16, which counts as int8"),
        ("UINT16", "com.microsoft", "quantised to uint16, which counts as int8"),
        ("INT8", "com.microsoft", None),
    ],
)
def test_other_widths_than_8_bits_are_said(kind, domain, outcome, tmp_path):
    code = getattr(onnx.TensorProto, kind)
    zero = helper.make_tensor("zero", code, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], domain=domain),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], domain=domain),
        *files.net_nodes("d"),
    ]
    weights = files.WEIGHTS | {"scale": np.array(0.1, np.float32)}
    model = files.make(nodes, weights=weights, opset=21, ir=10, domains=[domain] if domain else ())
    model.graph.initializer.append(zero)
    path = files.save(model, tmp_path / "m.onnx")
    if kind.startswith("FLOAT8"):
        with pytest.raises(FileFormatError, match=outcome):
            OnnxModel.load(path)
    else:
        remarks = [remark for remark in OnnxModel.load(path).remarks if remark.startswith("quantised to")]
        assert remarks == ([outcome] if outcome else [])


@pytest.mark.parametrize("function", ["load_model_from_string", "shape_inference.infer_shapes", "checker.check_model"])
def test_short_memory_is_no_file_fault(function, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    data = files.make().SerializeToString()
    monkeypatch.setattr(f"onnx.{function}", fail)
    with pytest.raises(MemoryError):
        OnnxModel.parse(data, "m")
