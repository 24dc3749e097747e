"""An engine's layers, and the ONNX nodes that TensorRT fused into each: from its log, its inspector, or a bare name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_ONNX = re.compile(r"\[ONNX Layer: (.+?)\](?=$|[\x1e\x1f\s]|\[ONNX Layer: )")
"""A node in a layer's metadata; TensorRT puts the control characters 1E and 1F between them, or nothing."""
_MYELIN = re.compile(r"_myl\d+_\d+$")
"""What TensorRT's compiler adds to the name of the node that a layer comes from."""
_COPY = "Reformatting CopyNode"
"""How the name of a copy between formats begins; the nodes that it names are those around it."""
_NO_NODE = re.compile(r"__myl|__mye|\(Unnamed Layer\*|ONNXTRT_|entry\^|exit\^|\[(HostToDevice|DeviceToHost|ShapeHost)")
"""How names begin that TensorRT made up: of helpers, copies and waits."""
_FOREIGN = re.compile(r"^\{ForeignNode\[(.*)\]\}$")
_POINTWISE = re.compile(r"^PWN\((.*)\)$")

_LOGGED = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), (?P<rest>.*)$", re.MULTILINE)
_TACTIC = re.compile(r"TacticName: ([^,]*),")
_METADATA = re.compile(r"Metadata: (.*)$")
_OUTPUTS = re.compile(r"Outputs: \[ \{(.*?)\}\]")

_TYPES = (
    (re.compile(r"BFloat16|BF16", re.IGNORECASE), "bf16"),
    (re.compile(r"Half|FP16|Float16", re.IGNORECASE), "fp16"),
    (re.compile(r"\bInt8", re.IGNORECASE), "int8"),
    (re.compile(r"FP32|Float32|Float\b", re.IGNORECASE), "fp32"),
)
_DATATYPE = re.compile(r"Datatype: ([^,}]*)", re.IGNORECASE)
"""Of a tensor in the log: TensorRT 10 has `Format/Datatype: Half`, TensorRT 11 `Datatype: Half, Format: ...`."""
_DATATYPE_KEYS = ("format/datatype", "datatype")
"""The same in the inspector's report: one key in TensorRT 10; in 11 `Datatype` or `DataType`, beside `Format`."""


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name: as TensorRT's profiler calls it.
        kind: the library's word for what it does; empty where it is not told, as are all below.
        nodes: names of the ONNX nodes in it, as TensorRT lists them; a node may be spread over several layers.
        tactic: the kernel chosen.
        precision: of its first output, `fp32`, `fp16`, `bf16` or `int8`.
    """

    name: str
    kind: str = ""
    nodes: tuple[str, ...] = ()
    tactic: str = ""
    precision: str = ""


def parse_log(message: str) -> tuple[Layer, ...]:
    """The layers in what the builder says of an engine it has built, at the level of detail `DETAILED`."""
    return tuple(
        Layer(
            name=entry["name"],
            kind=entry["kind"],
            nodes=parse_nodes(entry["name"], _find_first(_METADATA, entry["rest"])),
            tactic=_find_first(_TACTIC, entry["rest"]),
            precision=_parse_precision(_find_first(_DATATYPE, _find_first(_OUTPUTS, entry["rest"]))),
        )
        for entry in _LOGGED.finditer(message)
    )


def parse_report(report: str) -> tuple[Layer, ...]:
    """The layers in the JSON report of the engine inspector; where it has only names, names and what these tell."""
    # strict=False: the control characters between nodes in the metadata may stand there unescaped
    return tuple(_parse_layer(entry) for entry in json.loads(report, strict=False).get("Layers", []))


def parse_nodes(name: str, metadata: str = "") -> tuple[str, ...]:
    """Names of the ONNX nodes in a layer, each once.

    Args:
        name: the layer's. `a + b` and `a || b` are nodes fused one behind, or beside, the other, `PWN(a, b)` pointwise
            ones; of `{ForeignNode[a...b]}`, a whole region, the name tells the first and the last.
        metadata: the layer's, which tells them all; empty where there is none.
    """
    return tuple(dict.fromkeys(_ONNX.findall(metadata) or _parse_name(name)))


def select_fusions(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those layers that several ONNX nodes were fused into."""
    return tuple(layer for layer in layers if len(layer.nodes) > 1)


def _parse_name(name: str) -> Iterator[str]:
    name = name.strip()
    if not name or name.startswith(_COPY):
        return
    region = _FOREIGN.match(name)
    parts = region[1].split("...") if region else _split_name(name)
    if len(parts) > 1 or region:
        for part in parts:
            yield from _parse_name(part)
    elif pointwise := _POINTWISE.match(name):
        yield from _parse_name(pointwise[1])
    elif not _NO_NODE.match(name):
        yield _MYELIN.sub("", name)


def _split_name(name: str) -> list[str]:
    """The parts of a name that are joined by ` + `, ` || ` or `, `, outside of parentheses."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(name):
        depth += (name[index] == "(") - (name[index] == ")")
        joint = next((mark for mark in (" + ", " || ", ", ") if name.startswith(mark, index)), None)
        if joint and depth <= 0:
            parts.append(name[start:index])
            index = start = index + len(joint)
        else:
            index += 1
    return [*parts, name[start:]]


def _parse_layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):
        return Layer(str(entry), nodes=parse_nodes(str(entry)))
    name, outputs = str(entry.get("Name", "")), entry.get("Outputs") or [{}]
    first = outputs[0] if isinstance(outputs[0], dict) else {}
    datatype = next((value for key, value in first.items() if key.lower() in _DATATYPE_KEYS), "")
    return Layer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        nodes=parse_nodes(name, str(entry.get("Metadata", ""))),
        tactic=str(entry.get("TacticName", "")),
        precision=_parse_precision(str(datatype)),
    )


def _parse_precision(datatype: str) -> str:
    return next((precision for pattern, precision in _TYPES if pattern.search(datatype)), "")


def _find_first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
