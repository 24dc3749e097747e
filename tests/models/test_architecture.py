import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lgc.errors import FileFormatError, MismatchError, OutputError
from lgc.models import PRESETS, Architecture, LGCNet, SearchSpace


@pytest.fixture
def content(mini_space):
    return json.loads(mini_space.sample(0).to_json())


def load(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Architecture.load(path)


def refusal(tmp_path, content):
    with pytest.raises(FileFormatError) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "a.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_reads_back(name, tmp_path):
    architecture = SearchSpace.load(name).sample(5)
    architecture.save(tmp_path / "deep" / "a.json")
    assert Architecture.load(tmp_path / "deep" / "a.json") == architecture


@given(st.integers(0, 2**32))
def test_choices_and_names_say_the_same(mini_space, seed):
    architecture = mini_space.sample(seed)
    again = Architecture.from_choices(mini_space, architecture.choices, origin="test")
    assert (again.cells, again.fusion) == (architecture.cells, architecture.fusion)
    assert again.provenance == {"origin": "test"}


@given(st.data())
def test_a_truncated_file_is_refused(mini_space, tmp_path, data):
    text = mini_space.sample(0).to_json().rstrip()
    refusal(tmp_path, text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.data())
def test_a_changed_file_is_refused_or_an_architecture(mini_space, tmp_path, data):
    text = mini_space.sample(0).to_json()
    place, character = data.draw(st.integers(0, len(text) - 1)), data.draw(st.characters(max_codepoint=127))
    try:
        read = load(tmp_path, text[:place] + character + text[place + 1 :])
    except FileFormatError:
        return
    assert len(read.choices) == read.space.edges


scalars = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_no_other_json_is_an_architecture(tmp_path, content):
    refusal(tmp_path, content)


@pytest.mark.parametrize(
    "text", ["1" * 5000, "[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\ud7ff", "NaN"], ids=lambda t: t[:12]
)
def test_strange_json_is_refused(tmp_path, text):
    refusal(tmp_path, text)


def test_foreign_files_are_named(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError, match=f"no architecture but.*{noun}"):
            Architecture.load(path)


def test_a_newer_schema_asks_for_a_newer_lgc(tmp_path, content):
    message = refusal(tmp_path, {**content, "schema_version": 2})
    assert message.endswith("has architecture schema 2, this lgc reads 1: update lgc")


@pytest.mark.parametrize("version", [0, None, "1", [1]])
def test_an_older_schema_names_the_command_that_mends_it(tmp_path, content, version):
    assert refusal(tmp_path, {**content, "schema_version": version}).endswith("write it anew with lgc-search")


def test_an_edge_too_few_is_named(tmp_path, content):
    content["cells"][1].pop()
    assert "cell1: 4 operators for 5 edges" in refusal(tmp_path, content)


def test_a_cell_too_many_is_named(tmp_path, content):
    content["cells"].append(content["cells"][0])
    assert "3 cells, but the space has 2" in refusal(tmp_path, content)


def test_an_operator_of_another_space_lists_those_of_this(tmp_path, content):
    content["fusion"][0] = "conv_3x3"
    assert "fusion: 'conv_3x3' is not in the space (zero, skip, sep_conv_3x3)" in refusal(tmp_path, content)


def test_a_dead_node_is_named(tmp_path, content):
    content["cells"][0] = ["zero", "zero", "skip", "skip", "skip"]
    assert "cell0: node 0 has no input, all its edges are zero" in refusal(tmp_path, content)


def test_an_unused_input_is_named(tmp_path, content):
    content["cells"][0] = ["zero", "skip", "zero", "skip", "skip"]
    assert "cell0: input 0 is not used, all its edges are zero" in refusal(tmp_path, content)


def test_an_unknown_field_and_an_unknown_operator_of_the_space_are_named(tmp_path, content):
    assert "colour: Extra inputs" in refusal(tmp_path, {**content, "colour": "red"})
    content["space"]["operators"][1] = "warp"
    assert "unknown operator 'warp'; known: add, argmax" in refusal(tmp_path, content)


def test_a_network_refuses_the_architecture_of_another_space(mini_space):
    with pytest.raises(MismatchError, match=r"the architecture is of space mini .*, not tiny "):
        LGCNet(SearchSpace.load("tiny"), mini_space.sample(0))


def test_an_architecture_does_not_change(mini_space):
    with pytest.raises(ValidationError, match="frozen"):
        mini_space.sample(0).fusion = ()


def test_an_output_that_cannot_be_written_leaves_nothing_behind(mini_space, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot write"):
        mini_space.sample(0).save(tmp_path / "file" / "a.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        mini_space.sample(0).save(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"
