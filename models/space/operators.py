"""Registry of operators: each is a recipe of layers that determines its module, MACs and parameters.

A recipe is a function from an `OpSpec` to a tuple of layers; see `models/recipe.py`. `nets/layers.py` builds torch
modules from recipes, so costs and modules always agree; this module does not import torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ...errors import LgcError, PluginError, UnknownOperatorError, UsageError
from ...plugins import describe_error, load_entry_points
from ..recipe import (
    Add,
    Concat,
    Footprint,
    Layer,
    count_layer_macs,
    count_layer_parameters,
    describe_layers,
    find_layer_footprint,
    hash_text,
    output_shape,
)
from .opspec import OPERATOR_NAME, OpSpec

Recipe = Callable[[OpSpec], tuple[Layer, ...]]

ENTRY_POINTS = "lgc.operators"
"""Group of the entry points of installed packages that register operators."""


@dataclass(frozen=True)
class Operator:
    """Registered operator.

    Attributes:
        name: Name in spaces, architectures and tables.
        recipe: Function from a spec to its layers; no layers mean that the input is passed through at no cost.
        searchable: True if search spaces may use the operator as a candidate.
        upsamples: True if the input is the coarser side.
        module: Variables of the module that registered it.
        line: Its file and line there.
    """

    name: str
    recipe: Recipe
    searchable: bool
    upsamples: bool
    module: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    line: tuple[str, int] = ("", 0)


OPERATORS: dict[str, Operator] = {}
"""Registered operators by name."""
MODULES = f"{__name__.partition('.')[0]}.models.nets.modules"
"""Module of `register_module`, which registers for its caller."""

BUILT_IN = f"{__package__}.builtin_operators"
"""Module of lgc's own operators."""
ZERO = "zero"
"""Operator of an absent edge."""
UPSAMPLE_STRIDED = "upsample_strided"
"""Upsampling of spaces whose geometry is `Geometry.STRIDED`."""

_RESERVED = """
    add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches eval
    extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys load_state_dict
    modules mtia named_buffers named_children named_modules named_parameters parameters pop register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type update values xpu zero_grad
"""
RESERVED_NAMES = frozenset(_RESERVED.split())
"""Attributes of torch modules, under whose names a network cannot hold an operator's module."""


def register_operator(name: str, *, searchable: bool = False, upsamples: bool = False) -> Callable[[Recipe], Recipe]:
    """Register the decorated recipe under `name`, which must be new; see `Operator` for the options.

    A line of a file that two files of the user's import, each for itself, registers its operator once.

    Raises:
        ValueError: The name is taken.
        UsageError: The name has other characters than a-z, 0-9 and _, begins with _, or is one of `RESERVED_NAMES`.
    """
    if not re.fullmatch(OPERATOR_NAME, name) or name.startswith("_"):
        raise UsageError(
            f"invalid operator name {name!r}: use lower-case letters, digits and underscores, no underscore first"
        )
    if name in RESERVED_NAMES:
        raise UsageError(f"operator {name!r} has the name of a torch module's attribute: choose another")

    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == MODULES:
        frame = frame.f_back
    module, line = frame.f_globals, (frame.f_code.co_filename, frame.f_lineno)

    def register(recipe: Recipe) -> Recipe:
        if name not in OPERATORS:
            OPERATORS[name] = Operator(name, recipe, searchable, upsamples, module, line)
        elif OPERATORS[name].line != line or OPERATORS[name].module is module:
            raise ValueError(f"operator {name!r} is already registered: choose another name")
        return recipe

    return register


operator = register_operator
"""Old name of `register_operator`; removed in 0.3.0."""


def get_operator(name: str) -> Operator:
    """Return the operator called `name`; if it is unknown, load the plugins of installed packages first.

    Raises:
        UnknownOperatorError: Unknown operator; the message lists the known ones.
    """
    require_operators([name])
    return OPERATORS[name]


def require_operators(names: Iterable[str]) -> None:
    """Check that operators are registered; if one is unknown, load the plugins of installed packages first.

    Raises:
        UnknownOperatorError: Unknown operators; the message names all of them.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in OPERATORS]
    failures = load_entry_points(ENTRY_POINTS) if unknown else ()
    if missing := [name for name in unknown if name not in OPERATORS]:
        raise UnknownOperatorError(missing, OPERATORS, failures)


def get_recipe(spec: OpSpec) -> tuple[Layer, ...]:
    """Return the layers of `spec`.

    Raises:
        UnknownOperatorError: Unknown operator.
        UsageError: The operator does not support the spec.
        PluginError: The recipe raises another error, or its layers do not fit together or the spec.
    """
    return _make_recipe(get_operator(spec.operator), spec)


@lru_cache(maxsize=4096)
def _make_recipe(operator: Operator, spec: OpSpec) -> tuple[Layer, ...]:
    try:
        layers = operator.recipe(spec)
    except Exception as error:
        if isinstance(error, LgcError) and getattr(operator.recipe, "__module__", None) == BUILT_IN:
            raise  # of lgc's own recipes, whose messages name the spec
        raise PluginError(f"{spec}: the recipe of {operator.name} raises {describe_error(error)}") from error
    if not isinstance(layers, tuple) or not all(isinstance(layer, Layer) for layer in layers):
        raise PluginError(f"{spec}: the recipe of {operator.name} returns {layers!r}, not a tuple of layers")
    if operator.name != ZERO:
        _check_shape(operator, spec, layers)
    return layers


def _check_shape(operator: Operator, spec: OpSpec, layers: tuple[Layer, ...]) -> None:
    """Check that the layers turn an input of the spec into its output."""
    coarse_to_fine = (spec.coarse, spec.fine) if operator.upsamples else (spec.fine, spec.coarse)
    source, target = ((channels, *size) for channels, size in zip((spec.c_in, spec.c_out), coarse_to_fine, strict=True))
    try:
        out = output_shape(layers, source)
    except UsageError as error:
        raise PluginError(f"{spec}: the layers of {operator.name} do not fit together: {error}") from error
    if out != target:
        expected, got = (f"{channels} channels of {height}x{width}" for channels, height, width in (target, out))
        raise PluginError(f"{spec}: wrong output of {operator.name}: expected {expected}, got {got}")


def is_free(spec: OpSpec) -> bool:
    """Return True if `spec` costs no time by construction: it has no layers."""
    return not get_recipe(spec)


def input_shapes(spec: OpSpec) -> tuple[tuple[int, int, int, int], ...]:
    """Return the input shapes [N, C, H, W]: two for an addition, c_out / c_in for a concatenation, else one."""
    kinds = {type(layer) for layer in get_recipe(spec)}
    count = spec.c_out // spec.c_in if Concat in kinds else 2 if Add in kinds else 1
    size = spec.coarse if get_operator(spec.operator).upsamples else spec.fine
    return ((spec.batch, spec.c_in, *size),) * count


def count_macs(spec: OpSpec) -> int:
    """Count the multiply-accumulates of convolutions and of the user's modules.

    Pooling, sums, activations and interpolation are not counted.
    """
    return spec.batch * count_layer_macs(get_recipe(spec), input_shapes(spec)[0][1:])


def count_parameters(spec: OpSpec) -> int:
    """Count the parameters with batch normalisation folded, so with one bias per output channel."""
    return count_layer_parameters(get_recipe(spec))


def find_footprint(spec: OpSpec) -> Footprint | None:
    """Return the memory of `spec` for one image, in values; None if its input is passed through."""
    layers = get_recipe(spec)
    return find_layer_footprint(layers, input_shapes(spec)[0][1:]) if layers else None


def recipe_digest(spec: OpSpec) -> str:
    """Return the digest of the layers of `spec`, 12 hexadecimal digits: of a module, that of what it computes."""
    return hash_text(describe_layers(get_recipe(spec)))


FIRST_RECIPES = {
    "zero": "2664dc14f894",
    "skip": "0aecabb01bed",
    "max_pool_3x3": "1474f14a218e",
    "sep_conv_3x3": "3f06fcba16b3",
    "sep_conv_3x3_d2": "695af71174fd",
    "sep_conv_3x3_d4": "d91a33d71bd1",
    "sep_conv_3x3_d8": "982b4ca2b435",
    "conv_3x3": "28dafce79287",
    "conv_1x1": "1377a952dfdc",
    "classifier": "2d61800eefcc",
    "add": "f1f60464d3d7",
    "concat": "93dda22f3aa0",
    "downsample": "d79e42c82258",
    "upsample": "05bb3a4b27cd",
    "argmax": "b63f1442a154",
}
"""Digests of the operators of lgc 0.1, over `_EXAMPLES`. Spaces and tables without recipes mean these operators."""

_EXAMPLES = tuple(
    (c_in, c_out, height, width, stride)
    for c_in, c_out in ((6, 6), (4, 12), (64, 19))
    for height, width in ((17, 33), (90, 120))
    for stride in (1, 2, 4)
)
"""Fields of the specs whose recipes identify an operator."""


@lru_cache(maxsize=256)
def identify_operator(operator: Operator) -> str:
    """Return the digest of an operator's recipes over `_EXAMPLES`, whatever the sizes of a space."""
    texts = []
    for fields in _EXAMPLES:
        try:
            texts.append(describe_layers(operator.recipe(OpSpec(operator.name, *fields))))
        except Exception as error:  # an operator need not support all of them
            texts.append(type(error).__name__)
    return hash_text("; ".join(texts))


def is_first_recipe(name: str) -> bool:
    """Return True if the operator computes what the operator of this name did in lgc 0.1, before tables had recipes."""
    return name in FIRST_RECIPES and identify_operator(get_operator(name)) == FIRST_RECIPES[name]


def list_custom_recipes(specs: Iterable[OpSpec]) -> dict[str, str]:
    """Return the digest of each spec's recipe by key, without the operators of lgc 0.1; see `FIRST_RECIPES`."""
    return {str(spec): recipe_digest(spec) for spec in specs if not is_first_recipe(spec.operator)}


def digest_recipes(specs: Iterable[OpSpec]) -> dict[str, str]:
    """Return the digest of each operator over its specs, without the operators of lgc 0.1; see `FIRST_RECIPES`.

    The fingerprint of a space includes it, so that a changed recipe changes the fingerprint.
    """
    digests: dict[str, dict[str, str]] = {}
    for key, digest in list_custom_recipes(specs).items():
        digests.setdefault(OpSpec.parse(key).operator, {})[key] = digest
    return {name: hash_text(repr(sorted(rows.items()))) for name, rows in sorted(digests.items())}
