"""Display names of the files and run folders of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError


def name_apart(sources: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each file and run folder: its own, with as many folders as equal names need.

    Raises:
        UsageError: two sources are the same.
    """
    places = {source: source.absolute() if source.name else source.resolve() for source in sources}
    counts = Counter(places[source] for source in sources)
    if duplicates := [str(place) for place, count in counts.items() if count > 1]:
        raise UsageError(f"duplicate network names: {', '.join(duplicates)}")
    stems = {place: place.name if place.is_dir() else place.stem for place in counts}
    paths = Counter(place.with_name(stem) for place, stem in stems.items())  # a file may be named like a folder
    parts = {
        place: (*place.parts[:-1], stem if paths[place.with_name(stem)] == 1 else place.name)
        for place, stem in stems.items()
    }

    def shorten(own: tuple[str, ...]) -> str:
        depths = range(1, len(own) + 1)
        return "/".join(next(own[-n:] for n in depths if sum(each[-n:] == own[-n:] for each in parts.values()) == 1))

    return {source: shorten(parts[place]) for source, place in places.items()}
