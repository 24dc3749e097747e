"""Layout of LGCNet: the network plan that the settings of a space describe."""

from __future__ import annotations

from dataclasses import dataclass

from ...geometry import strided_length
from ..operators import UPSAMPLE_STRIDED
from ..opspec import OpSpec
from ..settings import SpaceSettings
from .plan import CellPlan, EdgePlan, InputPlan, NetworkPlan


@dataclass(frozen=True)
class _Feature:
    """Output of the stem or of a cell, 1 / 2**level of the input in size."""

    channels: int
    height: int
    width: int
    level: int

    @classmethod
    def at_level(cls, space: SpaceSettings, level: int, channels: int) -> _Feature:
        height, width = (strided_length(length, 2**level) for length in space.input)
        return cls(channels, height, width, level)


def plan_network(space: SpaceSettings) -> NetworkPlan:
    """Return the plan of the whole network."""
    stem, level, channels = [], 0, 3
    for stride in space.stem.strides:
        source = _Feature.at_level(space, level, channels)
        stem.append(OpSpec("conv_3x3", channels, space.stem.channels, source.height, source.width, stride))
        level, channels = level + stride - 1, space.stem.channels
    features = [_Feature.at_level(space, level, channels)]
    cells = []
    for index in range(space.cells):
        cell, output = _backbone_cell(space, index, features)
        cells.append(cell)
        features.append(output)
    fusion, fused = _fusion_cell(space, features)
    upsample = UPSAMPLE_STRIDED if space.is_strided else "upsample"
    heads = tuple(
        (
            OpSpec("conv_3x3", fused.channels, width, fused.height, fused.width),
            OpSpec("classifier", width, space.classes, fused.height, fused.width),
        )
        for width in space.heads
    )
    dense = (
        OpSpec(upsample, space.classes, space.classes, *space.input, 2**fused.level),
        OpSpec("argmax", space.classes, 1, *space.input),
    )
    return NetworkPlan(tuple(stem), tuple(cells), fusion, heads, dense)


def _backbone_cell(space: SpaceSettings, index: int, features: list[_Feature]) -> tuple[CellPlan, _Feature]:
    """Return cell `index` and its output; the inputs are the last two features at the last one's resolution."""
    sources = [max(index - 1, 0), index]
    finest = features[index]
    reduces = index in space.reductions
    width = space.channels * 2 ** (finest.level + reduces - features[0].level)
    inputs = tuple(InputPlan(source, _projection(features[source], width, finest.level)) for source in sources)
    output = _Feature.at_level(space, finest.level + reduces, width * space.nodes)
    return _cell(f"cell{index}", space.operators, inputs, finest, output), output


def _fusion_cell(space: SpaceSettings, features: list[_Feature]) -> tuple[CellPlan, _Feature]:
    """Return the fusion cell and its output; the inputs are each level's last feature at the cell's resolution.

    Coarser features are projected, then upsampled. Finer ones are projected by a strided convolution, which reads every
    second feature or fewer; with half-pixel centres, they are projected first, then downsampled.
    """
    last_of_level = {feature.level: index for index, feature in enumerate(features)}
    level, width = space.fusion.level, space.fusion.channels
    output = _Feature.at_level(space, level, width * space.fusion.nodes)
    inputs = []
    for index in sorted(last_of_level.values()):
        feature = features[index]
        projected = max(feature.level, level) if space.is_strided else feature.level
        resize = None
        if projected > level:
            upsample = UPSAMPLE_STRIDED if space.is_strided else "upsample"
            resize = OpSpec(upsample, width, width, output.height, output.width, 2 ** (projected - level))
        elif projected < level:
            factor = 2 ** (level - projected)
            resize = OpSpec("downsample", width, width, feature.height, feature.width, factor)
        inputs.append(InputPlan(index, _projection(feature, width, projected), resize))
    return _cell("fusion", space.operators, tuple(inputs), output, output), output


def _projection(feature: _Feature, width: int, level: int) -> OpSpec:
    """Return the 1x1 convolution from `feature` to `width` channels, strided if the feature is finer than `level`."""
    return OpSpec("conv_1x1", feature.channels, width, feature.height, feature.width, 2 ** (level - feature.level))


def _cell(
    name: str, operators: tuple[str, ...], inputs: tuple[InputPlan, ...], source: _Feature, output: _Feature
) -> CellPlan:
    """Return a densely connected cell; operators on its inputs have the cell's stride, the others stride 1."""
    width = inputs[0].project.c_out
    nodes = output.channels // width
    stride = 2 ** (output.level - source.level)
    edges = []
    for node in range(nodes):
        for state in range(len(inputs) + node):
            feature, step = (source, stride) if state < len(inputs) else (output, 1)
            specs = tuple(OpSpec(operator, width, width, feature.height, feature.width, step) for operator in operators)
            edges.append(EdgePlan(state, node, specs))
    add = OpSpec("add", width, width, output.height, output.width)
    concat = OpSpec("concat", width, output.channels, output.height, output.width)
    return CellPlan(name, inputs, nodes, tuple(edges), add, concat)
