"""Writes generated scenes to disk in the layouts of the real data sets, so that the real loaders read them."""

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
from ..labels import CAMVID_VOID, IGNORE, TRAIN_ID_TO_CAMVID, TRAIN_ID_TO_ID, LabelMap, train_id_to_camvid_rgb
from .scenes import check_scene, generate_scene

SPLITS = ("train", "val", "test")
MARKER = "scenes.json"

# Raise it when a change makes other pictures of the same seeds: one folder never mixes two generators.
GENERATOR = 1

# Every split has its own range of scene numbers, so that it can grow without changing the others.
_SPLIT_STRIDE = 1_000_000


@dataclass(frozen=True)
class WrittenScenes:
    """What `write_scenes` did.

    Attributes:
        directory: the data set's folder, to be handed to `load_dataset`.
        layout: its layout.
        counts: images of each split.
        written: images written by this call.
        kept: images that were there already.
    """

    directory: Path
    layout: str
    counts: dict[str, int]
    written: int
    kept: int


@dataclass(frozen=True)
class _Format:
    """Where the files of a scene go and how its label is coded.

    Attributes:
        paths: from split and number to the image's and the label's path inside the folder.
        encode: from train ids [H, W] to what the label file holds.
        line: the scene's line in `<split>.txt`; None for a layout without such lists.
    """

    paths: Callable[[str, int], tuple[str, str]]
    encode: Callable[[LabelMap], npt.NDArray[np.uint8]]
    line: Callable[[str, int], str] | None = None


def _camvid_indices(label: LabelMap) -> npt.NDArray[np.uint8]:
    index = TRAIN_ID_TO_CAMVID[label]
    index[index == IGNORE] = CAMVID_VOID
    return index


def _cityscapes_ids(label: LabelMap) -> npt.NDArray[np.uint8]:
    ids: LabelMap = TRAIN_ID_TO_ID[label]
    return ids


def _segnet_paths(split: str, number: int) -> tuple[str, str]:
    name = f"scene_{number:06d}.png"
    return f"CamVid/{split}/{name}", f"CamVid/{split}annot/{name}"


def _camvid_paths(split: str, number: int) -> tuple[str, str]:
    stem = f"{split}_{number:06d}"
    return f"701_StillsRaw_full/{stem}.png", f"LabeledApproved_full/{stem}_L.png"


def _lists_paths(split: str, number: int) -> tuple[str, str]:
    name = f"{split}_{number:06d}.png"
    return f"images/{name}", f"labels/{name}"


def _cityscapes_paths(split: str, number: int) -> tuple[str, str]:
    city = f"scene{split}"
    stem = f"{city}_{number // 1000:06d}_{number % 1000:06d}"
    return f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png", f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"


_FORMATS: dict[str, _Format] = {
    "camvid-segnet": _Format(_segnet_paths, _camvid_indices),
    "camvid": _Format(_camvid_paths, train_id_to_camvid_rgb, lambda s, n: Path(_camvid_paths(s, n)[0]).name),
    "camvid-lists": _Format(_lists_paths, _camvid_indices, lambda s, n: " ".join(_lists_paths(s, n))),
    "cityscapes": _Format(_cityscapes_paths, _cityscapes_ids),
}
SCENE_FORMATS = tuple(_FORMATS)


def write_scenes(
    directory: str | os.PathLike[str],
    layout: str,
    counts: Mapping[str, int],
    size: tuple[int, int],
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> WrittenScenes:
    """Write generated scenes into `directory`; an interrupted call is finished by the same call.

    A file appears under its name only when it is whole, and what is there is not written again. Calling once more with
    larger counts adds scenes; those that are there stay as they are.

    Args:
        directory: a new or empty folder, or one that an earlier call wrote.
        layout: one of `SCENE_FORMATS`.
        counts: images per split; of `train`, `val` and `test`, any may be left out.
        size: height and width, pixels.
        seed: of the scenes, 0 or more.
        progress: called once for each image, written or kept.

    Raises:
        UnknownNameError: for another layout or split.
        UsageError: for a negative count or seed, no image at all, or a size the generator refuses.
        OutputError: where the folder holds something else, or cannot be written.
    """
    if layout not in _FORMATS:
        raise UnknownNameError("layout", layout, _FORMATS)
    for split, count in counts.items():
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if not 0 <= count < _SPLIT_STRIDE:
            raise UsageError(f"the number of {split} images must be between 0 and {_SPLIT_STRIDE - 1}, got {count}")
    if sum(counts.values()) == 0:
        raise UsageError("no image to write: at least one split must have a count above 0")
    check_scene(seed, size)
    root = Path(directory)
    form = _FORMATS[layout]
    written = kept = 0
    try:
        _claim(root, layout, {split: counts.get(split, 0) for split in SPLITS}, size, seed)
        for split, count in counts.items():
            for number in range(count):
                new = _write_scene(root, form, split, number, size, seed)
                written, kept = written + new, kept + (not new)
                if progress is not None:
                    progress()
            if form.line is not None and count:
                lines = "".join(f"{form.line(split, number)}\n" for number in range(count))
                _write_bytes(root / f"{split}.txt", lines.encode())
    except OSError as error:
        raise OutputError(f"cannot write scenes into {root}: {error.strerror or error}") from error
    return WrittenScenes(root, layout, dict(counts), written, kept)


def _claim(root: Path, layout: str, counts: dict[str, int], size: tuple[int, int], seed: int) -> None:
    """Mark the folder as one series of scenes, or check that it is this one."""
    ours = {"generator": GENERATOR, "layout": layout, "size": list(size), "seed": seed}
    marker = root / MARKER
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file: name a folder for the scenes")
    root.mkdir(parents=True, exist_ok=True)
    if marker.exists():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
            before = {split: int(count) for split, count in found.pop("counts").items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{marker} is no marker of generated scenes: choose another folder") from error
        if found != ours:
            raise OutputError(
                f"{root} holds other scenes ({_describe(found)}; asked for {_describe(ours)}): choose another folder"
            )
        for split in SPLITS:
            if before.get(split, 0) > counts[split]:
                raise OutputError(
                    f"{root} holds {before[split]} {split} scenes already, asked for {counts[split]}: "
                    "ask for at least as many, or choose another folder"
                )
    elif any(path.name != f".{MARKER}.part" for path in root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no generated scenes: choose another folder")
    _write_bytes(marker, (json.dumps({**ours, "counts": counts}, indent=1) + "\n").encode())


def _describe(series: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in series.items())


def _write_scene(root: Path, form: _Format, split: str, number: int, size: tuple[int, int], seed: int) -> bool:
    """Write one scene unless both of its files are there; return whether anything was written."""
    image_path, label_path = (root / part for part in form.paths(split, number))
    if image_path.exists() and label_path.exists():
        return False
    scene = generate_scene(seed, SPLITS.index(split) * _SPLIT_STRIDE + number, size)
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
    """Name a file while it is being written; an interrupted one is overwritten by the next call."""
    return path.with_name(f".{path.name}.part")
