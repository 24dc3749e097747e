"""Images and videos to segment, with the paths of their outputs; headers are checked before the first is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...errors import DataError, UsageError
from ..deployment.network import Log
from .video import VIDEO_SUFFIXES, Clip

if TYPE_CHECKING:
    from ...models.images import RGBImage


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
        from ...models.images import read_pixels

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
    sources: Sequence[Path], out: Path, *, ids: bool, log: Log = print
) -> tuple[list[MediaFile], dict[Path, str]]:
    """List files as given and folders recursively, and check that every output path is free to use.

    Args:
        sources: images, videos and folders.
        out: output folder; its files are skipped where it is inside a source folder.
        ids: True if class ids are written too.
        log: receives remarks on skipped files.

    Returns:
        The readable files, and the error message of each unreadable one.

    Raises:
        DataError: a source is missing or empty, or no file is readable.
        UsageError: two inputs have the same output path, an output would overwrite an input, or `out` holds inputs.
        BackendUnavailableError: PyAV is not installed, and a source is a video.
    """
    stems = {path: stem for source in sources for path, stem in _list_files(source, out, log)}
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


def _list_files(source: Path, out: Path, log: Log) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a source with the stems of their outputs; skip files in the output folder."""
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
    for path in images:
        yield path, out / path.relative_to(source).with_suffix("")


def _list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return `list_folder`; the error of a folder with videos only says how to name them."""
    from ...models.images import list_folder

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
    from ...models.images import IMAGE_SUFFIXES, check_image

    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Clip.open(path)
    try:
        check_image(path)
    except DataError as error:
        hint = "" if suffix in IMAGE_SUFFIXES else f"; suffixes of videos: {', '.join(VIDEO_SUFFIXES)}"
        raise DataError(f"{error}{hint}") from error
    return None
