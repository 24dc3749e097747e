"""Layers of an engine and the ONNX nodes fused into each, from TensorRT's log, its inspector, or a layer's name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_ONNX = re.compile(r"\[ONNX Layer: (.+?)\](?=$|[\x1e\x1f\s]|\[ONNX Layer: )")
"""Node in a layer's metadata; TensorRT separates nodes by the control characters 1E and 1F, or not at all."""
_MYELIN = re.compile(r"_myl\d+_\d+$")
"""Suffix that TensorRT's compiler adds to the node's name."""
_COPY = "Reformatting CopyNode"
"""Prefix of a copy between formats, which names the nodes around it."""
_NO_NODE = re.compile(r"__myl|__mye|\(Unnamed Layer\*|ONNXTRT_|entry\^|exit\^|\[(HostToDevice|DeviceToHost|ShapeHost)")
"""Prefixes of TensorRT's own helpers, copies and waits."""
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
"""Type of a tensor in the log: `Format/Datatype: Half` in TensorRT 10, `Datatype: Half, Format: ...` in 11."""
_DATATYPE_KEYS = ("format/datatype", "datatype")
"""Same in the inspector's report: one key in TensorRT 10; `Datatype` or `DataType`, next to `Format`, in 11."""


@dataclass(frozen=True)
class Layer:
    """Layer of an engine; fields other than the name are empty where TensorRT does not report them.

    Attributes:
        name: name of the layer in TensorRT's profiler.
        kind: the library's type of layer.
        nodes: names of the fused ONNX nodes, in TensorRT's order; a node may be spread over several layers.
        tactic: name of the chosen kernel.
        precision: precision of the first output, `fp32`, `fp16`, `bf16` or `int8`.
        shape: shape of the first output.
    """

    name: str
    kind: str = ""
    nodes: tuple[str, ...] = ()
    tactic: str = ""
    precision: str = ""
    shape: tuple[int, ...] = ()

    @property
    def is_copy(self) -> bool:
        """True if the layer only copies a tensor to another format."""
        return self.name.startswith(_COPY)


def parse_log(message: str) -> tuple[Layer, ...]:
    """Return the layers in the builder's log of an engine, at the verbosity `DETAILED`."""
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
    """Return the layers in the JSON report of the engine inspector; from a report of names only, names and nodes."""
    # strict=False: control characters between the nodes in the metadata may be unescaped
    return tuple(_parse_layer(entry) for entry in json.loads(report, strict=False).get("Layers", []))


def parse_nodes(name: str, metadata: str = "") -> tuple[str, ...]:
    """Return the names of the ONNX nodes in a layer, without duplicates.

    Args:
        name: name of the layer. `a + b` and `a || b` are nodes fused in sequence and in parallel, `PWN(a, b)` pointwise
            nodes. `{ForeignNode[a...b]}` is a whole region, of which the name gives the first and the last node.
        metadata: metadata of the layer, which list all nodes; empty if there are none.
    """
    return tuple(dict.fromkeys(_ONNX.findall(metadata) or _parse_name(name)))


def select_fusions(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers with several fused ONNX nodes."""
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
    """Return the parts of a name that ` + `, ` || ` or `, ` join outside of parentheses."""
    parts, depth, start, index = [], 0, 0, 0
    while index < len(name):
        depth += (name[index] == "(") - (name[index] == ")")
        separator = next((mark for mark in (" + ", " || ", ", ") if name.startswith(mark, index)), None)
        if separator and depth <= 0:
            parts.append(name[start:index])
            index = start = index + len(separator)
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
        shape=tuple(size for size in first.get("Dimensions") or () if isinstance(size, int)),
    )


def _parse_precision(datatype: str) -> str:
    return next((precision for pattern, precision in _TYPES if pattern.search(datatype)), "")


def _find_first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
