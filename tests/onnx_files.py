"""Small ONNX files of every kind, as other programs write them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (16, 24)
IMAGE = (1, 3, *SIZE)
FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w1": RNG.standard_normal((8, 3, 3, 3), np.float32),
    "b1": RNG.standard_normal(8, np.float32),
    "w2": RNG.standard_normal((4, 8, 1, 1), np.float32),
}


def value(name, shape, dtype=FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def net_nodes(x="x", y="y"):
    """Return convolution, ReLU, convolution of stride 2."""
    return [
        helper.make_node("Conv", [x, "w1", "b1"], ["a"], name="first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], [y], name="last"),
    ]


def make(nodes=None, inputs=None, outputs=None, weights=None, *, opset=17, ir=8, domains=(), **options):
    """Return a model; by default a small network of static shapes."""
    arrays = WEIGHTS if weights is None else weights
    graph = helper.make_graph(
        net_nodes() if nodes is None else nodes,
        "graph",
        [value("x", IMAGE)] if inputs is None else inputs,
        [value("y", (1, 4, SIZE[0] // 2, SIZE[1] // 2))] if outputs is None else outputs,
        [tensor(name, array) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, **options)


def save(model, path, **options):
    onnx.save(model, path, **options)
    return path


def dynamic(shape=("n", 3, "h", "w"), out=("n", 4, "h2", "w2")):
    return make(inputs=[value("x", shape)], outputs=[value("y", out)])


def unnamed_axes():
    """Return a model whose dynamic axes have no names, or a length of -1."""
    model = dynamic((1, 3, None, None), (None, None, None, None))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = -1
    return model


def channels_last(shape=(1, *SIZE, 3)):
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), *net_nodes("t")]
    out = (1, 4, 8, 12) if "h" not in shape else ("n", 4, "h2", "w2")
    return make(nodes, [value("x", shape)], [value("y", out)])


def weights_as_inputs(ir=3):
    model = make(opset=7, ir=ir)
    model.graph.input.extend(value(name, array.shape) for name, array in WEIGHTS.items())
    return model


def constants():
    """Return a model whose weights are nodes."""
    nodes = [helper.make_node("Constant", [], [name], value=tensor(name, array)) for name, array in WEIGHTS.items()]
    return make([*nodes, *net_nodes()], weights={})


def old(opset):
    """Return a model of an old operator set, with its own form of an enlargement."""
    factors = {"s": np.array([1, 1, 2, 2], np.float32)}
    if opset < 9:
        node = helper.make_node("Upsample", ["z"], ["y"], scales=[1.0, 1.0, 2.0, 2.0])
        factors = {}
    elif opset < 11:
        node = helper.make_node("Upsample" if opset < 10 else "Resize", ["z", "s"], ["y"])
    else:
        node = helper.make_node("Resize", ["z", "roi", "s"], ["y"])
        factors["roi"] = np.zeros(0, np.float32)
    return make([*net_nodes(y="z"), node], outputs=[value("y", (1, 4, *SIZE))], weights=WEIGHTS | factors,
                opset=opset, ir=4)  # fmt: skip


def two_outputs(shape=IMAGE):
    nodes = [*net_nodes(y="main"), helper.make_node("Conv", ["r", "w2"], ["aux"], name="head")]
    out = ("n", 4, "h2", "w2") if "n" in shape else (1, 4, 8, 12)
    return make(nodes, [value("x", shape)], [value("aux", out), value("main", out)])


def with_function():
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["b", "b"], ["c"])]
    function = helper.make_function("own", "Twice", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("Twice", ["z"], ["y"], domain="own")
    return make([*net_nodes(y="z"), call], domains=["own"], functions=[function])


def branch():
    """Return a model with an `If` whose branches use weights of the outer graph."""
    out = value("o", (1, 4, 8, 12))
    then = helper.make_graph([helper.make_node("Conv", ["r", "w2"], ["o"])], "then", [], [out])
    other = helper.make_graph([helper.make_node("Conv", ["r", "w3"], ["o"])], "else", [], [out])
    nodes = [*net_nodes()[:2], helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    return make(nodes, weights=WEIGHTS | {"w3": -WEIGHTS["w2"], "c": np.array(True)})


def stale_shape():
    """Return a model that declares an output of another size than it computes."""
    return make(outputs=[value("y", (1, 4, 99, 99))])


def reshaped():
    """Return a model whose shape inference fails: its output's shape is computed from values."""
    nodes = [
        *net_nodes(y="z"),
        helper.make_node("Shape", ["z"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "k"], ["g"]),
        helper.make_node("Cast", ["g"], ["i"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["z", "i"], ["y"]),
    ]
    weights = WEIGHTS | {"k": np.array([1, 1, 2, 0.5], np.float32)}
    return make(nodes, outputs=[value("y", ("a", "b", "c", "d"))], weights=weights)


def half(keep_io):
    """Return a model in float16, with float32 inputs and outputs or not."""
    weights = {name: array.astype(np.float16) for name, array in WEIGHTS.items()}
    if not keep_io:
        return make(None, [value("x", IMAGE, TensorProto.FLOAT16)],
                    [value("y", (1, 4, 8, 12), TensorProto.FLOAT16)], weights)  # fmt: skip
    casts = (helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
             helper.make_node("Cast", ["yh"], ["y"], to=FLOAT))  # fmt: skip
    return make([casts[0], *net_nodes("xh", "yh"), casts[1]], weights=weights)


def stored_as_half():
    """Return a model with weights in float16 that are cast to float32: it computes in float32."""
    weights = {f"{name}_half": array.astype(np.float16) for name, array in WEIGHTS.items()}
    casts = [helper.make_node("Cast", [f"{name}_half"], [name], to=FLOAT) for name in WEIGHTS]
    return make([*casts, *net_nodes()], weights=weights)


def pixels():
    """Return a model of uint8 pixels, channels first."""
    cast = helper.make_node("Cast", ["x"], ["f"], to=FLOAT)
    return make([cast, *net_nodes("f")], [value("x", IMAGE, TensorProto.UINT8)])


def tokens():
    """Return a model without images: indices and a mask."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Mul", ["e", "mask"], ["m"]),
        helper.make_node("MatMul", ["m", "w"], ["y"]),
    ]
    inputs = [value("ids", (1, 5), TensorProto.INT64), value("mask", (1, 5, 1))]
    weights = {"table": np.ones((2, 8), np.float32), "w": np.ones((8, 3), np.float32)}
    return make(nodes, inputs, [value("y", (1, 5, 3))], weights)


def quantise(folder, kind, model=None, nodes=None):
    """Return a file quantised by ONNX Runtime: `dynamic`, `QDQ` or `QOperator`; of `nodes` only, if given."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    source, path = save(make() if model is None else model, folder / "plain.onnx"), folder / f"{kind}.onnx"
    if kind == "dynamic":
        from onnxruntime.quantization import QuantType

        quantize_dynamic(source, path, op_types_to_quantize=["Conv"], weight_type=QuantType.QUInt8)
        return path

    class Reader(CalibrationDataReader):
        images = iter([{"x": RNG.standard_normal(IMAGE, np.float32)}])

        def get_next(self):
            return next(self.images, None)

    quantize_static(source, path, Reader(), quant_format=QuantFormat[kind], nodes_to_quantize=nodes)
    return path


def residual():
    """Return a model with an addition, which ONNX Runtime quantises and fuses to operators of its own."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Conv", ["x", "w3"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("Add", ["a", "c"], ["s"], name="add"),
        helper.make_node("Sigmoid", ["s"], ["g"], name="sigmoid"),
        helper.make_node("Conv", ["g", "w2"], ["y"], name="last"),
    ]
    return make(nodes, outputs=[value("y", (1, 4, *SIZE))], weights=WEIGHTS | {"w3": WEIGHTS["w1"] / 2})


def loop():
    """Return a model with a convolution inside a loop."""
    inner = [helper.make_node("Conv", ["i", "w3"], ["o"]), helper.make_node("Identity", ["c"], ["d"])]
    state, flag = (1, 8, 8, 12), TensorProto.BOOL
    inputs = [value("n", (), TensorProto.INT64), value("c", (), flag), value("i", state)]
    body = helper.make_graph(inner, "body", inputs, [value("d", (), flag), value("o", state)])
    nodes = [
        *net_nodes()[:2],
        helper.make_node("Loop", ["times", "true", "r"], ["l"], name="repeat", body=body),
        helper.make_node("Conv", ["l", "w2"], ["y"], name="last"),
    ]
    more = {"times": np.array(2), "true": np.array(True), "w3": np.ones((8, 8, 1, 1), np.float32)}
    return make(nodes, weights=WEIGHTS | more)
