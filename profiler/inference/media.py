"""Images and videos to segment, with the paths of their outputs; headers are checked before the first is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...errors import DataError, UsageError
from ...models.images import (
    IMAGE_FOLDER,
    IMAGE_SUFFIXES,
    LABEL_ENDINGS,
    LABEL_FOLDERS,
    check_image,
    list_folder,
    read_pixels,
)
from ..deployment.network import Log
from .video import VIDEO_SUFFIXES, Clip

if TYPE_CHECKING:
    from ...models.images import RGBImage

MAX_FOLDERS = 4
"""Number of folders in a message."""


@dataclass(frozen=True)
class MediaFile:
    """Image or video.

    Attributes:
        path: file.
        stem: common prefix of its output paths.
        clip: video; None for an image.
    """

    path: Path
    stem: Path
    clip: Clip | None

    @property
    def frames(self) -> int:
        """Number of images; estimated for a video."""
        return 1 if self.clip is None else self.clip.frames

    def read(self, on_remark: Log) -> Iterator[RGBImage]:
        """Yield its images, RGB [h, w, 3].

        Args:
            on_remark: receives remarks on ignored parts of the file.

        Raises:
            DataError: the file is damaged.
        """
        if self.clip is not None:
            yield from self.clip.read(on_remark)
        else:
            yield read_pixels(self.path, on_remark=on_remark)

    def output(self, kind: str) -> Path:
        """Return the path of its `mask`, `overlay` or `ids`."""
        return self.stem.with_name(f"{self.stem.name}-{kind}{'.png' if self.clip is None else '.mp4'}")

    def outputs(self, ids: bool) -> dict[str, Path]:
        """Return the path of each output by kind; class ids are an output of images only."""
        kinds = ("overlay",) if self.clip is not None else ("mask", "overlay", *(("ids",) if ids else ()))
        return {kind: self.output(kind) for kind in kinds}


def list_media(
    sources: Sequence[Path],
    out: Path,
    *,
    ids: bool,
    datasets: Mapping[Path, Collection[Path]] | None = None,
    log: Log = print,
) -> tuple[list[MediaFile], dict[Path, str]]:
    """List files as given and folders recursively, and check that every output path is free to use.

    Folders of labels inside a folder are skipped, e.g. `masks/` next to `images/`, or `trainannot/` next to `train/`.

    Args:
        sources: images, videos and folders.
        out: output folder; its files are skipped where it is inside a source folder.
        ids: True if class ids are written too.
        datasets: images of the folders that are datasets; their other files are skipped.
        log: receives remarks on skipped files.

    Returns:
        The readable files, and the error message of each unreadable one.

    Raises:
        DataError: a source is missing or empty, or no file is readable.
        UsageError: two inputs have the same output path, an output would overwrite an input, or `out` holds inputs.
        BackendUnavailableError: PyAV is not installed, and a source is a video.
    """
    stems = {
        path: stem
        for source in sources
        for path, stem in _list_files(source, out, None if datasets is None else datasets.get(source), log)
    }
    media: list[MediaFile] = []
    errors: dict[Path, str] = {}
    for path, stem in stems.items():
        try:
            media.append(MediaFile(path, stem, _open_clip(path)))
        except DataError as error:
            errors[path] = str(error)
    if not media:
        raise_unreadable(errors, log)
    _check_outputs(media, {path.resolve() for path in stems}, ids)
    return media, errors


def raise_unreadable(errors: Mapping[Path, str], log: Log) -> NoReturn:
    """Raise the error for inputs none of which is readable; the messages of several go to `log`.

    Raises:
        DataError: always.
    """
    if len(errors) == 1:
        raise DataError(*errors.values())
    for message in errors.values():
        log(message)
    raise DataError(f"none of the {len(errors)} input files is readable")


def _check_outputs(media: Sequence[MediaFile], inputs: Collection[Path], ids: bool) -> None:
    """Check that no output belongs to two files or overwrites an input."""
    owners: dict[Path, Path] = {}
    for file in media:
        if file.stem in owners:
            raise UsageError(
                f"{owners[file.stem]} and {file.path} have the same output files: segment them separately, with "
                "different --out"
            )
        owners[file.stem] = file.path
        for output in file.outputs(ids).values():
            if output.resolve() in inputs:
                raise UsageError(f"output {output} would overwrite an input: choose another --out")


def _list_files(source: Path, out: Path, chosen: Collection[Path] | None, log: Log) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a source, or those `chosen` in it, with their outputs' stems; skip outputs and labels."""
    folder, target = (source.parent if source.is_file() else source).resolve(), out.resolve()
    if folder == target:
        raise UsageError(f"--out {out} holds the input images: choose another folder")
    if source.is_file():
        yield source, out / source.stem
        return
    images, others = (
        [path for path in paths if not (target.is_relative_to(folder) and path.resolve().is_relative_to(target))]
        for paths in _list_folder(source)
    )
    if others:
        log(_describe_skipped(source, Counter(path.suffix.lower() or "no extension" for path in others)))
    labels = [path for path in images if (_is_label(path, source) if chosen is None else path not in chosen)]
    if labels:
        folders = ", ".join(sorted({f"{path.parent.relative_to(source)}/" for path in labels})[:MAX_FOLDERS])
        kind = "labels" if chosen is None else "not its images"
        log(f"skipped in folder {source}, {kind}: {len(labels)} in {folders}")
    if len(labels) == len(images):
        raise DataError(f"folder {source} has labels only, no images: to segment them, pass their own folder")
    for path in sorted({*images}.difference(labels)):
        yield path, out / path.relative_to(source).with_suffix("")


def _is_label(path: Path, source: Path) -> bool:
    """Return True if a folder between a source and a file has labels."""
    return any(_has_labels(folder) for folder in path.parents if folder != source and folder.is_relative_to(source))


@cache
def _has_labels(folder: Path) -> bool:
    """Return True for a folder of labels: by its name, and by that of the images' folder next to it."""
    name = folder.name.lower()
    if name in LABEL_FOLDERS:
        return (folder.parent / IMAGE_FOLDER).is_dir()
    stems = (folder.name[: -len(ending)] for ending in LABEL_ENDINGS if name.endswith(ending))
    return any(stem and (folder.parent / stem).is_dir() for stem in stems)


def _list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return `list_folder`; the error of a folder with videos only says how to name them."""
    try:
        return list_folder(folder)
    except DataError as error:
        if any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*")):
            raise DataError(f"{error}, only videos: give them by name") from error
        raise


def _describe_skipped(folder: Path, counts: Counter[str]) -> str:
    """Return a remark on files of a folder that are not images."""
    kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(counts.items()))
    hint = "; give videos by name" if set(counts) & set(VIDEO_SUFFIXES) else ""
    return f"skipped in folder {folder}, not images: {kinds}{hint}"


def _open_clip(path: Path) -> Clip | None:
    """Return the video; None for an image.

    Raises:
        DataError: the file is neither.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Clip.open(path)
    try:
        check_image(path)
    except DataError as error:
        hint = "" if suffix in IMAGE_SUFFIXES else f"; suffixes of videos: {', '.join(VIDEO_SUFFIXES)}"
        raise DataError(f"{error}{hint}") from error
    return None
