"""Bilinear resizing of feature maps and logits by the rules of `geometry`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import MismatchError
from ..geometry import Geometry, Size, find_ratio, locate_features, strided_length


def upsample_strided(x: Tensor, ratio: int, size: Size) -> Tensor:
    """Return the map in which pixel p reads feature p / `ratio`, clamped to the last: [N, C, h, w] -> [N, C, *size].

    Args:
        x: Features, h and w of which are those of `size` divided by `ratio`, rounded up.
        ratio: Power of two.
        size: Height and width of the result.

    Raises:
        MismatchError: The features have another size.
    """
    lengths = (int(x.shape[-2]), int(x.shape[-1]))
    if lengths != tuple(strided_length(side, ratio) for side in size):
        raise MismatchError(f"cannot upsample {lengths[0]}x{lengths[1]} by {ratio} to {size[0]}x{size[1]}")
    if torch.onnx.is_in_onnx_export():
        out: Tensor = _ExportedUpsample.apply(x, ratio, size)  # type: ignore[no-untyped-call]
        return out
    return _upsample(x, ratio, size)


def _upsample(x: Tensor, ratio: int, size: Size) -> Tensor:
    """Align the corners of a map whose last row and column, where they are read beyond, are repeated."""
    height, width = (int(side) for side in x.shape[-2:])
    rows, columns = (side > ratio * (length - 1) + 1 for side, length in zip(size, (height, width), strict=True))
    if rows or columns:
        x = F.pad(x, (0, int(columns), 0, int(rows)), mode="replicate")
    full = (ratio * (height + rows - 1) + 1, ratio * (width + columns - 1) + 1)
    out = F.interpolate(x, size=full, mode="bilinear", align_corners=True)
    return out if full == size else out[..., : size[0], : size[1]]


ALIGNED_RATIO = 8
"""Ratio from which a map whose corners can be aligned is exported so."""


class _ExportedUpsample(torch.autograd.Function):
    """`_upsample` as an ONNX node with integer scales, which runtimes compute in their own memory layouts.

    Sides that are not multiples of the ratio need a slice, which copies the map. For logits this takes longer than the
    layout saves, so their corners are aligned where they can be (docs/benchmarks, geometry).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ratio: int, size: Size) -> Tensor:
        """Compute the map."""
        return _upsample(x, ratio, size)

    @staticmethod
    def symbolic(g: Any, x: Any, ratio: int, size: Size) -> Any:
        """Return the nodes: `Resize`, and `Slice` where the ratio does not divide the sides."""

        def constant(values: list[int], dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(values, dtype=dtype))

        sizes = x.type().sizes()
        whole = [side * ratio for side in sizes[2:]]
        absent = constant([], torch.float32)
        if ratio >= ALIGNED_RATIO and all(side % ratio == 1 for side in size):
            lengths = constant([*sizes[:2], *size], torch.int64)
            corners = {"coordinate_transformation_mode_s": "align_corners", "mode_s": "linear"}
            return g.op("Resize", x, absent, absent, lengths, **corners).setType(
                x.type().with_sizes([*sizes[:2], *size])
            )
        scales = constant([1, 1, ratio, ratio], torch.float32)
        out = g.op("Resize", x, absent, scales, coordinate_transformation_mode_s="asymmetric", mode_s="linear")
        out.setType(x.type().with_sizes([*sizes[:2], *whole]))
        if whole != [*size]:
            bounds = ([0, 0], [*size], [2, 3])
            out = g.op("Slice", out, *(constant(values, torch.int64) for values in bounds))
            out.setType(x.type().with_sizes([*sizes[:2], *size]))
        return out


def upsample_logits(logits: Tensor, size: Size, geometry: Geometry, image: Size | None = None) -> Tensor:
    """Return logits at the resolution of labels: [N, C, h, w] -> [N, C, *size].

    Args:
        logits: Logits of an image.
        size: Height and width of the labels.
        geometry: Positions of the logits in the image.
        image: Height and width of the image, if the labels have another resolution than it.

    Raises:
        MismatchError: In geometry `STRIDED`, the logits are not those of such an image.
    """
    if geometry == Geometry.STRIDED:
        image = image or size
        height, width = (int(side) for side in logits.shape[-2:])
        logits = upsample_strided(logits, find_ratio(image, (height, width)), image)
        if image == size:
            return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def relocate_logits(
    logits: Tensor, geometry: Geometry, image: Size, others: Tensor, target_geometry: Geometry
) -> Tensor:
    """Return logits at the positions of others, interpolated bilinearly: [N, C, h, w] -> float32 [N, C, h', w'].

    Args:
        logits: Logits of images.
        geometry: Positions of the logits in the images.
        image: Height and width of the images.
        others: Tensor of the result's size, [N, C', h', w'].
        target_geometry: Its positions.
    """
    logits, size = logits.float(), (int(others.shape[-2]), int(others.shape[-1]))
    if geometry == target_geometry == Geometry.HALF_PIXEL:
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    source = (int(logits.shape[-2]), int(logits.shape[-1]))
    matrices = []
    for axis, (read, written) in enumerate(
        zip(locate_features(image, source, geometry), locate_features(image, size, target_geometry), strict=True)
    ):
        pixels = (torch.arange(size[axis], device=logits.device) - written.offset) / written.scale
        positions = (read.scale * pixels + read.offset).clamp(0, source[axis] - 1)
        distances = positions[:, None] - torch.arange(source[axis], device=logits.device)
        matrices.append((1 - distances.abs()).clamp(min=0))
    return matrices[0] @ logits @ matrices[1].T
