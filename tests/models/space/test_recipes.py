"""Recipes as values: what identifies an operator, and recipes that do not fit together."""

import pytest

from lgc.errors import PluginError, UnknownNameError, UsageError
from lgc.models import OPERATORS, Conv, OpSpec, Residual, SearchSpace, Slot, SqueezeExcite, register_operator
from lgc.models.recipe import ACTIVATIONS, Footprint, MaxPool, describe_layers
from lgc.models.space.operators import (
    FIRST_RECIPES,
    count_macs,
    count_parameters,
    digest_recipes,
    find_footprint,
    get_recipe,
    identify_operator,
    is_first_recipe,
    recipe_digest,
)

PINNED = {
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
"""Operators of lgc 0.1. A changed recipe needs another name, or all tables with the operator are measured anew."""

SPEC = OpSpec("mine", 4, 4, 8, 8)


@pytest.fixture
def define(own_operators):
    """Return a function that (re)defines the operator `mine` by its recipe."""

    def set_recipe(recipe):
        OPERATORS.pop("mine", None)
        register_operator("mine", searchable=True)(recipe)

    return set_recipe


def test_first_recipes_never_change():
    assert FIRST_RECIPES == PINNED
    assert {name: identify_operator(OPERATORS[name]) for name in PINNED} == PINNED
    assert all(map(is_first_recipe, PINNED))


def test_space_of_first_recipes_has_no_digests(mini_space):
    assert digest_recipes(mini_space.specs()) == {}
    assert mini_space.fingerprint == mini_space.hash_fields({})


def test_recipe_is_in_the_fingerprint(define, mini_space):
    content = {**mini_space.to_dict(), "operators": ["zero", "skip", "mine"]}
    fingerprints = []
    for activation in ("relu", "hardswish", "relu"):
        define(lambda spec, name=activation: (Conv(spec.c_in, spec.c_out, 3, spec.stride, activation=name),))
        fingerprints.append(SearchSpace.check(content, "space").fingerprint)
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_redefined_first_operator_is_in_the_fingerprint(monkeypatch, mini_space):
    recipe = OPERATORS["conv_3x3"].recipe
    monkeypatch.setitem(OPERATORS, "sep_conv_3x3", type(OPERATORS["conv_3x3"])("sep_conv_3x3", recipe, True, False))
    assert SearchSpace.check(mini_space.to_dict(), "space").fingerprint != mini_space.fingerprint


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Conv(3, 4, 3), "Conv(c_in=3, c_out=4, kernel=3)"),
        (Conv(3, 4, (1, 5), 2, activation="none"), "Conv(c_in=3, c_out=4, kernel=(1, 5), stride=2, activation='none')"),
        (Residual((MaxPool(3, 1),)), "Residual(layers=[MaxPool(kernel=3, stride=1)])"),
    ],
)
def test_text_omits_defaults(layer, text):
    assert describe_layers((layer,)) == f"[{text}]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(4, 4, 2), "kernel 2 of stride 1 would change the size: use odd sides, a larger stride"),
        (lambda: Conv(4, 4, (3, 4)), r"kernel \(3, 4\) of stride 1 would change the size"),
        (lambda: Conv(4, 4, 2, dilation=3), "kernel 2 of stride 1 would change the size"),
        (lambda: MaxPool(2, 1), "MaxPool: kernel 2 of stride 1 would change the size"),
        (lambda: Conv(4, 4, 0), "kernel must be a number or .height, width., got 0"),
        (lambda: Conv(4, 4, (3,)), r"kernel must be .*, got \(3,\)"),
        (lambda: Conv(4, 4, [3, 3]), r"kernel must be .*, got \[3, 3\]"),
        (lambda: Conv(4, 4, 3.0), "kernel must be .*, got 3.0"),
        (lambda: Conv(4, 4, 3, stride=0), "Conv: stride must be an integer of at least 1, got 0"),
        (lambda: Conv(4, 4, 3, dilation=0), "Conv: dilation must be .*, got 0"),
        (lambda: Conv(4, 4, 3, groups=0), "Conv: groups must be .*, got 0"),
        (lambda: Conv(0, 4, 3), "Conv: c_in must be .*, got 0"),
        (lambda: MaxPool(3, 0), "MaxPool: stride must be .*, got 0"),
        (lambda: SqueezeExcite(4, 0), "SqueezeExcite: reduced must be .*, got 0"),
        (lambda: Residual(()), "Residual: layers must be a tuple of at least one layer"),
        (lambda: Residual([Conv(4, 4, 3)]), "Residual: layers must be a tuple"),
        (lambda: Residual((Conv,)), "is not a tuple of layers"),
        (lambda: register_operator("_mine"), "invalid operator name '_mine'"),
        (lambda: register_operator("keys"), "operator 'keys' has the name of a torch module's attribute"),
        (lambda: Slot("a", (SPEC,), scope="cor"), "unknown scope 'cor'"),
        (lambda: Conv(4, 6, 3, groups=4), "4 to 6 channels are not divisible by 4 groups"),
        (lambda: Conv(4, 4, 3, activation="swish"), f"unknown activation 'swish'; known: {', '.join(ACTIVATIONS)}"),
        (lambda: SqueezeExcite(4, 2, gate="soft"), "unknown activation 'soft'"),
        (lambda: register_operator("Mine"), "invalid operator name 'Mine'"),
    ],
)
def test_invalid_values_are_refused(make, message):
    with pytest.raises((UsageError, UnknownNameError), match=message):
        make()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (lambda spec: 1 / 0, r"the recipe of mine raises ZeroDivisionError: .*test_recipes.py, line \d+"),
        (
            lambda spec: (Conv(4, 4, 3, activation="swish"),),
            r"the recipe of mine raises UsageError: unknown activation 'swish'; .*test_recipes.py, line \d+",
        ),
        (
            lambda spec: (Conv(4, 4, 4),),
            r"the recipe of mine raises .* kernel 4 of stride 1 would .*test_recipes.py, line \d+",
        ),
        (lambda spec: [Conv(4, 4, 3)], "returns .*, not a tuple of layers"),
        (lambda spec: (Conv,), "not a tuple of layers"),
        (lambda spec: (Conv(8, 4, 3),), "takes 8 channels, but its input has 4"),
        (lambda spec: (Conv(4, 8, 3),), "wrong output of mine: expected 4 channels of 8x8, got 8 channels of 8x8"),
        (lambda spec: (Conv(4, 4, 3, 2),), "expected 4 channels of 8x8, got 4 channels of 4x4"),
        (lambda spec: (Residual((Conv(4, 8, 1),)),), "its layers change the shape"),
        (lambda spec: (SqueezeExcite(8, 2),), "takes 8 channels, but its input has 4"),
    ],
)
def test_wrong_recipe_names_spec_and_reason(define, recipe, message):
    define(recipe)
    with pytest.raises(PluginError, match=f"mine/c4-4/8x8/s1/b1: .*{message}"):
        get_recipe(SPEC)


def test_counts_of_nested_layers(define):
    inner = (Conv(4, 8, 1), SqueezeExcite(8, 2), Conv(8, 4, (1, 3), activation="none"))
    define(lambda spec: (Residual(inner),))
    assert count_macs(SPEC) == 64 * 4 * 8 + 2 * 8 * 2 + 64 * 8 * 4 * 3
    assert count_parameters(SPEC) == (4 * 8 + 8) + (2 * 8 * 2 + 8 + 2) + (8 * 4 * 3 + 4)
    wide, out = 8 * 64, 4 * 64
    assert find_footprint(SPEC) == Footprint(max(wide + 8 + wide, wide + out, 2 * out), 0, out)


def test_even_kernels_need_divisible_sides(define):
    define(lambda spec: (Conv(spec.c_in, spec.c_out, 2, spec.stride),))
    assert get_recipe(OpSpec("mine", 4, 6, 8, 10, stride=2))
    spec = OpSpec("mine", 4, 6, 8, 9, stride=2)
    with pytest.raises(PluginError, match="stride 2 does not divide the input of 8x9, as an even kernel requires"):
        get_recipe(spec)


def test_even_kernels_count_each_weight(define):
    define(lambda spec: (Conv(spec.c_in, spec.c_out, (2, 4), spec.stride),))
    spec = OpSpec("mine", 4, 6, 8, 10, stride=2)
    assert count_macs(spec) == (4 * 5) * 4 * 6 * (2 * 4)
    assert count_parameters(spec) == 6 * (4 * 2 * 4 + 1)
    assert find_footprint(spec) == Footprint(6 * 4 * 5, 0, 6 * 4 * 5)


def test_recipe_digest_ignores_the_name(define):
    define(OPERATORS["conv_3x3"].recipe)
    assert recipe_digest(SPEC) == recipe_digest(OpSpec("conv_3x3", 4, 4, 8, 8))
