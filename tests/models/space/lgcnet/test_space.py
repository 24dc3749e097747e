import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lgc.errors import FileFormatError, MismatchError, OutputError, UsageError
from lgc.models import PRESETS, Architecture, LGCNet, SearchSpace
from lgc.models.nets.layers import build_module, fold_norms
from lgc.models.nets.network import Skeleton
from lgc.models.space.lgcnet import LGCNetArchitecture

from ....spaces import list_heads


@pytest.fixture
def content(mini_space):
    return json.loads(mini_space.sample(0).to_json())


def load(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Architecture.load(path)


def load_error(tmp_path, content):
    with pytest.raises(FileFormatError) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_file_round_trip(name, tmp_path):
    architecture = SearchSpace.load(name).sample(5)
    architecture.save(tmp_path / "deep" / "a.json")
    assert Architecture.load(tmp_path / "deep" / "a.json") == architecture


@given(st.integers(0, 2**32))
def test_choices_match_names(mini_space, seed):
    architecture = mini_space.sample(seed)
    again = mini_space.build(architecture.choices, origin="test")
    assert (again.cells, again.fusion) == (architecture.cells, architecture.fusion)
    assert again.provenance == {"origin": "test"}


@given(st.data())
def test_truncated_file_is_rejected(mini_space, tmp_path, data):
    text = mini_space.sample(0).to_json().rstrip()
    load_error(tmp_path, text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.data())
def test_changed_character_is_rejected_or_valid(mini_space, tmp_path, data):
    text = mini_space.sample(0).to_json()
    place, character = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters(max_codepoint=127))
    try:
        read = load(tmp_path, text[:place] + character + text[place + 1 :])
    except FileFormatError:
        return
    assert len(read.choices) == len(read.space.decisions)


scalars = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_other_json_is_rejected(tmp_path, content):
    load_error(tmp_path, content)


@pytest.mark.parametrize(
    "text", ["1" * 5000, "[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\ud7ff", "NaN"], ids=lambda t: t[:12]
)
def test_malformed_json_is_rejected(tmp_path, text):
    load_error(tmp_path, text)


def test_foreign_file_type_is_reported(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=noun):
            Architecture.load(path)


def test_newer_schema_asks_for_update(tmp_path, content):
    message = load_error(tmp_path, {**content, "schema_version": 2})
    assert message.endswith("has architecture schema 2, this lgc reads 1: update lgc")


@pytest.mark.parametrize("version", [0, None, "1", [1]])
def test_older_schema_names_command(tmp_path, content, version):
    assert load_error(tmp_path, {**content, "schema_version": version}).endswith("run lgc-search again")


def test_missing_edge_is_reported(tmp_path, content):
    content["cells"][1].pop()
    assert "cell1: 4 operators for 5 edges" in load_error(tmp_path, content)


def test_extra_cell_is_reported(tmp_path, content):
    content["cells"].append(content["cells"][0])
    assert "3 cells, but the space has 2" in load_error(tmp_path, content)


def test_foreign_operator_lists_operators_of_space(tmp_path, content):
    content["fusion"][0] = "conv_3x3"
    assert "fusion: 'conv_3x3' is not in the space (zero, skip, sep_conv_3x3)" in load_error(tmp_path, content)


def test_dead_node_is_reported(tmp_path, content):
    content["cells"][0] = ["zero", "zero", "skip", "skip", "skip"]
    assert "cell0: node 0 has no input, all its edges are zero" in load_error(tmp_path, content)


def test_unused_input_is_reported(tmp_path, content):
    content["cells"][0] = ["zero", "skip", "zero", "skip", "skip"]
    assert "cell0: input 0 is not used, all its edges are zero" in load_error(tmp_path, content)


def test_unknown_field_and_operator_are_reported(tmp_path, content):
    assert "colour: is unknown" in load_error(tmp_path, {**content, "colour": "red"})
    content["space"]["operators"][1] = "warp"
    assert (
        "unknown operator 'warp': it may come from a plugin: name it with --plugin FILE|MODULE; known: add,"
        in load_error(tmp_path, content)
    )


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), head=st.integers(0, 2))
def test_head_round_trip_and_network_width(headed_space, tmp_path, seed, head):
    choices = (*headed_space.sample(seed).choices[:-1], head)
    architecture = headed_space.build(choices)
    architecture.save(tmp_path / "a.json")
    read = Architecture.load(tmp_path / "a.json")
    assert read == architecture == Architecture.from_dict(architecture.to_dict(), "it")
    assert (read.choices, read.choices[-1]) == (choices, head)
    with torch.device("meta"):
        network = LGCNet(headed_space, read)
    assert network.head[0].conv.out_channels == headed_space.heads[head]
    assert sum(parameter.numel() for parameter in fold_norms(network).parameters()) == read.parameters


def test_skeleton_has_requested_or_default_head(headed_space):
    plans = [headed_space.plan, *(headed_space.plan_at([head]) for head in range(3))]
    widths = [Skeleton(headed_space, plan, build_module).head[0].conv.out_channels for plan in plans]
    assert widths == [4, 2, 4, 8]


def test_head_changes_no_other_operator(headed_space):
    operators = headed_space.sample(0).choices[:-1]
    specs = [headed_space.build([*operators, head]).specs() for head in range(3)]
    expected = [spec for spec in headed_space.sample(0).specs() if spec not in list_heads(headed_space)[1]]
    for head, head_specs in enumerate(specs):
        assert [spec for spec in head_specs if spec not in list_heads(headed_space)[head]] == expected
        assert [spec for spec in head_specs if spec in list_heads(headed_space)[head]] == [
            *list_heads(headed_space)[head]
        ]


def test_default_head_is_stored_as_none(headed_space):
    operators = headed_space.sample(0).choices[:-1]
    named = [headed_space.build([*operators, *head]) for head in ([], [0], [1], [2])]
    assert [architecture.head_channels for architecture in named] == [None, 2, None, 8]
    assert [architecture.choices[-1] for architecture in named] == [1, 0, 1, 2]
    assert named[0] == named[2]
    assert ["head_channels" in json.loads(architecture.to_json()) for architecture in named] == [
        False,
        True,
        False,
        True,
    ]
    assert LGCNetArchitecture.model_validate({**named[0].model_dump(), "head_channels": 4}) == named[0]


@pytest.mark.parametrize("width", [3, 0, -2, "wide", [2], 2.5])
def test_foreign_head_width_is_rejected(headed_space, tmp_path, width):
    content = {**json.loads(headed_space.sample(0).to_json()), "head_channels": width}
    assert "head_channels: " in load_error(tmp_path, content)


def test_foreign_head_width_lists_known_widths(headed_space, tmp_path, content):
    several = json.loads(headed_space.sample(0).to_json())
    assert "head_channels: 16 is not a head width of the space (2, 4, 8)" in load_error(
        tmp_path, {**several, "head_channels": 16}
    )
    assert "8 is not a head width of the space (4)" in load_error(tmp_path, {**content, "head_channels": 8})
    several["space"]["classes"] = 1
    assert "head_channels" not in load_error(tmp_path, {**several, "head_channels": 16}), "only the space is invalid"


@pytest.mark.parametrize("choices", [[0] * 3, [0] * 17, [1] * 14 + [3], [1] * 15 + [3], [1] * 15 + [-1]], ids=str)
def test_choices_of_other_size_are_rejected(headed_space, choices):
    with pytest.raises(UsageError, match="invalid choices in space headed"):
        headed_space.build(choices)


def test_network_rejects_architecture_of_different_space(mini_space):
    with pytest.raises(MismatchError, match=r"the architecture belongs to space mini .*, not tiny "):
        LGCNet(SearchSpace.load("tiny"), mini_space.sample(0))


def test_architecture_is_frozen(mini_space):
    with pytest.raises(ValidationError, match="frozen"):
        mini_space.sample(0).fusion = ()


def test_failed_save_leaves_no_file(mini_space, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot make the folder"):
        mini_space.sample(0).save(tmp_path / "file" / "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        mini_space.sample(0).save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"
