"""Transfer of stored weights into a network that may have other names around its parts, or other classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor, nn

from ....errors import UsageError
from .state_dicts import StateDict
from .weights import require_numbers

WRAPPERS = ("module", "model", "network", "net", "backbone", "encoder", "segmentor")
"""Names of modules that hold a whole network, or its backbone, and that another program may lack."""
_INNER_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that torch inserts at any depth: `torch.compile`, FSDP, activation checkpointing."""
MIN_SHARE = 0.25
"""Share of the tensors below which weights are another network's: blocks in common may fit by chance."""
MIN_HOLDER_SHARE = 0.5
"""Share of the network's own names that a module must exceed to count as one that holds a whole network."""
_MAX_DEPTH = 4
_MAX_LISTED = 8

Shapes = Mapping[str, Size]
PartOf = Callable[[str], str]
"""Function from a tensor's name to the part of the network that is transferred as a whole or not at all."""


@dataclass(frozen=True)
class Transfer:
    """Outcome of a transfer. The names of tensors are the network's.

    Attributes:
        source: Stored weights.
        loaded: Tensors with the stored values.
        random: Tensors that kept their initial values.
        classifiers: Modules among them whose stored tensors have another number of classes -> that number.
        unused: Number of stored tensors without a use.
        removed: Prefix of the stored names that the network's lack.
        added: Prefix of the network's names that the stored ones lack, e.g. `backbone.`.
    """

    source: StateDict
    loaded: tuple[str, ...]
    random: tuple[str, ...]
    classifiers: Mapping[str, int]
    unused: int
    removed: str
    added: str

    def describe(self) -> list[str]:
        """Return lines for the user: the source, the loaded parts, and the random ones, with counts of tensors."""
        total = len(self.loaded) + len(self.random)
        remarks = [f"its entry {self.source.entry!r}"] if self.source.entry else []
        remarks += [f"prefix {self.removed!r} removed"] if self.removed else []
        remarks += [f"into {self.added!r}"] if self.added else []
        remarks += [f"{self.unused} of its tensors unused"] if self.unused else []
        notes = f" ({', '.join(remarks)})" if remarks else ""
        lines = [f"initial weights: {len(self.loaded)} of {total} tensors from {self.source.path}{notes}"]
        if self.random:
            lines.append(f"initial weights: from the file {self._list_parts(self.loaded, self.random)}")
            lines.append(f"initial weights: random {self._list_parts(self.random, self.loaded)}")
        return lines

    @property
    def random_parts(self) -> tuple[str, ...]:
        """The highest modules without a loaded tensor, in order."""
        return tuple(dict.fromkeys(shorten(name, self.loaded) for name in self.random))

    def _list_parts(self, names: Iterable[str], others: Iterable[str]) -> str:
        counts = Counter(shorten(name, others) for name in names)
        parts = [f"{part} ({count}{self._count_classes(part)})" for part, count in counts.items()]
        more = f" and {len(parts) - _MAX_LISTED} more parts" if len(parts) > _MAX_LISTED else ""
        return ", ".join(parts[:_MAX_LISTED]) + more

    def _count_classes(self, part: str) -> str:
        counts = {count for name, count in self.classifiers.items() if name == part or name.startswith(f"{part}.")}
        return f"; {counts.pop()} classes in the file" if len(counts) == 1 else ""


def get_module(name: str) -> str:
    """Return the module that a tensor belongs to: the smallest part of any network."""
    return name.rpartition(".")[0]


def shorten(name: str, others: Iterable[str]) -> str:
    """Return the highest module that a tensor belongs to and none of `others` does."""
    levels = name.split(".")
    others = list(others)
    for depth in range(1, len(levels)):
        module = ".".join(levels[:depth])
        if not any(other.startswith(f"{module}.") for other in others):
            return module
    return get_module(name) or name


def transfer_weights(
    network: nn.Module,
    stored: StateDict,
    classes: int | None = None,
    *,
    get_part: PartOf = get_module,
    min_share: float = MIN_SHARE,
) -> Transfer:
    """Copy stored weights into `network`, part by part, where a whole part fits; the rest keeps its initial values.

    Prefixes such as `module.` are matched on both sides, see `match_names`. A classifier, whose tensors differ in the
    number of classes alone, keeps its initial values without the rest of its part.

    Args:
        network: Network to initialise.
        stored: Weights of this network, of one with other classes, or of its backbone.
        classes: Number of classes of the network; None if unknown.
        get_part: Parts; by default each module with tensors is one.
        min_share: Share of the network's tensors, or of the file's, that must fit.

    Raises:
        UsageError: No part fits, too few tensors do, most tensors of equal name have other shapes, or the tensors of
            two networks fit.
        FileFormatError: A tensor to copy has a type other than floating point, or NaN or infinite values.
    """
    own = network.state_dict()
    tensors = {_INNER_WRAPPERS.sub("", name): tensor for name, tensor in stored.tensors.items()}
    shapes = {name: tensor.shape for name, tensor in own.items() if tensor.is_floating_point()}
    (removed, added), *equals = _rank_prefixes(shapes, {name: tensor.shape for name, tensor in tensors.items()})
    renamed = {added + name[len(removed) :]: tensor for name, tensor in tensors.items() if name.startswith(removed)}
    renamed |= (tied := _find_tied(own, renamed))
    same = {name for name, shape in shapes.items() if name in renamed and renamed[name].shape == shape}
    classifiers = _find_classifiers(shapes, renamed, classes)
    different = {
        name for name in shapes if name in renamed and name not in same and get_module(name) not in classifiers
    }
    _require_fit(stored, shapes, renamed, same, different)
    if len(same) < min_share * min(len(shapes), len(tensors)):
        raise UsageError(
            f"{stored.path} has weights of another network: only {len(same)} of its {len(tensors)} tensors fit the "
            f"{len(shapes)} of this one; train with --init scratch"
        )
    _require_no_rival(stored, tensors, removed, [prefix for prefix, _ in equals])
    whole = _list_whole_parts((name for name in shapes if get_module(name) not in classifiers), same, get_part)
    copied = {
        name: renamed[name]
        for name in own  # counters of batch normalisations may be missing
        if get_part(name) in whole and get_module(name) not in classifiers
        if name in renamed and renamed[name].shape == own[name].shape
    }
    if not copied:
        raise UsageError(f"no part of {stored.path} fits this network as a whole; train with --init scratch")
    require_numbers(copied, own, stored.path)
    network.load_state_dict(own | copied)
    loaded, random = (tuple(name for name in shapes if (name in copied) == is_loaded) for is_loaded in (True, False))
    unused = sum(tensor.is_floating_point() for tensor in tensors.values())
    unused -= len(set(loaded) - tied.keys())
    return Transfer(stored, loaded, random, classifiers, unused, removed, added)


def _list_whole_parts(names: Iterable[str], fitting: set[str], get_part: PartOf) -> set[str]:
    """Return the parts of the network all of whose tensors fit."""
    needed: dict[str, set[str]] = {}
    for name in names:
        needed.setdefault(get_part(name), set()).add(name)
    return {part for part, own in needed.items() if own <= fitting}


def _find_tied(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the missing names of tensors that share their memory with a stored one, which files may hold once."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in own.items():
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
        groups.setdefault(place, []).append(name)
    return {
        name: stored[present[0]]
        for names in groups.values()
        if (present := [name for name in names if name in stored])
        for name in names
        if name not in stored
    }


def count_fitting(network: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Return how many floating-point tensors of a network have a stored one of the same name and shape."""
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    stored = {_INNER_WRAPPERS.sub("", name): tensor.shape for name, tensor in tensors.items()}
    removed, added = match_names(own, stored)
    return sum(
        stored.get(removed + name[len(added) :]) == shape for name, shape in own.items() if name.startswith(added)
    )


def match_names(own: Shapes, stored: Shapes) -> tuple[str, str]:
    """Return the prefix to remove from the stored names and the one to add, so that most tensors fit.

    Both are chains of `WRAPPERS`, or of modules that may hold a network; among equal pairs those of `WRAPPERS` come
    first, then the shortest.
    """
    return _rank_prefixes(own, stored)[0]


def _rank_prefixes(own: Shapes, stored: Shapes) -> list[tuple[str, str]]:
    """Return the pairs of `match_names` with which most tensors fit, the best first."""

    def count(removed: str, added: str) -> int:
        return sum(
            stored.get(removed + name[len(added) :]) == shape
            for name, shape in own.items()
            if shape and name.startswith(added)
        )

    smallest = MIN_SHARE * min(len(own), len(stored))
    pairs = [
        (removed, added)
        for removed in _list_prefixes(stored, lambda size, total: size >= smallest)
        for added in _list_prefixes(own, lambda size, total: size > MIN_HOLDER_SHARE * total)
    ]
    counts = {pair: count(*pair) for pair in pairs}
    most = max(counts.values())
    best = [pair for pair in pairs if counts[pair] == most]
    return sorted(best, key=lambda pair: (not _is_wrapper(pair[0]), len(pair[0]) + len(pair[1])))


def _is_wrapper(prefix: str) -> bool:
    """Return True for a chain of `WRAPPERS`, and for none."""
    return set(prefix.split(".")) <= {*WRAPPERS, ""}


def _require_no_rival(stored: StateDict, tensors: Mapping[str, Tensor], removed: str, others: Iterable[str]) -> None:
    """Check that no other prefix leads to other tensors that fit as well.

    Raises:
        UsageError: One does, e.g. that of a teacher next to a student.
    """
    for other in others:
        if _is_wrapper(other) != _is_wrapper(removed) or removed.startswith(other) or other.startswith(removed):
            continue
        rivals = {name: tensors.get(other + name[len(removed) :]) for name in tensors if name.startswith(removed)}
        if any(rival is not None and not tensors[name].equal(rival) for name, rival in rivals.items()):
            raise UsageError(
                f"{stored.path} has two networks that fit equally well, under {removed!r} and {other!r}: save the "
                f"tensors of one alone, e.g. torch.save({{k: v for k, v in TENSORS.items() if "
                f"k.startswith({removed!r})}}, NEW)"
            )


def _list_prefixes(names: Iterable[str], is_holder: Callable[[int, int], bool]) -> list[str]:
    """Return the chains of modules that may hold the network, each with a final dot, and the empty chain.

    Args:
        names: Names of tensors.
        is_holder: Whether a module, by its number of tensors and that of the module around it, may hold the network.
    """
    names = list(names)
    prefixes = level = [""]
    for _ in range(_MAX_DEPTH):
        following = []
        for prefix in level:
            inner = [name[len(prefix) :] for name in names if name.startswith(prefix)]
            heads = Counter(name.partition(".")[0] for name in inner if "." in name)
            following += [
                f"{prefix}{head}." for head, count in heads.items() if is_holder(count, len(inner)) or head in WRAPPERS
            ]
        prefixes, level = [*prefixes, *following], following
    return prefixes


def _find_classifiers(own: Shapes, stored: Mapping[str, Tensor], classes: int | None) -> dict[str, int]:
    """Return the modules whose stored tensors differ in the number of classes alone, and that number."""
    modules: dict[str, list[str]] = {}
    for name in own:
        modules.setdefault(get_module(name), []).append(name)
    classifiers = {}
    for module, names in modules.items():
        shapes = [stored[name].shape for name in names if name in stored and stored[name].ndim]
        counts = {shape[0] for shape in shapes}
        fits = all(own[name] == Size((classes or 0, *shape[1:])) for name, shape in zip(names, shapes, strict=False))
        if len(shapes) == len(names) and len(counts) == 1 and classes not in counts and fits:
            classifiers[module] = counts.pop()
    return classifiers


def _require_fit(
    stored: StateDict, own: Shapes, renamed: Mapping[str, Tensor], same: set[str], different: set[str]
) -> None:
    """Check that stored weights, renamed, belong to this network, to a part of it, or to a close relative.

    Raises:
        UsageError: They do not.
    """
    if not same:
        stored_name, name = next(iter(stored.tensors), "none"), next(iter(own), "none")
        raise UsageError(
            f"no part of {stored.path} fits this network: it has {len(stored.tensors)} tensors such as {stored_name}, "
            f"the network has {len(own)} such as {name}; train with --init scratch"
        )
    if len(different) > len(same):
        name = min(different, key=list(own).index)
        raise UsageError(
            f"{stored.path} has weights of another network: {len(different)} of its tensors have other shapes and only "
            f"{len(same)} fit, e.g. {name} is {_format_shape(renamed[name].shape)}, not {_format_shape(own[name])}; "
            "train with --init scratch"
        )


def _format_shape(shape: Size) -> str:
    return "x".join(map(str, shape)) or "a number"
