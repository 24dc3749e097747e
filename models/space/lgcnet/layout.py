"""Layout of LGCNet: the network template that the settings of a space describe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ...geometry import strided_length
from ..operators import UPSAMPLE_STRIDED
from ..protocol import Decision
from ..settings import SpaceSettings
from .plan import CellLayout, EdgeLayout, InputLayout, NetworkTemplate
from .widths import OpTemplate, Width

CellTemplate = CellLayout[OpTemplate]
CONTEXT_CELL = "context"
"""Name of the cell of global context."""


@dataclass(frozen=True)
class _Feature:
    """Output of the stem or of a cell, 1 / 2**level of the input in size."""

    channels: Width
    height: int
    width: int
    level: int

    @classmethod
    def at_level(cls, space: SpaceSettings, level: int, channels: Width) -> _Feature:
        height, width = (strided_length(length, 2**level) for length in space.input)
        return cls(channels, height, width, level)


def list_width_decisions(space: SpaceSettings) -> tuple[Decision, ...]:
    """Return the decisions on widths; that on the head's, which every space has, is the last one."""
    decisions = []
    if len(space.stem.widths) > 1:
        names = tuple("-".join(map(str, widths)) for widths in space.stem.widths)
        decisions.append(Decision("stem", names))
    decisions += [
        Decision(f"level{index}", tuple(map(str, widths)))
        for index, widths in enumerate(space.widths)
        if len(widths) > 1
    ]
    if len(space.fusion.widths) > 1:
        decisions.append(Decision("fusion", tuple(map(str, space.fusion.widths))))
    default = None if space.widths and len(space.heads) > 1 else space.default_head
    return (*decisions, Decision("head", tuple(map(str, space.heads)), default))


class _Widths:
    """Widths of the parts of a network, with the indices of their decisions."""

    def __init__(self, space: SpaceSettings) -> None:
        self._space = space
        self._index = {decision.name: index for index, decision in enumerate(list_width_decisions(space))}
        self.head = Width(space.heads, self._index["head"])
        self.fusion = Width(space.fusion.widths or (space.fusion.channels,), self._index.get("fusion"))

    def level(self, index: int) -> Width:
        """Return the width of a node at a level of the backbone, counted from its finest."""
        if self._space.widths:
            return Width(self._space.widths[index], self._index.get(f"level{index}"))
        assert self._space.channels is not None
        return Width.fixed(self._space.channels * 2**index)

    def stem(self, index: int) -> Width:
        """Return the width behind a convolution of the stem; the last one's is that of the finest level if searched."""
        if self._space.widths and index == len(self._space.stem.strides) - 1:
            return self.level(0)
        if self._space.stem.widths:
            return Width(tuple(widths[index] for widths in self._space.stem.widths), self._index.get("stem"))
        return Width.fixed(self._space.stem.channels)


def plan_network(space: SpaceSettings) -> NetworkTemplate:
    """Return the layout of the whole network."""
    widths = _Widths(space)
    stem, level, channels = [], 0, Width.fixed(3)
    for index, stride in enumerate(space.stem.strides):
        source = _Feature.at_level(space, level, channels)
        stem.append(OpTemplate("conv_3x3", channels, widths.stem(index), source.height, source.width, stride))
        level, channels = level + stride - 1, widths.stem(index)
    features = [_Feature.at_level(space, level, channels)]
    cells = []
    for index in range(space.cells):
        cell, output = _backbone_cell(space, index, features, widths)
        cells.append(cell)
        features.append(output)
    if space.context:
        cell, output = _context_cell(space, features)
        cells.append(cell)
        features.append(output)
    fusion, fused = _fusion_cell(space, features, widths.fusion)
    upsample = UPSAMPLE_STRIDED if space.is_strided else "upsample"
    classes = Width.fixed(space.classes)
    size = (fused.height, fused.width)
    head = (
        OpTemplate(space.head_operator, fused.channels, widths.head, *size),
        OpTemplate("classifier", widths.head, classes, *size),
    )
    dense = (
        OpTemplate(upsample, classes, classes, *space.input, 2**fused.level),
        OpTemplate("argmax", classes, Width.fixed(1), *space.input),
    )
    return NetworkTemplate(tuple(stem), tuple(cells), fusion, head, dense)


def _backbone_cell(
    space: SpaceSettings, index: int, features: list[_Feature], widths: _Widths
) -> tuple[CellTemplate, _Feature]:
    """Return cell `index` and its output; the inputs are the last features at the last one's resolution.

    A cell that reduces has operators of stride 2 on its inputs; or, with a reduction operator, this operator of
    stride 2 before operators of stride 1.
    """
    sources = [max(index - 1, 0), index][-space.inputs :]
    finest = features[index]
    reduces = index in space.reductions
    level = finest.level + reduces
    width = widths.level(level - features[0].level)
    output = _Feature.at_level(space, level, width.times(space.nodes))
    project = partial(_projection, space)
    if reduces and space.reduction is not None:
        project, finest = partial(_convert, space.reduction), output
    inputs = tuple(InputLayout(source, project(features[source], width, finest.level)) for source in sources)
    return _cell(f"cell{index}", space.operators, inputs, finest, output, width), output


def _context_cell(space: SpaceSettings, features: list[_Feature]) -> tuple[CellTemplate, _Feature]:
    """Return the cell of global context, behind the last one, and its output: one node of the same shape."""
    last = features[-1]
    project = OpTemplate("conv_1x1", last.channels, last.channels, last.height, last.width, optional=True)
    inputs = (InputLayout(len(features) - 1, project),)
    return _cell(CONTEXT_CELL, space.context, inputs, last, last, last.channels), last


def _fusion_cell(space: SpaceSettings, features: list[_Feature], width: Width) -> tuple[CellTemplate, _Feature]:
    """Return the fusion cell and its output; the inputs are each level's last feature at the cell's resolution.

    Coarser features are projected, then upsampled. Finer ones are projected by a strided convolution, which reads every
    second feature or fewer; with half-pixel centres, they are projected first, then downsampled.
    """
    last_of_level = {feature.level: index for index, feature in enumerate(features)}
    level = space.fusion.level
    output = _Feature.at_level(space, level, width.times(space.fusion.nodes))
    inputs = []
    for index in sorted(last_of_level.values()):
        feature = features[index]
        projected = max(feature.level, level) if space.is_strided else feature.level
        resize = None
        if projected > level:
            upsample = UPSAMPLE_STRIDED if space.is_strided else "upsample"
            resize = OpTemplate(upsample, width, width, output.height, output.width, 2 ** (projected - level))
        elif projected < level:
            factor = 2 ** (level - projected)
            resize = OpTemplate("downsample", width, width, feature.height, feature.width, factor)
        inputs.append(InputLayout(index, _projection(space, feature, width, projected), resize))
    operators = space.fusion.operators or space.operators
    return _cell("fusion", operators, tuple(inputs), output, output, width), output


def _projection(space: SpaceSettings, feature: _Feature, width: Width, level: int) -> OpTemplate:
    """Return the 1x1 convolution from `feature` to a width, strided if the feature is finer than `level`.

    With searched widths, a feature that has the width already is passed through.
    """
    return _convert("conv_1x1", feature, width, level, optional=bool(space.widths))


def _convert(operator: str, feature: _Feature, width: Width, level: int, *, optional: bool = False) -> OpTemplate:
    """Return an operator from `feature` to a width and an equal or coarser level."""
    stride = 2 ** (level - feature.level)
    return OpTemplate(operator, feature.channels, width, feature.height, feature.width, stride, optional)


def _cell(
    name: str,
    operators: tuple[str, ...],
    inputs: tuple[InputLayout[OpTemplate], ...],
    source: _Feature,
    output: _Feature,
    width: Width,
) -> CellTemplate:
    """Return a densely connected cell; operators on its inputs have the cell's stride, the others stride 1."""
    nodes = output.channels.values[0] // width.values[0]
    stride = 2 ** (output.level - source.level)
    edges = []
    for node in range(nodes):
        for state in range(len(inputs) + node):
            feature, step = (source, stride) if state < len(inputs) else (output, 1)
            shape = (width, width, feature.height, feature.width, step)
            edges.append(EdgeLayout(state, node, tuple(OpTemplate(operator, *shape) for operator in operators)))
    add = OpTemplate("add", width, width, output.height, output.width)
    concat = OpTemplate("concat", width, output.channels, output.height, output.width)
    return CellLayout(name, inputs, nodes, tuple(edges), add, concat)
