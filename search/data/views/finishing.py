"""Finished views: packed windows are scaled, flipped, coloured and normalised on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ....models.images import Normalisation
from ..labels import IGNORE
from .geometry import Size, View
from .packing import PackedViews


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
        self._values = torch.empty(4, 0, device=device)

    @torch.no_grad()
    def finish(self, packed: PackedViews) -> tuple[Tensor, Tensor]:
        """Return images, float32 [N, 3, H, W], and labels, int64 [N, H, W], on the device.

        All views have the same crop. Padding is 0 in images, the mean colour, and 255 in labels. Nothing waits for the
        device.
        """
        data, colours = (part.to(self.device, non_blocking=True) for part in packed[:2])
        count, crop = len(packed.views), packed.views[0].crop
        images = torch.empty(count, 3, *crop, device=self.device)
        labels = torch.empty(count, *crop, dtype=torch.int64, device=self.device)
        if self._values.shape[1] < crop[0] * crop[1]:
            # Memory that is used again costs less than new one. The last row multiplies the constants of the colours.
            self._values = torch.ones(4, crop[0] * crop[1], device=self.device)
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
            self._write_colours(image[:, *region], scale_pixels(pixels.view(height, width, 3), view), colours[index])
            scaled = scale_classes(classes.view(height, width), (rows, columns))
            label[region] = scaled.flip(-1) if view.flip else scaled
        return images, labels

    def _write_colours(self, out: Tensor, pixels: Tensor, colours: Tensor) -> None:
        """Write the normalised colours of pixels [3, h, w] to `out`, of the same shape."""
        area = pixels.shape[1] * pixels.shape[2]
        self._values[:3, :area].view(pixels.shape).copy_(pixels)
        if out.is_contiguous():
            torch.mm(colours, self._values[:, :area], out=out.view(3, area))
        else:
            out.copy_(torch.mm(colours, self._values[:, :area]).view(pixels.shape))
        for channel, limits in zip(out, self._limits, strict=True):
            channel.clamp_(*limits)


def scale_pixels(pixels: Tensor, view: View) -> Tensor:
    """Return the bytes [h, w, 3] of a window at the size of its place, [3, h, w], bilinear with antialiasing."""
    size = view.place[2:]
    scaled = pixels.permute(2, 0, 1)[None]
    if scaled.shape[2:] != size:
        scaled = scaled if pixels.device.type == "cpu" else scaled.float()
        scaled = F.interpolate(scaled, size, mode="bilinear", antialias=True)
    return scaled[0].flip(-1) if view.flip else scaled[0]


def scale_classes(classes: Tensor, size: Size) -> Tensor:
    """Return a label [h, w] at another size: the class at each new pixel's centre."""
    return F.interpolate(classes[None, None], size, mode="nearest-exact")[0, 0]
