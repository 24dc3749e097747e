"""Search spaces that come with lgc: files in this folder, and some of them at the sizes of common tasks."""

from __future__ import annotations

PRESETS = ("tiny", "rapid", "lgcnet-camvid", "lgcnet-cityscapes")
"""Names of the files."""
VARIANTS: dict[str, tuple[str, tuple[int, int], int]] = {
    "rapid-cityscapes": ("rapid", (1024, 2048), 19),
    "rapid-769x1537": ("rapid", (769, 1537), 19),
    "rapid-512x1024": ("rapid", (512, 1024), 19),
    "rapid-256x512": ("rapid", (256, 512), 19),
    "rapid-camvid": ("rapid", (720, 960), 11),
}
"""Name -> preset, height and width of the images, classes."""
