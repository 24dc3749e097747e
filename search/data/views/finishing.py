"""Finished views: packed windows are scaled, flipped, coloured and normalised on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ....models.images import Normalisation
from ..labels import IGNORE
from .geometry import Size, View
from .packing import Colours, PackedViews


class ViewFinisher:
    """Turns packed views into images and labels, by the same operations on every device.

    A CPU scales bytes to bytes, a GPU to floating-point numbers, so their pixels differ by rounding: by up to two
    levels of 256 before the colours change.

    Args:
        normalisation: Normalisation of the images.
        device: Device of the results.
    """

    def __init__(self, normalisation: Normalisation, device: torch.device) -> None:
        self.device = device
        pairs = zip(normalisation.mean, normalisation.std, strict=True)
        self._limits = [(-mean / std, (1 - mean) / std) for mean, std in pairs]
        self._values = torch.empty(0, device=device)

    @torch.no_grad()
    def finish(self, packed: PackedViews) -> tuple[Tensor, Tensor]:
        """Return images, float32 [N, 3, H, W], and labels, uint8 [N, H, W], on the device.

        All views have the same crop. Padding is 0 in images, the mean colour, and 255 in labels. Nothing waits for the
        device.
        """
        data = packed.data.to(self.device, non_blocking=True)
        count, crop = len(packed.views), packed.views[0].crop
        images = torch.empty(count, 3, *crop, device=self.device)
        labels = torch.empty(count, *crop, dtype=torch.uint8, device=self.device)
        start = 0
        for index, view in enumerate(packed.views):
            height, width = view.window[2:]
            area = height * width
            pixels = data[start : start + 3 * area]
            classes = data[start + 3 * area : start + 4 * area]
            start += 4 * area
            image, label = images[index], labels[index]
            if view.place[2:] != crop:
                image.zero_()
                label.fill_(IGNORE)
            top, left, rows, columns = view.place
            region = (slice(top, top + rows), slice(left, left + columns))
            scaled = scale_pixels(pixels.view(height, width, 3), view)
            self._write_colours(image[:, *region], scaled, packed.colours[index])
            resized = scale_classes(classes.view(height, width), (rows, columns))
            label[region] = resized.flip(-1) if view.flip else resized
        return images, labels

    def _write_colours(self, out: Tensor, pixels: Tensor, colours: Colours) -> None:
        """Write the normalised colours of pixels [3, h, w] to `out`, of the same shape.

        A matrix product would be computed in TF32 where a training allows it.
        """
        red, green, blue = self._convert(pixels)
        for channel, (of_red, of_green, of_blue, constant), limits in zip(out, colours, self._limits, strict=True):
            torch.add(torch.tensor(constant), red, alpha=of_red, out=channel)
            channel.add_(green, alpha=of_green).add_(blue, alpha=of_blue).clamp_(*limits)

    def _convert(self, pixels: Tensor) -> Tensor:
        """Return bytes [3, h, w] as float32, in memory that is used again: new memory costs as much as the rest."""
        if self._values.numel() < pixels.numel():
            self._values = torch.empty(pixels.numel(), device=self.device)
        return self._values[: pixels.numel()].view(pixels.shape).copy_(pixels)


def scale_pixels(pixels: Tensor, view: View) -> Tensor:
    """Return the bytes [h, w, 3] of a window at the size of its place, [3, h, w], bilinear with antialiasing."""
    size = view.place[2:]
    scaled = pixels.permute(2, 0, 1)[None]
    if scaled.shape[2:] != size:
        scaled = scaled if pixels.device.type == "cpu" else scaled.float()
        scaled = F.interpolate(scaled, size, mode="bilinear", antialias=True)
    return scaled[0].flip(-1) if view.flip else scaled[0]


def scale_classes(classes: Tensor, size: Size) -> Tensor:
    """Return a label [h, w] at another size: the class at each new pixel's centre, by whole numbers on every device."""
    (rows, columns), (height, width) = classes.shape, size
    if (rows, columns) == size:
        return classes
    nearest_columns = (2 * torch.arange(width, device=classes.device) + 1) * columns // (2 * width)
    nearest_rows = (2 * torch.arange(height, device=classes.device) + 1) * rows // (2 * height)
    return classes.gather(1, nearest_columns.expand(rows, -1)).index_select(0, nearest_rows)
