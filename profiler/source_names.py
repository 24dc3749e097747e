"""Display names of the files, run folders and networks of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from ..errors import UsageError
from ..models.nets.sources import NetworkSource


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
    return {source: _shorten(parts[place], parts.values()) for source, place in places.items()}


def name_networks(networks: Sequence[NetworkSource]) -> dict[NetworkSource, str]:
    """Return a name for each network: its own, with as many folders as functions of equal files and names need."""
    counts = Counter(network.name for network in networks)
    parts = {
        network: (*Path(network.reference).resolve().parts[:-1], network.name)
        for network in networks
        if network.kind == "factory" and counts[network.name] > 1
    }
    return {
        network: _shorten(parts[network], parts.values()) if network in parts else network.name for network in networks
    }


def _shorten(own: tuple[str, ...], parts: Collection[tuple[str, ...]]) -> str:
    """Return the last parts of a path that no other one has; all of them if there are two of it."""
    depths = range(1, len(own) + 1)
    return str(Path(*next((own[-n:] for n in depths if sum(each[-n:] == own[-n:] for each in parts) == 1), own)))
