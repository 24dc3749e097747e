"""`network.json`: what rebuilds a run's network, and what is never executed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lgc.errors import FileFormatError, UsageError
from lgc.models.images import Normalisation
from lgc.models.nets.definition import NETWORK_FILE, NetworkDefinition, find_factory, load_definition, read_record
from lgc.models.nets.sources import PeerSource, load_source

from ... import user_networks

FILE = user_networks.__file__


def define(source):
    colours = ((0, 0, 0), (255, 0, 0))
    return NetworkDefinition(source, (32, 64), 2, ("road", "sky"), colours, Normalisation((0, 0, 0), (1, 1, 1)), "mine")


def change_file(folder, **changes):
    content = json.loads((folder / NETWORK_FILE).read_text())
    (folder / NETWORK_FILE).write_text(json.dumps(content | changes))


def test_peer_is_rebuilt_from_its_file(tmp_path):
    define(PeerSource("fast-scnn")).save(tmp_path)
    assert load_definition(tmp_path) == define(PeerSource("fast-scnn"))
    assert load_definition(tmp_path, PeerSource("fast-scnn")) == define(PeerSource("fast-scnn"))
    with pytest.raises(UsageError, match="'peer:fast-scnn', not peer:pidnet-s: name that network"):
        load_definition(tmp_path, PeerSource("pidnet-s"))


def test_factory_is_never_executed_unless_named(tmp_path):
    marker = tmp_path / "executed"
    source = tmp_path / "evil.py"
    source.write_text(f"open({str(marker)!r}, 'w')\n")
    define(load_source(f"{FILE}:build")).save(tmp_path)
    change_file(tmp_path, reference=f"{source}:build", name="evil.py:build")
    with pytest.raises(UsageError, match=rf"calls '{source}:build'; .*: name your own .*, --network FILE\.py:NAME$"):
        load_definition(tmp_path)
    assert not marker.exists()


def test_changed_source_gives_a_warning(tmp_path):
    factory, remarks = load_source(f"{FILE}:build"), []
    define(factory).save(tmp_path)
    assert load_definition(tmp_path, factory, remarks.append) == define(factory)
    assert remarks == []
    change_file(tmp_path, digest="0123456789ab")
    load_definition(tmp_path, factory, remarks.append)
    assert "has changed" in remarks[0]
    define(factory).save(tmp_path)
    assert read_record(tmp_path).digest == "0123456789ab", "a resumed training keeps the first source's"


def test_factory_of_a_run_is_found(tmp_path):
    factory, other = load_source(f"{FILE}:build"), load_source(f"{FILE}:Tied")
    older = replace(factory, source_digest="0123456789ab")
    assert find_factory(tmp_path, [factory]) is None
    define(factory).save(tmp_path)
    assert find_factory(tmp_path, [other, PeerSource("fast-scnn")]) is None
    assert find_factory(tmp_path, [other, older]) is older
    assert find_factory(tmp_path, [older, factory]) is factory
    assert find_factory(tmp_path / "network.json", [factory]) is None


@pytest.mark.parametrize(("trained_in", "reference"), [("", "exp2/net.py:build"), ("exp2", "net.py:build")])
def test_equal_files_are_told_apart_by_path(tmp_path, monkeypatch, trained_in, reference):
    monkeypatch.chdir(tmp_path)
    factories = []
    for name in ("exp1", "exp2"):
        path = tmp_path / name / "net.py"
        path.parent.mkdir()
        path.write_text("def build(classes):\n    pass\n")
        factories.append(load_source(f"{name}/net.py:build"))
    run = tmp_path / trained_in / "runs" / "a"
    define(replace(factories[1], text=reference)).save(run)
    assert find_factory(run, factories) is factories[1]
    change_file(run, reference="moved/net.py:build")
    with pytest.raises(UsageError, match=r"'moved/net.py:build', and it is unknown which of exp1/net.py:build, exp2"):
        find_factory(run, factories)
    assert find_factory(run, factories[:1]) is factories[0]
    change_file(run, reference="exp2/net.py:build")
    moved = [replace(factory, text=f"project/{factory.text}") for factory in factories]
    assert find_factory(run, moved) is moved[1]


def test_architecture_needs_no_definition(tmp_path, mini_space):
    architecture = mini_space.sample(0)
    architecture.save(tmp_path / "architecture.json")
    plain = load_definition(tmp_path)
    assert plain == NetworkDefinition.of(architecture) == load_definition(tmp_path / "architecture.json")
    with pytest.raises(UsageError, match="leave out --network peer:fast-scnn"):
        load_definition(tmp_path, PeerSource("fast-scnn"))
    named = NetworkDefinition(plain.source, plain.input, plain.classes, ("a", "b", "c"))
    named.save(tmp_path)
    assert load_definition(tmp_path) == named
    change_file(tmp_path, classes=4, class_names=None)
    with pytest.raises(FileFormatError, match="does not belong to"):
        load_definition(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 3}, "class_names has 2 entries for 3 classes"),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, r"palette\.1\.2"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [0, 1, 1]}}, "std must be above 0"),
        ({"plugin": "evil.py"}, "plugin"),
        ({"kind": "code"}, "kind"),
        ({"kind": "architecture"}, "has no architecture.json"),
        ({"class_names": ["a", "a"]}, "class_names has a name twice"),
        ({"reference": "x.py:build\x1b[2J"}, "reference"),
        ({"input": [1000000, 1000000]}, "input.0"),
        ({"normalisation": {"mean": [0, 0, 0], "std": [1e-30, 1, 1]}}, "std must be above 0.000001"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, message):
    define(PeerSource("fast-scnn")).save(tmp_path)
    change_file(tmp_path, **changes)
    with pytest.raises(FileFormatError, match=message):
        load_definition(tmp_path)


def test_folder_without_network_is_refused(tmp_path, foreign_files):
    with pytest.raises(FileFormatError, match="is not a run folder"):
        load_definition(tmp_path)
    (tmp_path / NETWORK_FILE).write_bytes(foreign_files["a PNG image"].read_bytes())
    with pytest.raises(FileFormatError, match="a PNG image"):
        load_definition(tmp_path)
