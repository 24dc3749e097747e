import itertools
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lgc.errors import MismatchError, MissingEntryError, UnknownNameError
from lgc.lut import Correction, LatencyTable, Predictor
from lgc.lut.calibration import FORMS, KINDS, kind_of
from lgc.models import PRESETS, SCOPES, Architecture, SearchSpace
from lgc.models.operators import is_free, recipe_of

PREDICTED = [*PRESETS, "mini"]
CORRECTIONS = {
    "offset": Correction("offset", 0.25),
    "affine": Correction("affine", -0.125, (1.5,), error_pct=4.0, networks=9),
    "launches": Correction("launches", 0.25, (0.5, 0.0625)),
    "kinds": Correction("kinds", 0.25, (0.5, 3.0, 1.25)),
}


def by_hand(form, table, specs):
    """Latency of a network of these operators, from the definition of each form and the table's entries."""
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
            return 0.25 + 0.5 * whole + 0.0625 * sum(len(recipe_of(spec)) for spec, _ in entries)
        case "kinds":
            of_kind = [sum(ms for spec, ms in entries if kind_of(spec) == kind) for kind in range(len(KINDS))]
            return 0.25 + 0.5 * of_kind[0] + 3.0 * of_kind[1] + 1.25 * of_kind[2]


def calibrate(table, form, *scopes):
    table.write_note("calibration", {scope: asdict(CORRECTIONS[form]) for scope in scopes} if form else {})


@pytest.fixture(scope="module")
def spaces(mini_space):
    return {name: SearchSpace.load(name) for name in PRESETS} | {"mini": mini_space}


@pytest.fixture(params=PREDICTED)
def space(request, spaces):
    return spaces[request.param]


@pytest.fixture
def table(space, make_table):
    return make_table(space)


def test_the_table_covers_every_slot(space, table):
    for slot in space.slots():
        for spec in slot.candidates:
            assert (table.latency_ms(spec) == 0) == is_free(spec), (slot.name, spec)


def test_the_table_holds_nothing_that_no_slot_needs(space, table):
    needed = {str(spec) for slot in space.slots() for spec in slot.candidates if not is_free(spec)}
    assert {entry.key for entry in table.entries()} == needed


def test_every_form_has_a_correction_here():
    assert set(CORRECTIONS) == set(FORMS)


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("scope", SCOPES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_a_prediction_is_the_sum_of_its_corrected_entries(space, table, scope, form, seed):
    calibrate(table, form, scope)
    architecture = space.sample(seed)
    predictor = Predictor(space, table, scope)
    assert predictor.predict(architecture) == pytest.approx(by_hand(form, table, architecture.specs(scope)), rel=1e-9)
    assert predictor.calibrated == (form is not None)
    assert predictor.correction == (CORRECTIONS[form] if form else Correction())


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize("scope", SCOPES)
def test_many_predictions_are_the_single_ones(space, table, scope, form):
    calibrate(table, form, scope)
    predictor = Predictor(space, table, scope)
    networks = [*space.spread(5, 0), space.sample(0)]
    many = predictor.predict_many(np.array([network.choices for network in networks]))
    assert many.tolist() == pytest.approx([predictor.predict(network) for network in networks], rel=1e-12)
    assert len(set(many.tolist())) == 6


def test_a_calibration_is_applied_in_its_scope_only(spaces, make_table):
    space = spaces["mini"]
    table, network = make_table(space), space.sample(0)
    plain = {scope: Predictor(space, table, scope) for scope in SCOPES}
    assert not any(predictor.calibrated for predictor in plain.values())
    calibrate(table, "affine", "dense")
    dense, core = Predictor(space, table, "dense"), Predictor(space, table, "core")
    assert (dense.calibrated, core.calibrated) == (True, False)
    assert dense.predict(network) == pytest.approx(-0.125 + 1.5 * plain["dense"].predict(network))
    assert core.predict(network) == plain["core"].predict(network)


def test_an_interval_is_the_corrections_around_the_prediction(spaces, make_table):
    space = spaces["mini"]
    table, network = make_table(space), space.sample(0)
    assert Predictor(space, table).interval(network) is None
    calibrate(table, "offset", "dense")
    assert Predictor(space, table).interval(network) is None, "errors of this calibration are not known"
    calibrate(table, "affine", "dense")
    predictor = Predictor(space, table)
    found, half = predictor.interval(network), CORRECTIONS["affine"].half_width_pct() / 100
    latency = predictor.predict(network)
    assert (found.low_ms, found.high_ms) == pytest.approx((latency * (1 - half), latency * (1 + half)))
    assert 0 < half < 0.1


def test_an_interval_does_not_reach_below_nothing(spaces, make_table):
    space = spaces["mini"]
    table = make_table(space)
    table.write_note("calibration", {"dense": asdict(Correction(error_pct=90.0, networks=4))})
    predictor = Predictor(space, table)
    found = predictor.interval(space.sample(0))
    assert found.low_ms == 0
    assert found.high_ms > 2 * predictor.predict(space.sample(0))
    with pytest.raises(MismatchError):
        predictor.interval(spaces["tiny"].sample(0))


def test_a_fingerprint_changes_with_what_is_predicted(spaces, make_table):
    space = spaces["mini"]
    table = make_table(space)
    found = [Predictor(space, table, scope).fingerprint for scope in ("dense", "core")]
    found.append(Predictor(space, make_table(space, "other.lut", seed=1)).fingerprint)
    for form in FORMS:
        calibrate(table, form, "dense")
        found.append(Predictor(space, table).fingerprint)
    assert len(set(found)) == len(found)
    assert Predictor(space, table).fingerprint == found[-1]


def every_architecture(space):
    for choices in itertools.product(range(len(space.operators)), repeat=space.edges):
        try:
            yield Architecture.from_choices(space, choices)
        except ValidationError:
            continue


@pytest.mark.parametrize("seed", range(3))
def test_fastest_and_slowest_against_all_architectures(micro_space, make_table, seed):
    predictor = Predictor(micro_space, make_table(micro_space, seed=seed))
    valid = list(every_architecture(micro_space))
    assert len(valid) == 2**6, "each of the 6 edges is some input's only one, so none may be zero"
    latencies = predictor.predict_many(np.array([network.choices for network in valid]))
    assert predictor.predict(predictor.fastest) == pytest.approx(latencies.min(), rel=1e-12)
    assert predictor.predict(predictor.slowest) == pytest.approx(latencies.max(), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operators", [["zero", "skip", "sep_conv_3x3"], ["skip", "conv_3x3"]], ids=["zero", "no zero"])
def test_fastest_and_slowest_of_a_cell_with_edges_to_spare(mini_space, make_table, seed, operators):
    """One cell of two nodes, searched whole while the other cells stay as they are."""
    content = {**mini_space.model_dump(mode="json"), "operators": operators}
    space = SearchSpace.check(content, "searched")
    predictor = Predictor(space, make_table(space, name=f"{operators}.lut", seed=seed))
    for extreme, best in ((predictor.fastest, min), (predictor.slowest, max)):
        for at in range(space.cells):
            others = list(extreme.cells)
            found = []
            for names in itertools.product(operators, repeat=5):
                if space.plan.cells[at].fault(names) is None:
                    others[at] = names
                    found.append(Architecture(space=space, cells=tuple(others), fusion=extreme.fusion))
            latencies = predictor.predict_many(np.array([network.choices for network in found]))
            assert predictor.predict(extreme) == pytest.approx(best(latencies), rel=1e-12)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_fastest_and_slowest_bound_every_network(space, table, seed):
    predictor = Predictor(space, table)
    latency = predictor.predict(space.sample(seed))
    assert predictor.predict(predictor.fastest) <= latency <= predictor.predict(predictor.slowest)


def test_a_table_of_another_space_is_refused(spaces, make_table):
    with pytest.raises(MismatchError, match=r"space mini 32x32 \(\w{12}\), not tiny 192x256 \(\w{12}\).*lgc-profile"):
        Predictor(spaces["tiny"], make_table(spaces["mini"]))


def test_an_architecture_of_another_space_is_refused(spaces, make_table):
    predictor = Predictor(spaces["mini"], make_table(spaces["mini"]))
    with pytest.raises(MismatchError, match=r"the architecture is of space tiny .* of mini "):
        predictor.predict(spaces["tiny"].sample(0))


def test_an_unknown_scope_lists_the_known_ones(spaces, make_table):
    with pytest.raises(UnknownNameError, match="unknown scope 'whole'; known: core, dense"):
        Predictor(spaces["mini"], make_table(spaces["mini"]), "whole")


def test_an_unfinished_table_names_the_command_that_goes_on_with_it(spaces, tmp_path, make_table):
    space = spaces["mini"]
    target = make_table(space).target
    with (
        LatencyTable.create(tmp_path / "new.lut", target, space, {}, {}) as table,
        pytest.raises(MissingEntryError) as no,
    ):
        Predictor(space, table)
    assert "not measured yet; fill it with: lgc-profile --device cpu --backend onnxruntime" in str(no.value)
