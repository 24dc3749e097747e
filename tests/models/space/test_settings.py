import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError, UnknownNameError
from lgc.models import OPERATORS, PRESETS, OpSpec, SearchSpace, register_operator
from lgc.models.recipe import Conv
from lgc.models.space.operators import ZERO

from ...operators import EXAMPLES


@pytest.fixture
def content(mini_space):
    return mini_space.model_dump(mode="json")


def parse_error(content):
    with pytest.raises(FileFormatError) as caught:
        SearchSpace.parse(yaml.safe_dump(content), "s.yaml")
    message = str(caught.value)
    assert message.startswith("s.yaml: invalid search space: ")
    assert "\n" not in message
    return message


def test_file_round_trip(mini_space, mini_yaml):
    assert SearchSpace.load(mini_yaml) == mini_space
    assert SearchSpace.load(str(mini_yaml)) == mini_space


def test_unknown_operator_lists_known_operators(content):
    message = parse_error({**content, "operators": ["zero", "sep_conv_5x5"]})
    assert "unknown operator 'sep_conv_5x5' (did you mean 'sep_conv_3x3'?)" in message
    assert all(name in message for name in OPERATORS)


def test_unsearchable_operator_lists_searchable_ones(content):
    message = parse_error({**content, "operators": ["zero", "conv_1x1"]})
    assert "unknown searchable operator 'conv_1x1'" in message
    assert all(name in message for name, known in OPERATORS.items() if known.searchable)
    assert "argmax" not in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"colour": "red"}, "colour: is unknown"),
        ({"stem": {"channels": 4, "depth": 3}}, "stem.depth: is unknown"),
        ({"reductions": [2]}, "reduction at cell 2, but the cells are 0 to 1"),
        ({"reductions": [-1]}, "reductions.0"),
        ({"reductions": [1, 0]}, "reductions must be strictly increasing"),
        ({"reductions": [1, 1]}, "reductions must be strictly increasing"),
        ({"operators": ["skip", "skip"]}, "duplicate operator"),
        ({"operators": ["skip"]}, "operators: Tuple should have at least 2"),
        ({"cells": 0}, "cells: must be at least 1, not 0"),
        ({"cells": "many"}, "cells: must be an integer, not 'many'"),
        ({"input": [32]}, "input"),
        ({"input": [31, 64]}, "input.0: must be at least 32, not 31"),
        ({"classes": 1}, "classes"),
        ({"classes": 256}, "classes"),
        ({"channels": -4}, "channels"),
        ({"stem": {"channels": 4, "strides": [3]}}, "stem.strides.0"),
        ({"head_widths": [8, 2]}, "head_widths: must be strictly increasing: [8, 2]"),
        ({"head_widths": [2, 2]}, "head_widths: must be strictly increasing"),
        ({"head_widths": [2, 4]}, "head_widths must not repeat head_channels, 4: (2, 4)"),
        ({"head_widths": [0, 2]}, "head_widths.0: must be at least 1, not 0"),
        ({"head_widths": 2}, "head_widths: must be a list, not 2"),
        ({"fusion": {"level": 9}}, "fusion.level"),
        ({"name": "a b"}, "name"),
        ({"cells": 8, "reductions": [0, 1, 2, 3]}, "1/64 of its size"),
        ({"fusion": {"level": 6}}, "1/64 of its size"),
    ],
    ids=str,
)
def test_invalid_field_is_reported(content, change, problem):
    assert problem in parse_error({**content, **change})


MODULE = next(name for name in EXAMPLES if name == "pooled_attention")
SEARCHED = {"channels": None, "widths": [[4, 8], [8, 16]], "nodes": 1, "fusion": {"nodes": 1, "level": 2}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"geometry": 3}, "geometry: must be 1 or 2, not 3"),
        ({"widths": [[4, 8]]}, "widths needs 2 lists, one for each level of the backbone, got 1"),
        ({"widths": [[8, 4], [8]]}, "widths.0: must be strictly increasing: [8, 4]"),
        ({"channels": 8}, "channels and widths exclude each other: remove one"),
        ({"widths": []}, "channels or widths is required"),
        ({"channels": 8, "widths": [], "fusion": {"widths": [4, 8]}}, "fusion.widths needs widths"),
        ({"stem": {"strides": [2, 2], "widths": [[4, 8]]}}, "stem.widths.0 has 2 numbers, needs 1"),
        ({"stem": {"strides": [2, 2], "widths": [[4], [4]]}}, "stem.widths.1 is repeated: [4]"),
        ({"stem": {"strides": [2], "widths": [[]]}}, "stem.widths needs at least two stem.strides"),
        ({"nodes": 2}, "widths need nodes: 1 and fusion.nodes: 1"),
        ({"context": [ZERO]}, "context: needs an operator besides zero"),
        ({"reduction": "skip"}, "reduction: skip does not change the number of channels at stride 2"),
        ({"reduction": ZERO}, "reduction: zero does not change the number of channels at stride 2"),
        ({"head_operator": "classifier"}, "head_operator: classifier does not change the number of channels"),
        ({"head_operator": "res_conv_3x3"}, "head_operator: res_conv_3x3 adds its input where widths are equal"),
        ({"head_operator": "nosuch"}, "unknown operator 'nosuch'"),
        ({"operators": ["skip", MODULE]}, f"{MODULE} is a torch module, whose widths cannot be searched"),
        ({"geometry": 2, "fusion": {"nodes": 1, "level": 1}}, "set it to 2 or more, or give the stem fewer strides"),
    ],
    ids=str,
)
def test_invalid_width_or_geometry_is_reported(content, change, problem):
    merged = {**content, **SEARCHED, **change}
    if merged["channels"] is None:
        del merged["channels"]
    assert problem in parse_error(merged)


def test_grouped_convolutions_have_no_searched_widths(content):
    @register_operator("grouped_for_widths", searchable=True)
    def _grouped(spec):
        return (Conv(spec.c_in, spec.c_out, 3, spec.stride, groups=4),)

    try:
        merged = {**content, **SEARCHED, "operators": ["skip", "grouped_for_widths"]}
        del merged["channels"]
        assert "grouped_for_widths has a grouped convolution, whose widths cannot be searched" in parse_error(merged)
    finally:
        del OPERATORS["grouped_for_widths"]


def test_missing_field_is_reported(content):
    del content["cells"]
    assert "cells: is missing" in parse_error(content)


def test_only_first_problems_are_listed():
    assert parse_error({}).endswith("; and 3 more")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "[1, 2]",
        "name: [",
        "a: 2001-14-45",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: " + "9" * 5000,
        "[" * 3000,
        "? [a]\n: b",
        "!!python/object/apply:os.system [x]",
        "a: \0",
        "1: 2",
    ],
    ids=lambda text: text[:20],
)
def test_invalid_text_is_rejected(text):
    with pytest.raises(FileFormatError, match=r"^s\.yaml: invalid search space: "):
        SearchSpace.parse(text, "s.yaml")


@given(st.data())
def test_truncated_file_is_rejected(mini_space, data):
    text = yaml.safe_dump(mini_space.model_dump(mode="json"), sort_keys=False)
    needed = text.index("channels:") + len("channels:")  # every later field has a default
    with pytest.raises(FileFormatError):
        SearchSpace.parse(text[: data.draw(st.integers(0, needed))], "s.yaml")


@given(st.text())
def test_any_text_raises_file_format_error(text):
    with pytest.raises(FileFormatError):
        SearchSpace.parse(text, "s.yaml")


def test_foreign_file_type_is_reported(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun) as caught:
            SearchSpace.load(path)
        assert str(path) in str(caught.value)


def test_unknown_name_lists_presets():
    with pytest.raises(UnknownNameError) as caught:
        SearchSpace.load("lgcnet-camvit")
    assert "did you mean 'lgcnet-camvid'" in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


def test_fingerprint_depends_on_all_but_name(mini_space, content):
    def fingerprint(**change):
        return SearchSpace.check({**content, **change}, "s").fingerprint

    assert fingerprint(name="other") == mini_space.fingerprint
    changes = [
        {"input": [32, 64]},
        {"classes": 4},
        {"operators": ["zero", "skip", "conv_3x3"]},
        {"operators": ["skip", "zero", "sep_conv_3x3"]},
        {"cells": 3},
        {"reductions": []},
        {"channels": 5},
        {"nodes": 3},
        {"stem": {"channels": 5, "strides": [2, 2]}},
        {"stem": {"channels": 4, "strides": [2, 1]}},
        {"fusion": {"nodes": 2, "channels": 4, "level": 3}},
        {"head_channels": 5},
        {"head_widths": [5]},
        {"head_widths": [5, 6]},
        {"head_channels": 5, "head_widths": [4]},
    ]
    prints = [fingerprint(**change) for change in changes]
    assert len({mini_space.fingerprint, *prints}) == len(changes) + 1


def test_single_head_spaces_keep_old_fingerprint(mini_space, content):
    """Tables from before `head_widths` store these fingerprints."""
    assert mini_space.fingerprint == "774fb18f65d4"
    del content["head_widths"]
    assert SearchSpace.check(content, "s").fingerprint == mini_space.fingerprint
    tiny = SearchSpace.load("tiny").model_dump(mode="json")
    assert SearchSpace.check({**tiny, "geometry": 1, "head_widths": []}, "s").fingerprint == "f24c264d056c"


def test_heads_are_all_widths_sorted(mini_space, headed_space):
    assert (mini_space.heads, mini_space.default_head) == ((4,), 0)
    assert (headed_space.heads, headed_space.default_head) == ((2, 4, 8), 1)
    assert headed_space.with_input(48, 80).heads == (2, 4, 8)


def test_specs_cover_heads_of_all_widths(mini_space, headed_space):
    more = set(headed_space.specs()) - set(mini_space.specs())
    assert set(mini_space.specs()) <= set(headed_space.specs())
    assert more == {
        OpSpec(*key, 8, 8) for width in (2, 8) for key in (("conv_3x3", 8, width), ("classifier", width, 3))
    }


def test_with_input_changes_fingerprint(mini_space):
    larger = mini_space.with_input(48, 80)
    assert larger.input == (48, 80)
    assert larger.fingerprint != mini_space.fingerprint
    assert larger.with_input(32, 32) == mini_space
    with pytest.raises(FileFormatError, match="mini at 8x8"):
        mini_space.with_input(8, 8)
