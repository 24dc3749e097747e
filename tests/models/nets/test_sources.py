"""Sources of networks: references, factories and what they return."""

from __future__ import annotations

import pytest
import torch

from lgc.errors import PluginError, UnknownNameError, UsageError
from lgc.models import LGCNet
from lgc.models.nets.definition import NetworkDefinition
from lgc.models.nets.sources import ArchitectureSource, PeerSource, load_source

from ... import user_networks

FILE = user_networks.__file__


def test_references_give_peers_and_factories():
    peer, factory = load_source("peer:fast-scnn"), load_source(f"{FILE}:build")
    assert (peer, peer.kind, peer.name, peer.reference) == (
        PeerSource("fast-scnn"), "peer", "fast-scnn", "peer:fast-scnn"
    )  # fmt: skip
    assert (factory.kind, factory.name) == ("factory", "user_networks.py:build")
    assert len(factory.digest) == 12
    assert type(factory.build(5)).__name__ == "Toy"
    assert factory.build(5).head.out_channels == 5


def test_module_class_is_a_factory():
    assert load_source(f"{FILE}:Tied").build(4).head.out_channels == 4


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("peer:pidnet", UnknownNameError, "did you mean 'pidnet-s'"),
        ("pidnet-s", UsageError, "write peer:pidnet-s"),
        ("runs/a/architecture.json", UsageError, "pass it without --network"),
        (FILE, PluginError, "names no object"),
        (f"{FILE}:COUNT", PluginError, "object of type int: pass a function"),
        (f"{FILE}:INSTANCE", PluginError, "object of type Toy: pass a function"),
        (f"{FILE}:Result", PluginError, "a class without forward"),
    ],
)
def test_other_references_are_refused(reference, error, message):
    with pytest.raises(error, match=message):
        load_source(reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("build_nothing", r"must return a torch\.nn\.Module, got dict"),
        ("build_failing", r"failed for classes=3: ValueError: no weights \(.*user_networks\.py, line \d+\)"),
        ("build_exiting", r"SystemExit: the code ends the program with exit code 0 \(.*user_networks\.py, line \d+\)"),
        ("build_ambiguous", r"number of classes is unknown \(its arguments: width, depth\): pass a function"),
        ("build_optional", r"number of classes is unknown \(its arguments: width\)"),
    ],
)
def test_factory_errors_are_explained(name, message):
    with pytest.raises(PluginError, match=message):
        load_source(f"{FILE}:{name}").build(3)


def test_classes_are_passed_by_keyword(capsys):
    assert load_source(f"{FILE}:build_by_keyword").build(4).head.out_channels == 4
    load_source(f"{FILE}:build_printing").build(4)
    assert capsys.readouterr() == ("", "built\n")


def test_digest_is_of_the_defining_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exporting.py").write_text(f"from {user_networks.__name__} import build\n")
    assert load_source("exporting.py:build").digest == load_source(f"{FILE}:build").digest


def test_architecture_builds_only_its_classes(mini_space):
    source = ArchitectureSource(mini_space.sample(0))
    assert isinstance(source.build(mini_space.classes), LGCNet)
    with pytest.raises(UsageError, match="has 3 classes, not 4"):
        source.build(4)


def test_weights_depend_on_the_seed_alone():
    definition = NetworkDefinition(load_source(f"{FILE}:build"), (32, 32), 3)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (definition.build(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first["head.weight"], again["head.weight"])
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_lazy_layers_get_their_shapes():
    network = NetworkDefinition(load_source(f"{FILE}:Lazy"), (32, 32), 3).build()
    assert network.training
    assert [tuple(value.shape) for name, value in network.state_dict().items() if name.endswith("0.weight")] == [
        (4, 3, 3, 3)
    ]
