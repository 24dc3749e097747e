"""Tables derived for another number of classes."""

import pytest

from lgc.errors import FileFormatError, MismatchError, OutputError
from lgc.lut import LatencyTable
from lgc.lut.exchange.derive import compare_kept, derive_table, differ_in_classes, require_derived
from lgc.models import OpSpec
from lgc.models.space.protocol import SearchSpace

CLASSES = 5


@pytest.fixture
def source(carried):
    return carried("source.lut", networks=8)


@pytest.fixture
def derived(source, tmp_path):
    derive_table(source, CLASSES, tmp_path / "derived.lut")
    with LatencyTable.open(tmp_path / "derived.lut") as table:
        yield table


def depends_on_classes(key: str) -> bool:
    spec = OpSpec.parse(key)
    return spec.operator in ("classifier", "argmax") or (spec.operator == "upsample" and spec.c_in in (3, CLASSES))


def test_space_has_the_new_classes(source, derived):
    assert derived.space == source.space.with_classes(CLASSES)
    assert (derived.target, derived.protocol, derived.environment) == (
        source.target,
        source.protocol,
        source.environment,
    )


def test_only_entries_of_the_classes_are_pending(source, derived):
    before = {entry.key: entry for entry in source.entries()}
    pending = {entry.key for entry in derived.entries() if entry.status == "pending"}
    assert pending == {entry.key for entry in derived.entries() if depends_on_classes(entry.key)}
    assert {OpSpec.parse(key).operator for key in pending} == {"classifier", "upsample", "argmax"}
    kept = [entry for entry in derived.entries() if entry.key not in pending]
    assert kept == [before[entry.key] for entry in kept]
    assert len(kept) == len(before) - len(pending)


def test_change_of_kept_entries_is_known(source, derived):
    changes = compare_kept(derived, source)
    assert (len(changes), max(changes)) == (sum(not depends_on_classes(entry.key) for entry in derived.entries()), 0)
    with derived.store.transaction() as connection:
        connection.execute("UPDATE entries SET latency_ms = 1.5 * latency_ms")
    assert compare_kept(derived, source) == pytest.approx([0.5] * len(changes))


def test_kept_entries_keep_their_samples(source, derived):
    kept = [OpSpec.parse(entry.key) for entry in derived.entries() if not depends_on_classes(entry.key)]
    benchmarks = set()
    for spec in kept:
        assert derived.components(spec) == source.components(spec)
        benchmarks |= set(source.components(spec))
    assert {benchmark.key for benchmark in derived.benchmarks()} == benchmarks
    for key in benchmarks:
        assert derived.sample_batches(key) == source.sample_batches(key)
    assert {batch.benchmark for batch in derived.sample_batches()} == benchmarks


def test_networks_and_calibration_are_left_out(derived, source):
    assert source.networks()
    assert derived.networks() == []
    assert derived.metadata("calibration") is None
    assert derived.correction("dense") is None


def test_source_is_named_and_unchanged(source, tmp_path):
    before = source.path.read_bytes()
    result = derive_table(source, CLASSES, tmp_path / "d.lut")
    assert source.path.read_bytes() == before
    with LatencyTable.open(tmp_path / "d.lut") as table:
        assert table.metadata("derived") == {"from": str(source.path), "classes": 3, "entries": result.kept}
        assert result.kept + result.pending == len(table.entries())


def test_every_head_width_is_pending(carried, headed_space, tmp_path):
    result = derive_table(carried(space=headed_space), CLASSES, tmp_path / "d.lut")
    assert result.pending == 3 + 2, "three classifiers, upsample, argmax"


def test_existing_file_is_kept(source, tmp_path):
    (tmp_path / "d.lut").write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        derive_table(source, CLASSES, tmp_path / "d.lut")
    assert (tmp_path / "d.lut").read_text() == "precious"


@pytest.mark.parametrize("classes", [1, 256])
def test_classes_out_of_range_are_rejected(source, tmp_path, classes):
    with pytest.raises(FileFormatError, match=f"mini with {classes} classes: invalid search space: classes: "):
        derive_table(source, classes, tmp_path / "d.lut")
    assert not (tmp_path / "d.lut").exists()


def test_derived_table_belongs_to_its_source(source, derived, carried):
    require_derived(derived, source, CLASSES)
    with pytest.raises(MismatchError, match="has a different space"):
        require_derived(derived, source, CLASSES + 1)
    remeasured = carried("again.lut", seed=1)
    with remeasured.store.transaction() as connection:
        connection.execute("UPDATE sessions SET started_unix_s = 1")
    with pytest.raises(MismatchError, match=r"derived.lut is not derived from .*again.lut as it is now"):
        require_derived(derived, remeasured, CLASSES)


def test_spaces_differ_in_classes_only(mini_space):
    other = mini_space.with_classes(CLASSES)
    renamed = SearchSpace.check({**other.to_dict(), "name": "renamed"}, "renamed")
    assert differ_in_classes(mini_space, other)
    assert differ_in_classes(mini_space, renamed)
    assert not differ_in_classes(mini_space, mini_space)
    assert not differ_in_classes(mini_space, other.with_input(64, 64))
