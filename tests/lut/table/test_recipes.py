"""Recipes in tables: changed ones are refused, unknown ones can be inspected, older tables mean lgc 0.1's."""

import sqlite3
from contextlib import closing

import pytest

from lgc.errors import MismatchError, MissingOperatorError
from lgc.lut import LatencyTable
from lgc.lut.exchange.compare import compare_tables
from lgc.lut.exchange.convert import table_to_frame
from lgc.lut.exchange.merge import merge_tables
from lgc.lut.table.upgrade import upgrade_table
from lgc.models import OPERATORS, Conv, Operator, OpSpec, SearchSpace, register_operator
from lgc.models.space.operators import recipe_digest

KEY = "mine/c4-4/8x8/s1/b1"


def define(activation):
    OPERATORS.pop("mine", None)
    recipe = lambda spec: (Conv(spec.c_in, spec.c_out, 3, spec.stride, activation=activation),)  # noqa: E731
    register_operator("mine", searchable=True)(recipe)


@pytest.fixture
def make(own_operators, mini_space, make_table):
    """Return a function that measures the operator `mine` with an activation into a table, and returns its path."""

    def measure(activation, name, height=32):
        define(activation)
        content = {**mini_space.to_dict(), "operators": ["zero", "skip", "mine"], "input": [height, 32]}
        with make_table(SearchSpace.check(content, "space"), name) as table:
            return table.path

    return measure


def downgrade(path):
    """Make the table one of schema 2."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE recipes; PRAGMA user_version = 2;")


def test_table_stores_recipes(make):
    with LatencyTable.open(make("relu", "t.lut")) as table:
        recipes = dict(table.store.rows("SELECT entry, recipe FROM recipes"))
        assert recipes == {entry.key: recipe_digest(OpSpec.parse(entry.key)) for entry in table.entries()}
        assert recipes[KEY] == table.recipe(KEY)


def test_changed_recipe_is_refused(make):
    path = make("relu", "t.lut")
    define("hardswish")
    message = r"another recipe of operator mine \(mine/.*again with: lgc-profile .*t-new.lut"
    with pytest.raises(MismatchError, match=message):
        LatencyTable.open(path)
    define("relu")
    LatencyTable.open(path).close()


def test_recipe_that_became_free_is_refused(make):
    path = make("relu", "t.lut")
    OPERATORS["mine"] = Operator(
        "mine", lambda spec: () if spec.stride == 1 else (Conv(spec.c_in, spec.c_out, 3, 2),), True, False
    )
    with pytest.raises(MismatchError, match="another recipe of operator mine"):
        LatencyTable.open(path)


def test_recipe_that_was_free_is_refused(own_operators, mini_space, make_table):
    costly = Operator("mine", lambda spec: (Conv(spec.c_in, spec.c_out, 3, spec.stride),), True, False)
    OPERATORS["mine"] = Operator("mine", lambda spec: () if spec.stride == 1 else costly.recipe(spec), True, False)
    content = {**mini_space.to_dict(), "operators": ["zero", "skip", "mine"]}
    with make_table(SearchSpace.check(content, "space")) as table:
        path = table.path
    OPERATORS["mine"] = costly
    with pytest.raises(MismatchError, match="another recipe of operator mine"):
        LatencyTable.open(path)
    LatencyTable.open(path, inspect=True).close()


def test_unknown_operator_is_refused_unless_inspected(make):
    path = make("relu", "t.lut")
    del OPERATORS["mine"]
    with pytest.raises(MissingOperatorError, match=r"t.lut.* unknown operator 'mine': .*--plugin FILE\|MODULE"):
        LatencyTable.open(path)
    with LatencyTable.open(path, inspect=True) as table:
        assert table.missing_operators == ("mine",)
        assert table.space_title == "mini 32x32"
        assert KEY in table_to_frame(table).index
        with pytest.raises(MissingOperatorError):
            _ = table.space


def test_tables_without_the_plugin_are_compared(make):
    paths = make("relu", "a.lut"), make("relu", "b.lut"), make("hardswish", "c.lut")
    del OPERATORS["mine"]
    a, b, c = (LatencyTable.open(path, inspect=True) for path in paths)
    assert compare_tables(a, b).differences == ()
    with pytest.raises(MismatchError, match=r"different recipes of operator mine \(mine/"):
        compare_tables(a, c)
    assert compare_tables(a, c, match="conv_3x3").changes
    for table in (a, b, c):
        table.close()


def test_merge_refuses_different_recipes(make, tmp_path):
    paths = make("relu", "a.lut"), make("hardswish", "b.lut")
    a, b = (LatencyTable.open(path, inspect=True) for path in paths)
    with pytest.raises(MismatchError, match="different recipes of operator mine"):
        merge_tables([a, b], tmp_path / "merged.lut", print)
    a.close()
    b.close()
    assert not (tmp_path / "merged.lut").exists()


def test_merged_table_has_recipes_of_all_inputs(make, tmp_path):
    a, b = (LatencyTable.open(make("relu", f"{height}.lut", height)) for height in (32, 64))
    merge_tables([a, b], tmp_path / "merged.lut", lambda table: None)
    with LatencyTable.open(tmp_path / "merged.lut") as merged:
        recipes = dict(merged.store.rows("SELECT entry, recipe FROM recipes"))
        assert recipes.keys() == {entry.key for entry in merged.entries()}
    a.close()
    b.close()


def test_table_of_schema_2_opens_and_upgrades(tmp_path, mini_space, make_table):
    with make_table(mini_space) as table:
        path, entries = table.path, table.entries()
    downgrade(path)
    with LatencyTable.open(path) as old:
        assert old.entries() == entries
        assert old.recipe(entries[0].key) == recipe_digest(OpSpec.parse(entries[0].key))
    assert upgrade_table(path) == (2, path.with_name("t.lut.v2"))
    with LatencyTable.open(path) as new:
        assert new.entries() == entries


def test_old_table_with_redefined_operator_is_refused(monkeypatch, mini_space, make_table):
    with make_table(mini_space) as table:
        path = table.path
    downgrade(path)
    upgrade_table(path)
    changed = Operator("sep_conv_3x3", OPERATORS["conv_3x3"].recipe, True, False)
    monkeypatch.setitem(OPERATORS, "sep_conv_3x3", changed)
    with pytest.raises(MismatchError, match="another recipe of operator sep_conv_3x3"):
        LatencyTable.open(path)


def test_old_table_with_unknown_operator_upgrades(make):
    path = make("relu", "t.lut")
    downgrade(path)
    del OPERATORS["mine"]
    assert upgrade_table(path)[0] == 2
    define("relu")
    with pytest.raises(MismatchError, match="another recipe of operator mine"):
        LatencyTable.open(path)
