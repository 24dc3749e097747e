"""Definition of a network: what builds it, and what its images and classes are. One file of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import FileFormatError, UsageError
from ...files import read_text, write_atomic
from ..geometry import Geometry
from ..images import IMAGENET, Normalisation
from ..palettes import Palette
from ..space.protocol import ARCHITECTURE_FILE, Architecture
from ..space.settings import format_validation_error
from .sources import ArchitectureSource, FactorySource, Kind, NetworkSource, PeerSource

if TYPE_CHECKING:
    from torch import nn

NETWORK_FILE = "network.json"
"""File name of the definition in a run folder."""
WEIGHTS_FILE = "weights.safetensors"
"""File name of the weights in a run folder."""
Log = Callable[[str], None]
"""Receives remarks, one line each."""
Channels = tuple[float, float, float]
Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=99_999)]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
"""Text without control characters, which would reach the terminal."""


@dataclass(frozen=True)
class NetworkDefinition:
    """Network of any source, for images of one size and a list of classes.

    Attributes:
        source: Builder of the network.
        input: Height and width of its images in pixels.
        classes: Number of classes.
        class_names: Names of the classes; None if unknown.
        palette: Colours of the classes; None if unknown.
        normalisation: Statistics of its input.
        dataset: Name of the dataset's layout; None if unknown.
        output: Name of the main output of a network with several, as the user chose it; None for `choose_main`.
    """

    source: NetworkSource
    input: tuple[int, int]
    classes: int
    class_names: tuple[str, ...] | None = None
    palette: Palette | None = None
    normalisation: Normalisation = IMAGENET
    dataset: str | None = None
    output: str | None = None

    @classmethod
    def of(cls, network: Architecture | Self) -> Self:
        """Return a definition unchanged, and an architecture as a definition without a dataset."""
        if not isinstance(network, Architecture):
            return network
        space = network.search_space
        return cls(ArchitectureSource(network), space.input, space.classes)

    @property
    def architecture(self) -> Architecture | None:
        """Architecture of a search space; None for other sources."""
        return self.source.architecture if isinstance(self.source, ArchitectureSource) else None

    @property
    def geometry(self) -> Geometry:
        """Positions of the logits in the image: those of the space, half-pixel centres without one."""
        architecture = self.architecture
        return Geometry.HALF_PIXEL if architecture is None else architecture.search_space.geometry

    def with_input(self, size: tuple[int, int]) -> Self:
        """Return the definition for images of a different size, (height, width)."""
        if size == self.input:
            return self
        source, architecture = self.source, self.architecture
        if architecture is not None:
            space = architecture.search_space.with_input(*size)
            source = ArchitectureSource(space.build(architecture.choices, **architecture.provenance))
        return replace(self, source=source, input=size)

    def build(self, seed: int = 0) -> nn.Module:
        """Build the network with random weights that depend on the seed; all generators are left unchanged.

        Raises:
            PluginError: The user's factory raises an error or returns no module.
        """
        from ..random_state import seed_generators

        with seed_generators(seed):
            return self.draw()

    def draw(self) -> nn.Module:
        """Build the network with random weights from the generators of torch, NumPy and Python.

        Raises:
            PluginError: The user's factory raises an error or returns no module.
        """
        from .layers import detach_computed_weights
        from .outputs import SelectMain, initialise_lazy_layers

        network = self.source.build(self.classes)
        if self.output is not None:
            network.register_forward_hook(SelectMain(self.output))
        if isinstance(self.source, FactorySource):
            initialise_lazy_layers(network, self.input)
            detach_computed_weights(network)
        return network

    def save(self, folder: Path) -> None:
        """Write `network.json` into a run folder, unless it has the same one; the digest of a factory may differ.

        Raises:
            OutputError: The file cannot be written.
        """
        record = NetworkRecord(
            kind=self.source.kind,
            name=self.source.name,
            reference=self.source.reference,
            digest=self.source.digest,
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            normalisation=NormalisationRecord(mean=self.normalisation.mean, std=self.normalisation.std),
        )
        stored = read_record(folder)
        if stored is None or stored.model_copy(update={"digest": record.digest}) != record:
            write_atomic(folder / NETWORK_FILE, record.model_dump_json(indent=2) + "\n")


_PLAIN_FIELDS = ("input", "classes", "class_names", "palette", "dataset", "output")
"""Fields of a definition that its file has unchanged."""


class NormalisationRecord(BaseModel):
    """`normalisation` of `network.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Channels
    std: Channels


class NetworkRecord(BaseModel):
    """Content of `network.json`. `reference` is a text for messages and is never imported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Kind
    name: Text
    reference: Text
    digest: Text
    input: tuple[Side, Side]
    classes: Annotated[int, Field(ge=1, le=255)]
    class_names: tuple[Text, ...] | None
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None
    dataset: Text | None
    normalisation: NormalisationRecord
    output: Text | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for name in ("class_names", "palette"):
            values = getattr(self, name)
            if values is not None and len(values) != self.classes:
                raise ValueError(f"{name} has {len(values)} entries for {self.classes} classes")
        if self.class_names is not None and len({*self.class_names}) < self.classes:
            raise ValueError("class_names has a name twice")
        return self


def read_record(folder: Path) -> NetworkRecord | None:
    """Read `network.json` of a run folder; None if there is none, as in runs of earlier versions.

    Raises:
        FileFormatError: The file is damaged.
    """
    path = folder / NETWORK_FILE
    if not path.exists():
        return None
    text = read_text(path, "network definition")
    try:
        record = NetworkRecord.model_validate_json(text)
        Normalisation(record.normalisation.mean, record.normalisation.std)
    except ValidationError as error:
        detail = format_validation_error(error)
        raise FileFormatError(f"{path} is damaged ({detail}): train again in another folder") from error
    except UsageError as error:
        raise FileFormatError(f"{path} is damaged ({error}): train again in another folder") from error
    return record


@dataclass(frozen=True)
class RunNetwork:
    """Network to train or to evaluate, as a user names it.

    Attributes:
        run: Run folder of the network; None for a new network.
        network: Network that the user named: a new one, or the factory of the run.
        input: Height and width of a new network's images in pixels.
        teacher: Factory of the teacher's run, if a training has one.
        output: Name of the main output of a network with several; None for that of the run, or of `choose_main`.
    """

    run: Path | None = None
    network: NetworkSource | None = None
    input: tuple[int, int] | None = None
    teacher: NetworkSource | None = None
    output: str | None = None

    def choose_folder(self, out: Path | None) -> Path:
        """Return the folder of a training: `out`, else the run folder.

        Raises:
            UsageError: there is neither.
        """
        folder = out or self.run
        if folder is None:
            raise UsageError("a new network needs a folder for its run: add --out DIR")
        return folder


def load_definition(run: Path, network: NetworkSource | None = None, log: Log = print) -> NetworkDefinition:
    """Return the definition of a run folder's network, or of an architecture file.

    Nothing that the folder names is executed: a factory has to be named again by the caller.

    Args:
        run: Run folder, or architecture file.
        network: Network that the user named; required for a factory's run.
        log: Receives a warning if the factory's source has changed.

    Raises:
        FileFormatError: The folder has neither an architecture nor a definition, or they are damaged.
        UsageError: The run was trained with a factory that the user has not named, or with another network.
    """
    record = read_record(run) if run.is_dir() else None
    path = run / ARCHITECTURE_FILE if run.is_dir() else run
    if record is None or path.exists():
        definition = NetworkDefinition.of(Architecture.load(path))
        if network is not None:
            raise UsageError(f"{run} has an architecture of its own: leave out --network {network.reference}")
        if record is None:
            return definition
        if (record.kind, record.classes) != (definition.source.kind, definition.classes):
            raise FileFormatError(f"{run / NETWORK_FILE} does not belong to {path}: delete it, or train again")
        return _complete(record, definition.source)
    return _complete(record, _require_source(run, record, network, log))


def _complete(record: NetworkRecord, source: NetworkSource) -> NetworkDefinition:
    normalisation = Normalisation(record.normalisation.mean, record.normalisation.std)
    fields = {name: getattr(record, name) for name in _PLAIN_FIELDS}
    return NetworkDefinition(source, **fields, normalisation=normalisation)


def _require_source(run: Path, record: NetworkRecord, network: NetworkSource | None, log: Log) -> NetworkSource:
    """Return the source of a run without an architecture."""
    if record.kind == "architecture":
        raise FileFormatError(f"{run} has no {ARCHITECTURE_FILE}, which its {NETWORK_FILE} needs: train again")
    if record.kind == "factory" and network is None:
        raise UsageError(
            f"{run} was trained with a function that it calls {record.reference!r}; code that a run folder names is "
            f"never executed: name your own file with that function, --network FILE.py:NAME"
        )
    if network is None:
        return PeerSource(record.name)
    if (network.kind, network.name) != (record.kind, record.name):
        raise UsageError(
            f"{run} was trained with {record.reference!r}, not {network.reference}: name that network, or choose "
            f"another folder"
        )
    if network.digest != record.digest:
        log(
            f"warning: the source of {network.reference} has changed since {run} was trained ({record.digest}, now "
            f"{network.digest}); the result may differ"
        )
    return network


def find_factory(run: Path, networks: Sequence[NetworkSource]) -> NetworkSource | None:
    """Return the factory among `networks` that a run folder was trained with; None if it needs none, or has none.

    Names decide, see `FactorySource.name`; among equal names, an unchanged source file, then its path.

    Raises:
        UsageError: Several factories fit.
    """
    record = read_record(run) if run.is_dir() else None
    if record is None:
        return None
    places = [Path.cwd(), *run.resolve().parents]  # the folder in which the run was trained is one of these, as a rule
    paths = {(place / record.reference).resolve() for place in places}
    end = Path(record.reference).parts
    matches = [network for network in networks if (network.kind, network.name) == ("factory", record.name)]
    for fits in (
        lambda network: network.digest == record.digest,
        lambda network: Path(network.reference).resolve() in paths,
        lambda network: Path(network.reference).resolve().parts[-len(end) :] == end,
    ):
        matches = [network for network in matches if fits(network)] or matches
    if len({Path(network.reference).resolve() for network in matches}) > 1:
        listed = ", ".join(network.reference for network in matches)
        raise UsageError(
            f"{run} was trained with {record.reference!r}, and it is unknown which of {listed} that is: pass one of "
            f"them at a time, or export each run and compare the ONNX files"
        )
    return next(iter(matches), None)
