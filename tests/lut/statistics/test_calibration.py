"""Corrections under known laws, and reports on predictions."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from lgc.errors import MeasurementError, UnknownNameError
from lgc.lut.statistics import calibration
from lgc.lut.statistics.calibration import (
    FORMS,
    OPERATOR_KINDS,
    PREDICTION_LEVEL,
    SHRINKAGE,
    Correction,
    PredictionReport,
    add_new_names,
    choose_correction,
    classify_operator,
    design_matrix,
    evaluate_predictions,
    fit_correction,
    transfer_to_scope,
)
from lgc.models import OpSpec

SPECS = [
    OpSpec("conv_3x3", 8, 8, 16, 16),
    OpSpec("conv_1x1", 8, 16, 16, 16),
    OpSpec("sep_conv_3x3", 8, 8, 16, 16),
    OpSpec("sep_conv_3x3_d4", 16, 16, 16, 16),
    OpSpec("max_pool_3x3", 8, 8, 16, 16),
    OpSpec("add", 8, 8, 16, 16),
]
LATENCY_MS = {spec: 0.05 * 1.5**index for index, spec in enumerate(SPECS)}
LAUNCHES = {spec: 2 if "sep" in spec.operator else 1 for spec in SPECS}


def networks_of(count, seed=0):
    """Return networks of random operators, from light to heavy, with varying mixtures."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        often = rng.poisson(rng.dirichlet(np.full(len(SPECS), 0.5)) * (10 + 60 * index / count)) + 1
        parts = [(spec, LATENCY_MS[spec]) for spec, times in zip(SPECS, often, strict=True) for _ in range(times)]
        found.append([parts[i] for i in rng.permutation(len(parts))])
    return [found[i] for i in rng.permutation(count)]


def total(parts, only=lambda spec: True):
    return sum(ms for spec, ms in parts if only(spec))


@pytest.fixture
def free(monkeypatch):
    """Disable shrinkage, so that a law is recovered exactly."""
    monkeypatch.setattr(calibration, "SHRINKAGE", 0.0)


LAWS = {
    "offset": lambda parts: 0.7 + total(parts),
    "affine": lambda parts: 0.3 + 0.8 * total(parts),
    "launches": lambda parts: 0.2 + 0.7 * total(parts) + 0.02 * sum(LAUNCHES[spec] for spec, _ in parts),
    "kinds": lambda parts: 0.4 + sum((0.6, 1.5, 0.9)[classify_operator(spec)] * ms for spec, ms in parts),
}


def applied(correction, parts):
    return correction.intercept_ms + sum(correction.apply(spec, ms) for spec, ms in parts)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("conv_3x3", "conv"),
        ("conv_1x1", "conv"),
        ("classifier", "conv"),
        ("sep_conv_3x3_d8", "depthwise"),
        ("max_pool_3x3", "other"),
        ("add", "other"),
        ("upsample", "other"),
    ],
)
def test_operators_are_classified(operator, kind):
    assert OPERATOR_KINDS[classify_operator(OpSpec(operator, 4, 4, 8, 8))] == kind


def test_every_form_has_a_test_law():
    assert set(LAWS) == set(FORMS)


@pytest.mark.parametrize("form", LAWS)
@pytest.mark.usefixtures("free")
def test_fit_recovers_its_law(form):
    """Predict new networks exactly."""
    found = fit_correction(form, networks_of(20), [LAWS[form](parts) for parts in networks_of(20)])
    assert (found.form, len(found.weights)) == (form, FORMS[form].weights)
    for parts in networks_of(10, seed=1):
        assert applied(found, parts) == pytest.approx(LAWS[form](parts), rel=1e-6)


@pytest.mark.usefixtures("free")
def test_weights_equal_the_law():
    networks = networks_of(20)
    affine = fit_correction("affine", networks, list(map(LAWS["affine"], networks)))
    assert (affine.intercept_ms, *affine.weights) == pytest.approx((0.3, 0.8), rel=1e-6)
    launches = fit_correction("launches", networks, list(map(LAWS["launches"], networks)))
    assert (launches.intercept_ms, *launches.weights) == pytest.approx((0.2, 0.7, 0.02), rel=1e-5)
    kinds = fit_correction("kinds", networks, list(map(LAWS["kinds"], networks)))
    assert (kinds.intercept_ms, *kinds.weights) == pytest.approx((0.4, 0.6, 1.5, 0.9), rel=1e-5)
    below = fit_correction("affine", networks, [total(parts) - 0.2 for parts in networks])
    assert (below.intercept_ms, *below.weights) == pytest.approx((-0.2, 1.0), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("free")
def test_fit_minimises_the_relative_error(form):
    """Add noise to the law: no neighbouring intercept or weight has a smaller sum of squared errors."""
    networks, rng = networks_of(20), np.random.default_rng(3)
    y = np.array([LAWS[form](parts) for parts in networks]) * (1 + 0.1 * rng.standard_normal(20))
    best = fit_correction(form, networks, y)

    def loss(correction):
        return sum((applied(correction, parts) / ms - 1) ** 2 for parts, ms in zip(networks, y, strict=True))

    least = loss(best)
    for step in (1e-3, -1e-3):
        assert loss(Correction(form, best.intercept_ms + step, best.weights)) > least
        for index in range(0 if FORMS[form].fixed else len(best.weights)):
            weights = list(best.weights)
            weights[index] += step
            assert loss(Correction(form, best.intercept_ms, tuple(weights))) > least or weights[index] < 0


@pytest.mark.parametrize("form", FORMS)
@given(st.lists(st.floats(0.01, 100), min_size=12, max_size=12))
@settings(max_examples=40)
def test_weights_are_never_negative(form, measured):
    """A negative weight would make the search prefer slow operators."""
    found = fit_correction(form, networks_of(12), measured)
    assert all(weight >= 0 for weight in found.weights)
    assert all(found.apply(spec, ms) >= 0 for spec, ms in LATENCY_MS.items())
    assert math.isfinite(found.intercept_ms)


@pytest.mark.parametrize("form", FORMS)
def test_degenerate_measurements_give_finite_fits(form):
    parts = networks_of(1)[0]
    for networks, y in (([parts] * 6, [3, 4, 5, 6, 7, 8]), ([parts[: n + 1] for n in range(6)], [6, 5, 4, 3, 2, 1])):
        found = fit_correction(form, networks, y)
        assert all(weight >= 0 for weight in found.weights)
        assert all(math.isfinite(applied(found, each)) for each in networks)


@pytest.mark.parametrize("form", FORMS)
def test_features_add_up_over_operators(form):
    """The correction of a network is the sum over its operators."""
    networks = networks_of(5)
    weights = (1.0,) if FORMS[form].fixed else tuple(0.5 + n for n in range(FORMS[form].weights))
    correction = Correction(form, 0.0, weights)
    for row, parts in zip(design_matrix(form, networks), networks, strict=True):
        assert row @ np.array(weights) == pytest.approx(applied(correction, parts))


@pytest.mark.parametrize(
    ("form", "weights", "text"),
    [
        ("affine", (0.95,), "0.95 x entries - 0.1547 ms"),
        ("launches", (0.95, 0.0021), "0.95 x entries + 0.0021 ms x layers - 0.1547 ms"),
        ("kinds", (0.9, 0.7, 0.6), "0.9 x conv entries + 0.7 x depthwise entries + 0.6 x other entries - 0.1547 ms"),
    ],
)
def test_correction_reads_as_a_formula(form, weights, text):
    assert str(Correction(form, -0.15471, weights)) == text


def test_default_correction_is_the_identity():
    assert Correction().intercept_ms == 0
    assert [Correction().apply(spec, ms) for spec, ms in LATENCY_MS.items()] == list(LATENCY_MS.values())
    assert Correction().half_width_pct() is None


def test_few_networks_shrink_factors_more():
    """Fewer networks shrink the factors more, without changing their order."""
    factors = np.array((0.6, 1.5, 0.9))
    apart = []
    for count in (14, 200):
        networks = networks_of(count)
        found = fit_correction("kinds", networks, list(map(LAWS["kinds"], networks)))
        apart.append(np.ptp(found.weights))
        assert np.argsort(found.weights).tolist() == np.argsort(factors).tolist()
    assert 0.1 < apart[0] < apart[1] < np.ptp(factors)


@pytest.mark.parametrize("law", ["affine", "launches", "kinds"])
def test_form_of_the_law_is_selected(law, request):
    if law == "kinds":
        request.getfixturevalue("free")
    networks, rng = networks_of(24), np.random.default_rng(1)
    y = np.array([LAWS[law](parts) for parts in networks]) * (1 + 0.002 * rng.standard_normal(24))
    choice = choose_correction(networks, y)
    found, held_out = choice.correction, choice.held_out_ms
    assert found.form == law
    assert found.weights == fit_correction(law, networks, y).weights
    assert held_out == pytest.approx(y, rel=0.02)
    assert found.error_pct == pytest.approx(np.sqrt(np.mean((held_out / y - 1) ** 2)) * 100)
    assert 0.05 < found.error_pct < 0.6
    assert found.networks == 24


def test_equally_good_forms_yield_the_most_flexible():
    """Equally good: the excess over the smallest error is within a standard error of the difference."""
    taken = Counter()
    for law in LAWS:
        for seed in range(6):
            networks, rng = networks_of(24, seed), np.random.default_rng(seed)
            y = np.array([LAWS[law](parts) for parts in networks]) * (1 + 0.05 * rng.standard_normal(24))
            errors = {form: np.abs(choose_correction(networks, y, form).held_out_ms / y - 1) for form in FORMS}
            least = min(errors, key=lambda form: errors[form].mean())
            worse = {form: error - errors[least] for form, error in errors.items()}
            as_good = [form for form in FORMS if worse[form].mean() <= worse[form].std(ddof=1) / 24**0.5]
            assert choose_correction(networks, y).correction.form == as_good[-1]
            taken[as_good[-1] == least, len(as_good) > 1] += 1
            assert choose_correction(networks[:9], y[:9]).correction.form != "kinds", (
                "too few networks for three weights"
            )
    assert min(taken[False, True], taken[True, False]) > 1, "both cases occurred"


def test_shrunk_factors_minimise_the_penalised_error(monkeypatch):
    """No neighbouring weights have a smaller sum of squared errors and penalty."""
    networks, rng = networks_of(20), np.random.default_rng(3)
    y = np.array([LAWS["kinds"](parts) for parts in networks]) * (1 + 0.1 * rng.standard_normal(20))
    best = fit_correction("kinds", networks, y)

    def loss(weights):
        moved = Correction("kinds", best.intercept_ms, weights)
        errors = np.array([applied(moved, parts) for parts in networks]) / y - 1
        return np.square(errors).sum() + SHRINKAGE * np.square(np.array(weights) - np.mean(weights)).sum()

    for index in range(3):
        for step in (1e-3, -1e-3):
            weights = list(best.weights)
            weights[index] += step
            assert loss(tuple(weights)) > loss(best.weights)
    alike = fit_correction("kinds", networks, [LAWS["affine"](parts) for parts in networks])
    assert (alike.intercept_ms, *alike.weights) == pytest.approx((0.3, 0.8, 0.8, 0.8), rel=1e-5)
    monkeypatch.setattr(calibration, "SHRINKAGE", 0.0)
    assert np.ptp(best.weights) < np.ptp(fit_correction("kinds", networks, y).weights)


@pytest.mark.usefixtures("free")
def test_wrong_form_has_larger_error():
    networks = networks_of(24)
    y = list(map(LAWS["kinds"], networks))
    errors = {form: choose_correction(networks, y, form).correction.error_pct for form in FORMS}
    assert errors.pop("kinds") < 1e-4
    assert min(errors.values()) > 5


@pytest.mark.parametrize("form", FORMS)
def test_form_can_be_requested(form):
    networks = networks_of(8)
    y = list(map(LAWS["affine"], networks))
    choice = choose_correction(networks, y, form)
    assert (choice.correction.form, choice.correction.networks) == (form, 8)
    for index in range(8):
        rest = [n for n in range(8) if n != index]
        without = fit_correction(form, [networks[n] for n in rest], [y[n] for n in rest])
        assert choice.held_out_corrections[index] == without
        assert choice.held_out_ms[index] == pytest.approx(applied(without, networks[index]))


@pytest.mark.parametrize("count", [4, 5])
def test_few_networks_select_the_offset(count):
    """Weights of fewer than four networks each would fit noise; an offset has no weight."""
    networks = networks_of(count)
    held_out = choose_correction(networks, list(map(LAWS["affine"], networks))).held_out_ms
    for index in range(count):
        rest = [n for n in range(count) if n != index]
        offset = fit_correction("offset", [networks[n] for n in rest], [LAWS["affine"](networks[n]) for n in rest])
        assert held_out[index] == pytest.approx(applied(offset, networks[index]))


@given(
    st.integers(4, 14),
    st.integers(0, 99),
    st.integers(0, 13),
    st.floats(0.2, 5),
    st.sampled_from([None, *FORMS]),
)
@settings(max_examples=30)
def test_held_out_prediction_ignores_its_measurement(count, seed, index, factor, form):
    """Neither the fit nor the selection of its form uses it."""
    networks, rng = networks_of(count, seed), np.random.default_rng(seed)
    y = np.array([LAWS["kinds"](parts) for parts in networks]) * rng.uniform(0.8, 1.25, count)
    before = choose_correction(networks, y, form).held_out_ms
    index %= count
    y[index] *= factor
    after = choose_correction(networks, y, form).held_out_ms
    assert after[index] == before[index]
    assert (np.delete(after, index) != np.delete(before, index)).all() or abs(factor - 1) < 1e-3


class TestOtherScope:
    """Weights from many networks with an intercept from a few of them in another scope."""

    networks, shorter = networks_of(20), [parts[:-4] for parts in networks_of(20)]

    def measured(self, law, noise=0.0, seed=0):
        rng = np.random.default_rng(seed)
        dense = [LAWS[law](parts) * (1 + noise * rng.standard_normal()) for parts in self.networks]
        core = [(LAWS[law](parts) - 0.15) * (1 + noise * rng.standard_normal()) for parts in self.shorter]
        return dense, core

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.usefixtures("free")
    def test_intercept_of_the_scope_is_recovered(self, law):
        dense, core = self.measured(law)
        which = [3, 0, 7, 11, 19]
        choice = choose_correction(self.networks, dense, law)
        found = transfer_to_scope(choice, which, [self.shorter[n] for n in which], [core[n] for n in which])
        assert found.correction.weights == choice.correction.weights
        assert found.correction.intercept_ms == pytest.approx(choice.correction.intercept_ms - 0.15, rel=1e-5)
        assert (found.correction.form, found.correction.networks) == (law, 5)
        assert found.held_out_ms == pytest.approx([core[n] for n in which], rel=1e-6)

    @given(st.integers(0, 5), st.sampled_from(["dense", "core"]), st.floats(0.2, 5), st.sampled_from([None, *FORMS]))
    @settings(max_examples=20)
    def test_held_out_prediction_ignores_both_scopes(self, index, scope, factor, form):
        dense, core = self.measured("kinds", noise=0.1)
        which = [3, 0, 7, 11, 19, 5]

        def predicted():
            choice = choose_correction(self.networks, dense, form)
            return transfer_to_scope(
                choice, which, [self.shorter[n] for n in which], [core[n] for n in which]
            ).held_out_ms

        before = predicted()
        (dense if scope == "dense" else core)[which[index]] *= factor
        assert predicted()[index] == before[index]

    def test_error_covers_its_own_networks(self):
        dense, core = self.measured("affine", noise=0.05)
        which = list(range(8))
        found = transfer_to_scope(choose_correction(self.networks, dense), which, self.shorter[:8], core[:8])
        errors = found.held_out_ms / np.array(core[:8]) - 1
        assert found.correction.error_pct == pytest.approx(np.sqrt((errors**2).mean()) * 100)

    def test_too_few_networks_are_rejected(self):
        dense, core = self.measured("affine")
        with pytest.raises(MeasurementError, match="needs at least 4 measured networks, but there are 3"):
            transfer_to_scope(choose_correction(self.networks, dense), [0, 1, 2], self.shorter[:3], core[:3])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_networks_are_rejected(count):
    networks = networks_of(4)[:count]
    with pytest.raises(MeasurementError, match=f"needs at least 4 measured networks, but there are {count}"):
        choose_correction(networks, [1.0] * count)


def test_unknown_form_lists_the_known_ones():
    for refused in (lambda: Correction("cubic"), lambda: choose_correction(networks_of(4), [1.0] * 4, "cubic")):
        with pytest.raises(UnknownNameError, match="form of calibration 'cubic'; known: affine, kinds, launches, off"):
            refused()


@pytest.mark.parametrize("weights", [(), (1.0, 2.0), (1.0,) * 4])
def test_wrong_number_of_weights_is_rejected(weights):
    with pytest.raises(MeasurementError, match=f"form kinds has 3 weights, not {len(weights)}"):
        Correction("kinds", 0.0, weights)


def test_half_width_matches_the_formula():
    """Student's t for nine degrees of freedom and 90 %, with the uncertainty of the fit."""
    found = Correction("affine", 0.0, (1.0,), error_pct=2.0, networks=10).half_width_pct()
    assert found == pytest.approx(1.8331 * 2.0 * 1.1**0.5, rel=1e-4)
    assert found == pytest.approx(student.ppf((1 + PREDICTION_LEVEL) / 2, 9) * 2.0 * 1.1**0.5)
    assert Correction(error_pct=2.0, networks=1).half_width_pct() is None
    assert Correction(networks=10).half_width_pct() is None


@pytest.mark.parametrize(("form", "count", "tries"), [("affine", 24, 60), ("kinds", 16, 60), (None, 12, 60)])
def test_prediction_intervals_cover_nine_in_ten(form, count, tries):
    """Networks deviate from the law by 3 %; each fit is tested on 20 new networks."""
    rng, held = np.random.default_rng(0), []
    law = LAWS[form or "affine"]
    for seed in range(tries):
        networks = networks_of(count, seed)
        measured = [law(parts) * (1 + 0.03 * rng.standard_normal()) for parts in networks]
        found = choose_correction(networks, measured, form).correction
        for parts in networks_of(20, 1000 + seed):
            measured = law(parts) * (1 + 0.03 * rng.standard_normal())
            held.append(abs(measured / applied(found, parts) - 1) * 100 <= found.half_width_pct())
    assert 0.85 < np.mean(held) < 0.97


def test_report_matches_the_formulas():
    """Errors are +10 %, -4 %, 0 %, -20 %; one of six pairs has the wrong order."""
    found = evaluate_predictions(
        [11.0, 19.2, 30.0, 25.6], [10.0, 20.0, 30.0, 32.0], [(10, 10), (22, 20), (30, 40), (33, 30)]
    )
    assert found.networks == 4
    assert found.mape_pct == pytest.approx((10 + 4 + 0 + 20) / 4)
    assert found.bias_pct == pytest.approx((10 - 4 + 0 - 20) / 4)
    assert found.worst_pct == pytest.approx(20)
    assert found.within_5_pct == 50
    assert found.within_10_pct == 75
    assert found.kendall_tau == pytest.approx((5 - 1) / 6)
    assert found.spearman_rho == pytest.approx(1 - 6 * 2 / (4 * 15))
    ratios = np.array([1.0, 1.1, 0.75, 1.1]) / 1.05
    assert found.split_half_mape_pct == pytest.approx(np.abs(ratios - 1).mean() * 100)
    assert found.split_half_kendall_tau == pytest.approx((5 - 1) / 6)


def test_report_keeps_the_old_keys():
    """The old keys stay until 0.3.0, and tables with only these can be read."""
    report = evaluate_predictions([1, 2, 3], [1, 2, 4], [(1, 1), (2, 2.5), (3, 3)])
    content = report.as_dict()
    assert content["ceiling_mape_pct"] == report.split_half_mape_pct > 0
    assert content["ceiling_kendall_tau"] == report.split_half_kendall_tau
    assert PredictionReport.from_dict(content) == report
    old = {key: value for key, value in content.items() if not key.startswith("split_half")}
    assert PredictionReport.from_dict(old) == report
    for damaged in ({}, {**content, "unknown": 1.0}, 3, None):
        with pytest.raises(TypeError):
            PredictionReport.from_dict(damaged)


def test_perfect_prediction():
    found = evaluate_predictions([1, 2, 3], [1, 2, 3], [(1, 1), (2, 2), (3, 3)])
    assert (found.mape_pct, found.bias_pct, found.within_5_pct, found.kendall_tau) == (0, 0, 100, 1)
    assert found.spearman_rho == pytest.approx(1)


def test_constant_predictions_have_no_rank():
    """The results are valid numbers in JSON."""
    found = evaluate_predictions([2, 2, 2, 2], [1, 2, 3, 4], [(1, 1)] * 4)
    assert (found.kendall_tau, found.spearman_rho, found.split_half_kendall_tau) == (0, 0, 0)


def test_old_reports_get_new_keys():
    old = {"ceiling_mape_pct": 1.5, "ceiling_kendall_tau": 0.9, "mape_pct": 2.0}
    new = {"split_half_mape_pct": 1.5, "split_half_kendall_tau": 0.9}
    assert add_new_names({"dense": old, "core": {**old, **new}}) == {"dense": old | new, "core": old | new}
    assert add_new_names({"dense": None}) == {}
