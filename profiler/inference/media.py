"""Images and videos to segment, checked before the first is read, with the paths of their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError, UsageError
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

    def read(self) -> Iterator[RGBImage]:
        """Yield its images, RGB [h, w, 3].

        Raises:
            DataError: the file is damaged.
        """
        from ...models.images import read_pixels

        if self.clip is not None:
            yield from self.clip.read()
        else:
            yield read_pixels(self.path)

    def output(self, kind: str) -> Path:
        """Return the path of its `mask`, `overlay` or `ids`."""
        return self.stem.with_name(f"{self.stem.name}-{kind}{'.png' if self.clip is None else '.mp4'}")

    def outputs(self, ids: bool) -> dict[str, Path]:
        """Return the path of each output by kind; class ids are an output of images only."""
        kinds = ("overlay",) if self.clip is not None else ("mask", "overlay", *(("ids",) if ids else ()))
        return {kind: self.output(kind) for kind in kinds}


def list_media(sources: Sequence[Path], out: Path, *, ids: bool) -> list[MediaFile]:
    """List files as given and folders recursively, and check that every output path is free to use.

    Args:
        sources: images, videos and folders.
        out: output folder; its files are skipped where it is inside a source folder.
        ids: True if class ids are written too.

    Raises:
        DataError: a source is missing or empty, or is neither image nor video.
        UsageError: two inputs have the same output path, an output would overwrite an input, or `out` holds inputs.
        BackendUnavailableError: PyAV is not installed, and a source is a video.
    """
    stems = {path: stem for source in sources for path, stem in _list_files(source, out)}
    owners: dict[Path, Path] = {}
    for path, stem in stems.items():
        if stem in owners:
            raise UsageError(
                f"{owners[stem]} and {path} have the same output files: segment them separately, with different --out"
            )
        owners[stem] = path
    media = [MediaFile(path, stem, _open_clip(path)) for path, stem in stems.items()]
    inputs = {path.resolve() for path in stems}
    for file in media:
        for output in file.outputs(ids).values():
            if output.resolve() in inputs:
                raise UsageError(f"output {output} would overwrite an input: choose another --out")
    return media


def _list_files(source: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a source with the stems of their outputs; skip files in the output folder."""
    from ...models.images import list_images

    folder, target = (source.parent if source.is_file() else source).resolve(), out.resolve()
    if folder == target:
        raise UsageError(f"--out {out} holds the input images: choose another folder")
    if source.is_file():
        yield source, out / source.stem
        return
    for path in list_images(source):
        if not (target.is_relative_to(folder) and path.resolve().is_relative_to(target)):
            yield path, out / path.relative_to(source).with_suffix("")


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
