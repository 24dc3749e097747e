"""Images and videos to segment, with the paths of their outputs; headers are checked before the first is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...errors import DataError, UsageError
from ...models.image_folders import FolderListing, describe_files, find_labels, list_folder
from ...models.images import CONVERT_HINT, IMAGE_SUFFIXES, UNREAD_SUFFIXES, check_image, read_pixels
from ..deployment.network import Log
from .video import VIDEO_SUFFIXES, Clip

if TYPE_CHECKING:
    from ...models.images import RGBImage

LEGEND_FILE = "legend.png"
"""Picture of the classes' names and colours, in the output folder."""
OUTPUT_KINDS = ("mask", "overlay", "ids")
"""Kinds of outputs; a video has an overlay only."""


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
        kinds = OUTPUT_KINDS[1:2] if self.clip is not None else OUTPUT_KINDS[: 3 if ids else 2]
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

    Labels inside a folder are skipped, see `find_labels`.

    Args:
        sources: images, videos and folders.
        out: output folder; its files are skipped where it is inside a source folder.
        ids: True if class ids are written too.
        datasets: images of the folders that are datasets; their other files are skipped.
        log: receives remarks on skipped files.

    Returns:
        The readable files, and the error message of each unreadable file or folder.

    Raises:
        DataError: a source is missing or empty, or no file is readable.
        UsageError: two inputs have the same output path, an output would overwrite an input, or `out` holds inputs.
        BackendUnavailableError: PyAV is not installed, and a source is a video.
    """
    media: list[MediaFile] = []
    errors: dict[Path, str] = {}
    stems = {
        path: stem
        for source in sources
        for path, stem in _list_files(source, out, (datasets or {}).get(source), errors, log)
    }
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


def _list_files(
    source: Path, out: Path, chosen: Collection[Path] | None, errors: dict[Path, str], log: Log
) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a source, or those `chosen` in it, with their outputs' stems; skip outputs and labels."""
    folder, target = (source.parent if source.is_file() else source).resolve(), out.resolve()
    if folder == target:
        raise UsageError(f"--out {out} holds the input images: choose another folder")
    if source.is_file():
        yield source, out / source.stem
        return
    listing = list_folder(source)
    is_video = any(path.suffix.lower() in VIDEO_SUFFIXES for path in listing.others)
    listing.require_images(", only videos: give them by name" if is_video else "")
    errors |= listing.errors
    if not folder.is_relative_to(target):
        listing = _drop_outputs(listing, target, log)
        chosen = None if chosen is None else [path for path in chosen if not path.resolve().is_relative_to(target)]
    if listing.others:
        log(_describe_skipped(source, Counter(path.suffix.lower() or "no extension" for path in listing.others)))
    images = {*listing.images} if chosen is None else {*chosen}
    labels = find_labels(source, listing.images) if chosen is None else sorted({*listing.images} - images)
    if labels:
        kind = "labels" if chosen is None else "not its images"
        log(f"skipped in folder {source}, {kind}: {describe_files(source, labels)}")
    if not images.difference(labels):
        raise DataError(f"folder {source} has labels only, no images: to segment them, pass their own folder")
    for path in sorted(images.difference(labels)):
        yield path, out / path.relative_to(source).with_suffix("")


def _drop_outputs(listing: FolderListing, out: Path, log: Log) -> FolderListing:
    """Return a listing without the files in the output folder; report images that are not outputs.

    Raises:
        DataError: all images are in the output folder.
    """
    images, others = (
        [path for path in paths if not path.resolve().is_relative_to(out)] for paths in (listing.images, listing.others)
    )
    if not images:
        raise DataError(f"all images in folder {listing.folder} are in the output folder {out}: choose another --out")
    endings = tuple(f"-{kind}" for kind in OUTPUT_KINDS)
    own = [path for path in listing.images if not (path.stem.endswith(endings) or path.name == LEGEND_FILE)]
    if skipped := sorted({*own}.difference(images)):
        log(f"skipped in folder {listing.folder}, in the output folder: {describe_files(listing.folder, skipped)}")
    return replace(listing, images=images, others=others)


def _describe_skipped(folder: Path, counts: Counter[str]) -> str:
    """Return a remark on files of a folder that are not images, or in formats that are not read."""
    kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(counts.items()))
    hint = "; give videos by name" if set(counts) & set(VIDEO_SUFFIXES) else ""
    if unread := sorted(set(counts) & set(UNREAD_SUFFIXES)):
        hint += f"; {', '.join(unread)}: {CONVERT_HINT}"
    return f"skipped in folder {folder}, {'not read' if unread else 'not images'}: {kinds}{hint}"


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
