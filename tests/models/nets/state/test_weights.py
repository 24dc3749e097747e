"""Weights of networks with operators of the user's."""

import pytest
from safetensors.torch import load_file, save_file

from lgc.errors import MismatchError, UsageError
from lgc.models import OPERATORS, Conv, LGCNet, SearchSpace, register_operator
from lgc.models.nets.state.weights import load_weights, save_weights


def define(compute):
    OPERATORS.pop("mine", None)
    register_operator("mine", searchable=True)(compute)


def convolve(activation, only_width=None):
    """Return a recipe that refuses channels that are no multiples of 2, and whose activation may differ at a width."""

    def recipe(spec):
        if spec.c_in % 2:
            raise UsageError("needs an even number of channels")
        name = activation if only_width in (None, spec.width) else "relu"
        return (Conv(spec.c_in, spec.c_out, 3, spec.stride, activation=name),)

    return recipe


@pytest.fixture
def architecture(own_operators, mini_space):
    define(convolve("relu"))
    space = SearchSpace.check({**mini_space.to_dict(), "operators": ["zero", "mine"]}, "space")
    return next(a for a in map(space.sample, range(20)) if any(spec.operator == "mine" for spec in a.specs()))


@pytest.fixture
def weights(architecture, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(LGCNet(architecture.space, architecture), path)
    return path


def test_weights_of_another_recipe_are_refused(architecture, weights, capsys):
    width = next(spec.width for spec in architecture.specs() if spec.operator == "mine")
    for recipe in (convolve("hardswish"), convolve("hardswish", width)):
        define(recipe)
        with pytest.raises(MismatchError, match="was trained with another recipe of operator mine: train again"):
            load_weights(weights, architecture)
    define(convolve("hardswish", 7))  # no size of the network
    load_weights(weights, architecture)
    assert not capsys.readouterr().out


def test_weights_without_recipes_give_a_warning(architecture, weights):
    save_file(load_file(weights), weights)
    remarks = []
    load_weights(weights, architecture, remarks.append)
    assert remarks == [f"warning: {weights} does not say with which recipe of operator mine it was trained"]
