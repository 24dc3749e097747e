"""Sources of networks: an architecture, a peer, or a factory of the user's. Each builds a module for its classes.

A factory is a function `build(classes: int) -> nn.Module`. Only `load_source` imports one, and only commands and Python
callers pass it a reference: nothing that a file names is executed.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import LgcError, PluginError, UnknownNameError, UsageError
from ...files import hash_file
from ...plugin_imports import ImportScope
from ...plugins import describe_error, isolate_user_code, load_object
from ..recipe import hash_text
from ..space.protocol import ARCHITECTURE_FILE, Architecture
from .peers import PEERS, build_peer

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["architecture", "peer", "factory"]
"""Kind of a source."""
PEER_PREFIX = "peer:"
"""Start of a reference to a built-in peer."""
CLASSES_ARGUMENTS = (
    *("classes", "num_classes", "n_classes", "nclass", "nclasses", "num_class", "n_class", "numclasses", "nb_classes"),
    *("class_num", "class_count", "number_of_classes", "out_classes", "num_labels"),
)
"""Names of a factory's argument for the number of classes, in lower case."""


class NetworkSource(ABC):
    """Origin of a network that maps [N, 3, H, W] to logits.

    Attributes:
        kind: `architecture`, `peer` or `factory`.
    """

    kind: ClassVar[Kind]

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in tables, file names and messages; independent of the folder of a file."""

    @property
    @abstractmethod
    def reference(self) -> str:
        """Reference as the user writes it, e.g. `peer:pidnet-s` or `models/unet.py:build`."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """12 hexadecimal digits: a hash of what defines the network; empty if unknown."""

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """Build the module with random weights from the generators of torch, NumPy and Python.

        Raises:
            PluginError: The user's code raises an error or returns no module.
        """


@dataclass(frozen=True)
class ArchitectureSource(NetworkSource):
    """Architecture of a search space."""

    architecture: Architecture
    kind = "architecture"

    @property
    def name(self) -> str:
        """Name of the space."""
        return self.architecture.space.name

    @property
    def reference(self) -> str:
        """File name of the architecture."""
        return ARCHITECTURE_FILE

    @property
    def digest(self) -> str:
        """Hash of the architecture without its provenance."""
        text = self.architecture.with_provenance({}).to_json()
        return hash_text(text)

    def build(self, classes: int) -> nn.Module:
        """Build LGCNet; `classes` must be the space's."""
        from .network import LGCNet

        space = self.architecture.search_space
        if classes != space.classes:
            raise UsageError(f"space {space.name} has {space.classes} classes, not {classes}")
        return LGCNet(space, self.architecture)


@dataclass(frozen=True)
class PeerSource(NetworkSource):
    """Built-in peer.

    Raises:
        UnknownNameError: No such peer.
    """

    peer: str
    kind = "peer"

    def __post_init__(self) -> None:
        if self.peer not in PEERS:
            raise UnknownNameError("peer", self.peer, PEERS)

    @property
    def name(self) -> str:
        """Name of the peer."""
        return self.peer

    @property
    def reference(self) -> str:
        """Reference with its prefix, e.g. `peer:pidnet-s`."""
        return f"{PEER_PREFIX}{self.peer}"

    @property
    def digest(self) -> str:
        """Empty: the peer belongs to lgc, whose version is recorded elsewhere."""
        return ""

    def build(self, classes: int) -> nn.Module:
        """Build the peer; a training adds the auxiliary heads of its paper."""
        return build_peer(self.peer, classes)


@dataclass(frozen=True)
class FactorySource(NetworkSource):
    """Factory of the user's, imported by `load_source`.

    Attributes:
        factory: Function from the number of classes to a module.
        text: Reference as the user wrote it.
        source_digest: Hash of the source file that defines the factory; empty for a module without one.
    """

    factory: Callable[..., object] = field(compare=False, repr=False)
    text: str
    source_digest: str
    scope: ImportScope | None = field(default=None, compare=False, repr=False)
    kind = "factory"

    @property
    def name(self) -> str:
        """Reference without the folder of a file: `unet.py:build`."""
        source, _, name = self.text.rpartition(":")
        return f"{Path(source).name}:{name}"

    @property
    def reference(self) -> str:
        """Reference as the user wrote it."""
        return self.text

    @property
    def digest(self) -> str:
        """Hash of the factory's source file; files that it imports do not count."""
        return self.source_digest

    def build(self, classes: int) -> nn.Module:
        """Call the factory, and check that it returns a module.

        Raises:
            PluginError: The factory's argument for the number of classes is unknown, it raises an error, whose line the
                message has, or it returns something else.
        """
        import torch
        from torch import nn

        keyword = find_classes_argument(self.factory, self.text)
        try:
            with isolate_user_code(self.text, self.scope):
                module = self.factory(**{keyword: classes}) if keyword else self.factory(classes)
        except LgcError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.text} failed for classes={classes}: {describe_error(error)}") from error
        if isinstance(module, torch.jit.ScriptModule):
            raise PluginError(
                f"{self.text} returns TorchScript, which can be neither trained nor folded: return the module itself, "
                f"without torch.jit"
            )
        if not isinstance(module, nn.Module):
            raise PluginError(f"{self.text} must return a torch.nn.Module, got {type(module).__name__}")
        return module


def load_source(reference: str) -> NetworkSource:
    """Return the network that the user names: `peer:NAME`, `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        UnknownNameError: No such peer.
        PluginError: There is no such file, module or object, it raises an error, or it is not a function.
        UsageError: The reference is a peer without its prefix, or names a run folder or an architecture.
    """
    if reference.startswith(PEER_PREFIX):
        return PeerSource(reference.removeprefix(PEER_PREFIX))
    if reference in PEERS:
        raise UsageError(f"--network {reference} names a peer: write {PEER_PREFIX}{reference}")
    if reference.endswith(".json") or Path(reference).is_dir():
        raise UsageError(f"--network {reference} is a run or an architecture: pass it without --network")
    factory, plugin = load_object(reference)
    if isinstance(factory, type) and not hasattr(factory, "forward"):
        raise PluginError(f"{reference} is a class without forward: pass a function build(classes) -> torch.nn.Module")
    if not callable(factory) or (hasattr(factory, "forward") and not isinstance(factory, type)):
        raise PluginError(
            f"{reference} is an object of type {type(factory).__name__}: pass a function build(classes) -> "
            f"torch.nn.Module"
        )
    return FactorySource(factory, reference, _hash_source(factory) or plugin.digest, plugin.scope)


def find_classes_argument(factory: Callable[..., object], name: str) -> str:
    """Return the keyword of a factory's argument for the number of classes; empty for its first argument.

    Raises:
        PluginError: It is unknown: no argument has one of `CLASSES_ARGUMENTS`, and not exactly one is required.
    """
    try:
        arguments = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):
        arguments = []
    named = [argument.name for argument in arguments if argument.name.lower() in CLASSES_ARGUMENTS]
    if named and arguments[0].kind is not Parameter.POSITIONAL_ONLY:
        return min(named, key=lambda argument: CLASSES_ARGUMENTS.index(argument.lower()))
    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    required = [argument for argument in arguments if argument.default is Parameter.empty]
    required = [argument for argument in required if argument.kind not in variable]
    if [argument.name for argument in required] != [argument.name for argument in arguments[:1]] or not required:
        listed = ", ".join(argument.name for argument in arguments) or "none"
        raise PluginError(
            f"the argument of {name} for the number of classes is unknown (its arguments: {listed}): pass a function "
            f"build(classes) -> torch.nn.Module"
        )
    return required[0].name if required[0].kind is Parameter.KEYWORD_ONLY else ""


def _hash_source(factory: Callable[..., object]) -> str:
    """Return the hash of the file that defines a factory, which another module may only import; empty if unknown."""
    function = inspect.unwrap(factory.func if isinstance(factory, partial) else factory)
    try:
        file = inspect.getsourcefile(function)
        return hash_file(Path(file)) if file else ""
    except (OSError, TypeError):
        return ""
