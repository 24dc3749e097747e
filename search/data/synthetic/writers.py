"""Write generated scenes to disk in the layouts of real datasets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ....errors import OutputError, UnknownNameError, UsageError
from ..labels import CAMVID_VOID, IGNORE, TRAIN_ID_TO_CAMVID, LabelMap, train_id_to_camvid_rgb, train_id_to_id
from .scenes import check_scene, generate_scene

SCENE_SPLITS = ("train", "val", "test")
MARKER = "scenes.json"

# Increase it when a change alters the images of a seed, so that no folder mixes two generators.
GENERATOR = 1

# Every split has its own range of scene numbers and can grow without changing the others.
_SPLIT_STRIDE = 1_000_000


@dataclass(frozen=True)
class WrittenScenes:
    """Result of `write_scenes`.

    Attributes:
        directory: Folder of the dataset, an argument for `load_dataset`.
        layout: Layout of the dataset.
        counts: Number of images per split.
        written: Number of images written by this call.
        kept: Number of images that already existed.
    """

    directory: Path
    layout: str
    counts: dict[str, int]
    written: int
    kept: int


@dataclass(frozen=True)
class SceneFormat:
    """Paths and label coding of generated scenes in one layout.

    Attributes:
        paths: Function from split and number to the relative paths of image and label.
        encode: Function from train ids [H, W] to the values of the label file.
        line: Function from split and number to the scene's line in `<split>.txt`; None for layouts without lists.
        description: Content of `dataset.yaml`; None for known layouts.
    """

    paths: Callable[[str, int], tuple[str, str]]
    encode: Callable[[LabelMap], npt.NDArray[np.uint8]]
    line: Callable[[str, int], str] | None = None
    description: str | None = None


FOUR_CLASSES = "four-classes"
_FOUR_CLASSES = """\
# Four classes of your own: each gathers several label values.
name: four-classes
images: images/{split}
labels: labels/{split}
splits: [train, val, test]
classes:
  street: [128, 64, 128]
  construction: [70, 70, 70]
  nature: [107, 142, 35]
  traffic: [0, 0, 142]
map:  # values of the label files: Cityscapes' train ids
  0-1: street
  2-7: construction
  8-10: nature
  11-18: traffic
ignore: 255
"""


def _camvid_indices(label: LabelMap) -> npt.NDArray[np.uint8]:
    index = TRAIN_ID_TO_CAMVID[label]
    index[index == IGNORE] = CAMVID_VOID
    return index


def _segnet_paths(split: str, number: int) -> tuple[str, str]:
    name = f"scene_{number:06d}.png"
    return f"CamVid/{split}/{name}", f"CamVid/{split}annot/{name}"


def _camvid_paths(split: str, number: int) -> tuple[str, str]:
    stem = f"{split}_{number:06d}"
    return f"701_StillsRaw_full/{stem}.png", f"LabeledApproved_full/{stem}_L.png"


def _lists_paths(split: str, number: int) -> tuple[str, str]:
    name = f"{split}_{number:06d}.png"
    return f"images/{name}", f"labels/{name}"


def _split_paths(split: str, number: int) -> tuple[str, str]:
    name = f"scene_{number:06d}.png"
    return f"images/{split}/{name}", f"labels/{split}/{name}"


def _cityscapes_paths(split: str, number: int) -> tuple[str, str]:
    city = f"scene{split}"
    stem = f"{city}_{number // 1000:06d}_{number % 1000:06d}"
    return f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"


SCENE_FORMATS: dict[str, SceneFormat] = {
    "camvid-segnet": SceneFormat(_segnet_paths, _camvid_indices),
    "camvid": SceneFormat(_camvid_paths, train_id_to_camvid_rgb, lambda s, n: Path(_camvid_paths(s, n)[0]).name),
    "camvid-lists": SceneFormat(_lists_paths, _camvid_indices, lambda s, n: " ".join(_lists_paths(s, n))),
    "cityscapes": SceneFormat(_cityscapes_paths, train_id_to_id),
    FOUR_CLASSES: SceneFormat(_split_paths, lambda label: label, description=_FOUR_CLASSES),
}
"""Format by name of the layout; the last has a `dataset.yaml`, the others are known layouts."""


def write_scenes(
    directory: str | os.PathLike[str],
    layout: str,
    counts: Mapping[str, int],
    size: tuple[int, int],
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> WrittenScenes:
    """Write generated scenes into `directory`; call it again to resume or, with larger counts, to add scenes.

    Files are written atomically, and existing files are kept.

    Args:
        directory: New or empty folder, or one written by an earlier call.
        layout: Key of `SCENE_FORMATS`.
        counts: Number of images per split, for any of `train`, `val` and `test`.
        size: Height and width in pixels.
        seed: Seed of the scenes, 0 or more.
        progress: Called once per image, written or kept.

    Raises:
        UnknownNameError: Unknown layout or split.
        UsageError: Negative count or seed, no images at all, or an image that is too small.
        OutputError: The folder has other content or cannot be written.
    """
    if layout not in SCENE_FORMATS:
        raise UnknownNameError("layout", layout, SCENE_FORMATS)
    for split, count in counts.items():
        if split not in SCENE_SPLITS:
            raise UnknownNameError("split", split, SCENE_SPLITS)
        if not 0 <= count < _SPLIT_STRIDE:
            raise UsageError(f"the number of {split} images must be between 0 and {_SPLIT_STRIDE - 1}, got {count}")
    if sum(counts.values()) == 0:
        raise UsageError("no images to write: at least one split must have a count above 0")
    check_scene(seed, size)
    root = Path(directory)
    form = SCENE_FORMATS[layout]
    written = kept = 0
    try:
        _claim(root, layout, {split: counts.get(split, 0) for split in SCENE_SPLITS}, size, seed)
        for split, count in counts.items():
            for number in range(count):
                new = _write_scene(root, form, split, number, size, seed)
                written, kept = written + new, kept + (not new)
                if progress is not None:
                    progress()
            if form.line is not None and count:
                lines = "".join(f"{form.line(split, number)}\n" for number in range(count))
                _write_bytes(root / f"{split}.txt", lines.encode())
        if form.description is not None:
            _write_bytes(root / "dataset.yaml", form.description.encode())
    except OSError as error:
        raise OutputError(f"cannot write scenes into {root}: {error.strerror or error}") from error
    return WrittenScenes(root, layout, dict(counts), written, kept)


def _claim(root: Path, layout: str, counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    """Write the folder's marker, or check that an existing marker has the same settings."""
    settings = {"generator": GENERATOR, "layout": layout, "size": list(size), "seed": seed}
    marker = root / MARKER
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file: choose a folder")
    root.mkdir(parents=True, exist_ok=True)
    if marker.exists():
        try:
            existing = json.loads(marker.read_text(encoding="utf-8"))
            before = {split: int(count) for split, count in existing.pop("counts").items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{marker} was not written by lgc-scenes: choose another folder") from error
        if existing != settings:
            raise OutputError(
                f"{root} has scenes with other settings ({_describe(existing)}; requested: {_describe(settings)}): "
                "choose another folder"
            )
        for split in SCENE_SPLITS:
            if before.get(split, 0) > counts[split]:
                raise OutputError(
                    f"{root} already has {before[split]} {split} scenes, requested: {counts[split]}: "
                    "request at least as many, or choose another folder"
                )
    elif any(path.name != f".{MARKER}.part" for path in root.iterdir()):
        raise OutputError(f"{root} is not empty and was not written by lgc-scenes: choose another folder")
    _write_bytes(marker, (json.dumps({**settings, "counts": counts}, indent=1) + "\n").encode())


def _describe(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _write_scene(root: Path, form: SceneFormat, split: str, number: int, size: tuple[int, int], seed: int) -> bool:
    """Write the files of a scene that do not exist; return True if any was written."""
    image_path, label_path = (root / part for part in form.paths(split, number))
    if image_path.exists() and label_path.exists():
        return False
    scene = generate_scene(seed, SCENE_SPLITS.index(split) * _SPLIT_STRIDE + number, size)
    for path, pixels in ((image_path, scene.image), (label_path, form.encode(scene.label))):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _part(path)
            Image.fromarray(pixels).save(part, format="PNG", compress_level=3)
            part.replace(path)
    return True


def _write_bytes(path: Path, content: bytes) -> None:
    part = _part(path)
    part.write_bytes(content)
    part.replace(path)


def _part(path: Path) -> Path:
    """Return the temporary path of a file that is being written; the next call overwrites an interrupted one."""
    return path.with_name(f".{path.name}.part")
