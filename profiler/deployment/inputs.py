"""What `lgc-predict` is given: every image and video, shown to be one, and where what comes of it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError, UsageError
from .video import SUFFIXES as VIDEOS
from .video import Clip

if TYPE_CHECKING:
    from ...models.images import RGBImage


@dataclass(frozen=True)
class MediaFile:
    """An image, or a video.

    Attributes:
        path: the file.
        stem: what its outputs' paths begin with.
        clip: the video; None of an image.
    """

    path: Path
    stem: Path
    clip: Clip | None

    @property
    def frames(self) -> int:
        """How many images it is; a video's are estimated."""
        return 1 if self.clip is None else self.clip.frames

    def read(self) -> Iterator[RGBImage]:
        """Its images, RGB [h, w, 3].

        Raises:
            DataError: it is damaged.
        """
        from ...models.images import read_pixels

        if self.clip is not None:
            yield from self.clip.read()
        else:
            yield read_pixels(self.path)

    def output(self, what: str) -> Path:
        """Path of its `mask`, `overlay` or `ids`."""
        return self.stem.with_name(f"{self.stem.name}-{what}{'.png' if self.clip is None else '.mp4'}")

    def outputs(self, ids: bool) -> dict[str, Path]:
        """What is written of it, and where."""
        wanted = ("overlay",) if self.clip is not None else ("mask", "overlay", *(("ids",) if ids else ()))
        return {what: self.output(what) for what in wanted}


def list_media(places: list[Path], out: Path, *, ids: bool) -> list[MediaFile]:
    """All that is to be done, before any of it is: files as they are named, folders with what is in and below them.

    Raises:
        DataError: something is missing, empty, or neither image nor video.
        UsageError: two outputs would be one file, or one is an input.
        BackendUnavailableError: there is a video, and PyAV is missing.
    """
    found = {path: stem for place in places for path, stem in _files(place, out)}
    owners: dict[Path, Path] = {}
    for path, stem in found.items():
        if stem in owners:
            raise UsageError(
                f"{owners[stem]} and {path} would be written to the same files: predict them with another --out each"
            )
        owners[stem] = path
    jobs = [MediaFile(path, stem, _clip(path)) for path, stem in found.items()]
    inputs = {path.resolve() for path in found}
    for job in jobs:
        for output in job.outputs(ids).values():
            if output.resolve() in inputs:
                raise UsageError(f"{output} is an input, and would be overwritten: name another --out")
    return jobs


def _files(place: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """The files at a place, and what their outputs' paths begin with; not those that an earlier call has written."""
    from ...models.images import list_images

    if place.is_file():
        yield place, out / place.stem
        return
    around, target = place.resolve(), out.resolve()
    if around == target:
        raise UsageError(f"--out {out} is a folder of inputs: the next call would take masks for images; name another")
    own = target.is_relative_to(around)
    for path in list_images(place):
        if not (own and path.resolve().is_relative_to(target)):
            yield path, out / path.relative_to(place).with_suffix("")


def _clip(path: Path) -> Clip | None:
    """The video; None of an image.

    Raises:
        DataError: it is neither.
    """
    from ...models.images import IMAGE_SUFFIXES, check_image

    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        return Clip.open(path)
    try:
        check_image(path)
    except DataError as error:
        hint = "" if suffix in IMAGE_SUFFIXES else f"; videos are called {', '.join(VIDEOS)}"
        raise DataError(f"{error}{hint}") from error
    return None
