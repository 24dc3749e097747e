import hashlib
import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lgc.errors import MismatchError, MissingEntryError, UnknownNameError, UsageError
from lgc.lut import Correction, LatencyTable, Predictor
from lgc.lut.statistics.calibration import FORMS, OPERATOR_KINDS, classify_operator
from lgc.models import PRESETS, SCOPES, OpSpec, SearchSpace, Slot
from lgc.models.recipe import iter_layers
from lgc.models.space.costs import Costs
from lgc.models.space.lgcnet import LGCNetArchitecture
from lgc.models.space.operators import get_recipe, is_free
from lgc.models.space.slots import SlotSpace

from ..spaces import list_heads

PREDICTED = [*PRESETS, "mini", "headed"]
CORRECTIONS = {
    "offset": Correction("offset", 0.25),
    "affine": Correction("affine", -0.125, (1.5,), error_pct=4.0, networks=9),
    "launches": Correction("launches", 0.25, (0.5, 0.0625)),
    "kinds": Correction("kinds", 0.25, (0.5, 3.0, 1.25)),
}


def by_hand(form, table, specs):
    """Compute the latency of a network from the definition of the form and the table's entries."""
    entries = [(spec, table.latency_ms(spec)) for spec in specs if not is_free(spec)]
    whole = sum(ms for _, ms in entries)
    match form:
        case None:
            return whole
        case "offset":
            return 0.25 + whole
        case "affine":
            return -0.125 + 1.5 * whole
        case "launches":
            return 0.25 + 0.5 * whole + 0.0625 * sum(len([*iter_layers(get_recipe(spec))]) for spec, _ in entries)
        case "kinds":
            of_kind = [
                sum(ms for spec, ms in entries if classify_operator(spec) == kind)
                for kind in range(len(OPERATOR_KINDS))
            ]
            return 0.25 + 0.5 * of_kind[0] + 3.0 * of_kind[1] + 1.25 * of_kind[2]


def choices_of(networks):
    return np.array([network.choices for network in networks])


def every_head(space, choices):
    """Return the choices with each width of the head, [H, D]."""
    return np.array([[*choices[:-1], head] for head in range(len(space.heads))])


def calibrate(table, form, *scopes):
    table.set_metadata("calibration", {scope: asdict(CORRECTIONS[form]) for scope in scopes} if form else {})


@pytest.fixture(scope="module")
def spaces(mini_space, headed_space):
    return {name: SearchSpace.load(name) for name in PRESETS} | {"mini": mini_space, "headed": headed_space}


@pytest.fixture(params=PREDICTED)
def space(request, spaces):
    return spaces[request.param]


@pytest.fixture
def table(space, make_table):
    return make_table(space)


def test_table_covers_every_slot(space, table):
    for slot in space.slots():
        for spec in slot.candidates:
            assert (table.latency_ms(spec) == 0) == is_free(spec), (slot.name, spec)


def test_table_has_only_needed_entries(space, table):
    needed = {str(spec) for slot in space.slots() for spec in slot.candidates if not is_free(spec)}
    assert {entry.key for entry in table.entries()} == needed


def test_every_form_has_a_test_correction():
    assert set(CORRECTIONS) == set(FORMS)


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("scope", SCOPES)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=8)
def test_prediction_sums_corrected_entries(space, table, scope, form, seed, data):
    calibrate(table, form, scope)
    head = data.draw(st.integers(0, len(space.heads) - 1))
    architecture = space.build([*space.sample(seed).choices[:-1], head])
    predictor = Predictor(space, table, scope)
    assert predictor.predict(architecture) == pytest.approx(by_hand(form, table, architecture.specs(scope)), rel=1e-9)
    assert predictor.calibrated == (form is not None)
    assert predictor.correction == (CORRECTIONS[form] if form else Correction())


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("scope", SCOPES)
def test_batched_predictions_equal_single_ones(space, table, scope, form):
    calibrate(table, form, scope)
    predictor = Predictor(space, table, scope)
    networks = [*space.spread(5, 0), space.sample(0)]
    many = predictor.predict_many(choices_of(networks))
    assert many.tolist() == pytest.approx([predictor.predict(network) for network in networks], rel=1e-12)
    assert len(set(many.tolist())) == 6


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("scope", SCOPES)
def test_head_adds_its_difference_to_the_default(space, table, scope, form):
    if space.searches_widths:
        pytest.skip("its head depends on the fusion's width too")
    calibrate(table, form, scope)
    predictor, default = Predictor(space, table, scope), space.default_head
    own = by_hand(form, table, list_heads(space)[default])
    wanted = [by_hand(form, table, specs) - own for specs in list_heads(space)]
    head_ms = predictor.cost.single[-1, : len(space.heads)]
    assert head_ms.tolist() == pytest.approx(wanted, abs=1e-12)
    assert head_ms[default] == 0
    all_heads = predictor.predict_many(every_head(space, space.sample(0).choices))
    assert all_heads.tolist() == pytest.approx((predictor.predict(space.sample(0)) + head_ms).tolist())
    assert len(set(all_heads.tolist())) == len(space.heads)


def test_fixed_latency_includes_the_default_head(spaces, make_table):
    """A space with several heads predicts its default width like the space of that width alone."""
    several, one = make_table(spaces["headed"]), make_table(spaces["mini"], "one.lut")
    for entry in one.entries():
        with several.store.transaction() as connection:
            connection.execute("UPDATE entries SET latency_ms = ? WHERE key = ?", (entry.latency_ms, entry.key))
    for scope in SCOPES:
        found, wanted = Predictor(spaces["headed"], several, scope), Predictor(spaces["mini"], one, scope)
        assert found.cost.constant == pytest.approx(wanted.cost.constant, rel=1e-12)
        assert np.array_equal(found.cost.single[:-1], wanted.cost.single[:-1])


@pytest.mark.parametrize("choices", [np.zeros((2, 15), int), np.zeros((1, 16)), [[0] * 15 + [5]]], ids=str)
def test_invalid_choices_are_rejected(spaces, make_table, choices):
    predictor = Predictor(spaces["headed"], make_table(spaces["headed"]))
    for ask in (predictor.predict_many, predictor.to_frame):
        with pytest.raises(UsageError, match="choices "):
            ask(choices)


def test_frame_rates_count_images_of_batches(make_table):
    candidates = tuple(OpSpec(name, 8, 8, 16, 16, batch=4) for name in ("conv_3x3", "sep_conv_3x3"))
    space = SlotSpace.from_slots([Slot("a", candidates)])
    predictor = Predictor(space, make_table(space))
    assert predictor.to_fps(2.0) == pytest.approx(4 * 500)
    assert predictor.from_fps(2000) == pytest.approx(2.0)


def test_frame_has_costs_of_the_heads(spaces, make_table):
    space = spaces["headed"]
    predictor, networks = Predictor(space, make_table(space)), list(space.spread(6, 0))
    frame = predictor.to_frame(choices_of(networks))
    assert frame["latency_ms"].tolist() == [predictor.predict(network) for network in networks]
    assert frame["macs"].tolist() == [network.macs for network in networks]
    assert frame["parameters"].tolist() == [network.parameters for network in networks]
    peaks = Costs(space).peak_activation_bytes(choices_of(networks))
    assert frame["peak_activation_bytes"].tolist() == peaks.tolist()
    assert predictor.to_frame(every_head(space, networks[0].choices))["macs"].tolist() != frame["macs"].tolist()


def test_calibration_applies_to_its_scope(spaces, make_table):
    space = spaces["mini"]
    table, network = make_table(space), space.sample(0)
    plain = {scope: Predictor(space, table, scope) for scope in SCOPES}
    assert not any(predictor.calibrated for predictor in plain.values())
    calibrate(table, "affine", "dense")
    dense, core = Predictor(space, table, "dense"), Predictor(space, table, "core")
    assert (dense.calibrated, core.calibrated) == (True, False)
    assert dense.predict(network) == pytest.approx(-0.125 + 1.5 * plain["dense"].predict(network))
    assert core.predict(network) == plain["core"].predict(network)


def test_interval_surrounds_the_prediction(spaces, make_table):
    space = spaces["mini"]
    table, network = make_table(space), space.sample(0)
    assert Predictor(space, table).interval(network) is None
    calibrate(table, "offset", "dense")
    assert Predictor(space, table).interval(network) is None, "its errors are unknown"
    calibrate(table, "affine", "dense")
    predictor = Predictor(space, table)
    found, half = predictor.interval(network), CORRECTIONS["affine"].half_width_pct() / 100
    latency = predictor.predict(network)
    assert (found.low_ms, found.high_ms) == pytest.approx((latency * (1 - half), latency * (1 + half)))
    assert 0 < half < 0.1


def test_interval_is_not_negative(spaces, make_table):
    space = spaces["mini"]
    table = make_table(space)
    table.set_metadata("calibration", {"dense": asdict(Correction(error_pct=90.0, networks=4))})
    predictor = Predictor(space, table)
    found = predictor.interval(space.sample(0))
    assert found.low_ms == 0
    assert found.high_ms > 2 * predictor.predict(space.sample(0))
    with pytest.raises(MismatchError):
        predictor.interval(spaces["tiny"].sample(0))


def test_fingerprint_covers_latencies_and_calibration(spaces, make_table):
    space = spaces["mini"]
    table = make_table(space)
    found = [Predictor(space, table, scope).fingerprint for scope in ("dense", "core")]
    found.append(Predictor(space, make_table(space, "other.lut", seed=1)).fingerprint)
    for form in FORMS:
        calibrate(table, form, "dense")
        found.append(Predictor(space, table).fingerprint)
    assert len(set(found)) == len(found)
    assert Predictor(space, table).fingerprint == found[-1]


def test_fingerprint_covers_heads_of_several_widths(spaces, make_table):
    predictor = Predictor(spaces["mini"], make_table(spaces["mini"]))
    content = (predictor.scope, predictor.cost.single[:-1].tobytes(), predictor.cost.constant)
    assert predictor.fingerprint == hashlib.sha256(repr(content).encode()).hexdigest()[:12]
    space = spaces["headed"]
    table = make_table(space, "several.lut")
    found = {Predictor(space, table).fingerprint}
    for specs in list_heads(space):
        with table.store.transaction() as connection:
            connection.execute("UPDATE entries SET latency_ms = latency_ms * 2 WHERE key = ?", (str(specs[0]),))
        found.add(Predictor(space, table).fingerprint)
    assert len(found) == 4


def every_architecture(space):
    for choices in itertools.product(range(len(space.operators)), repeat=space.edges):
        for head in range(len(space.heads)):
            try:
                yield space.build([*choices, head])
            except ValidationError:
                continue


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("widths", [[], [2, 8]], ids=str)
def test_extremes_match_exhaustive_search(micro_space, make_table, seed, widths):
    space = SearchSpace.check({**micro_space.model_dump(mode="json"), "head_widths": widths}, "s")
    predictor = Predictor(space, make_table(space, seed=seed))
    valid = list(every_architecture(space))
    heads = len(widths) + 1
    assert len(valid) == heads * 2**6, "each of the 6 edges is the only one of an input, so none may be zero"
    latencies = predictor.predict_many(choices_of(valid))
    head_ms = predictor.cost.single[-1, :heads]
    assert head_ms[predictor.fastest.choices[-1]] == head_ms.min()
    assert predictor.predict(predictor.fastest) == pytest.approx(latencies.min(), rel=1e-12)
    assert predictor.predict(predictor.slowest) == pytest.approx(latencies.max(), rel=1e-12)


@pytest.mark.parametrize(("cheapest", "costliest"), list(itertools.permutations(range(3), 2)))
def test_extremes_have_extreme_heads(spaces, make_table, cheapest, costliest):
    space = spaces["headed"]
    table = make_table(space)
    with table.store.transaction() as connection:
        for head, specs in enumerate(list_heads(space)):
            latency = {cheapest: 0.1, costliest: 10.0}.get(head, 5.0)
            connection.execute("UPDATE entries SET latency_ms = ? WHERE key = ?", (latency, str(specs[0])))
    predictor = Predictor(space, table)
    assert (predictor.fastest.choices[-1], predictor.slowest.choices[-1]) == (cheapest, costliest)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operators", [["zero", "skip", "sep_conv_3x3"], ["skip", "conv_3x3"]], ids=["zero", "no zero"])
def test_extremes_with_spare_edges_are_exact(mini_space, make_table, seed, operators):
    """Search a cell of two nodes exhaustively, with the other cells fixed."""
    content = {**mini_space.model_dump(mode="json"), "operators": operators}
    space = SearchSpace.check(content, "searched")
    predictor = Predictor(space, make_table(space, name=f"{operators}.lut", seed=seed))
    for extreme, best in ((predictor.fastest, min), (predictor.slowest, max)):
        for at in range(space.cells):
            others = list(extreme.cells)
            found = []
            for names in itertools.product(operators, repeat=5):
                if space.plan.cells[at].find_fault(names) is None:
                    others[at] = names
                    found.append(LGCNetArchitecture(space=space, cells=tuple(others), fusion=extreme.fusion))
            latencies = predictor.predict_many(choices_of(found))
            assert predictor.predict(extreme) == pytest.approx(best(latencies), rel=1e-12)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_extremes_bound_every_network(space, table, seed):
    predictor = Predictor(space, table)
    latency = predictor.predict_many(every_head(space, space.sample(seed).choices))
    assert predictor.predict(predictor.fastest) <= latency.min()
    assert latency.max() <= predictor.predict(predictor.slowest)


def test_table_of_other_space_is_rejected(spaces, make_table):
    with pytest.raises(
        MismatchError,
        match=r"space mini 32x32, 3 classes, geometry 1 \(\w{12}\), not tiny 192x256, .* geometry 2 .*lgc-profile",
    ):
        Predictor(spaces["tiny"], make_table(spaces["mini"]))


def test_architecture_of_other_space_is_rejected(spaces, make_table):
    predictor = Predictor(spaces["mini"], make_table(spaces["mini"]))
    with pytest.raises(MismatchError, match=r"the architecture has space tiny .* has mini "):
        predictor.predict(spaces["tiny"].sample(0))


def test_unknown_scope_lists_the_known_ones(spaces, make_table):
    with pytest.raises(UnknownNameError, match="unknown scope 'whole'; known: core, dense"):
        Predictor(spaces["mini"], make_table(spaces["mini"]), "whole")


def test_unfinished_table_names_the_resume_command(spaces, tmp_path, make_table):
    space = spaces["mini"]
    target = make_table(space).target
    with (
        LatencyTable.create(tmp_path / "new.lut", target, space, {}, {}) as table,
        pytest.raises(MissingEntryError) as no,
    ):
        Predictor(space, table)
    assert "not measured yet; measure it with: lgc-profile --device cpu --backend onnxruntime" in str(no.value)
