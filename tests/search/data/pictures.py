"""Small images for the tests of layouts."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def write_image(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4)).save(path)
    return path
