"""Interpolation under known laws."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lgc.errors import MeasurementError, MissingEntryError, UnknownNameError, UsageError
from lgc.lut.statistics.interpolation import MIN_GROUP_POINTS, Estimate, Interpolator
from lgc.models import OpSpec

SIZES = [(24, 32), (36, 48), (48, 64), (72, 96), (96, 128)]
CHANNELS = [(16, 16), (16, 48), (48, 16), (32, 32), (48, 48)]


def spec(size=(54, 72), channels=(16, 16), operator="conv_3x3", stride=1, batch=1):
    return OpSpec(operator, *channels, *size, stride, batch)


GRID = [spec(size, channels) for size in SIZES for channels in CHANNELS]
LINE = [spec(size) for size in SIZES]


def law(one, overhead=0.002, pixel=1e-7, read=2e-8, write=4e-8, mac=1e-9):
    """Return the latency of an operator on an ideal device, in ms."""
    pixels = one.height * one.width
    return overhead + pixels * (pixel + read * one.c_in + write * one.c_out + mac * one.c_in * one.c_out)


def by_law(specs, **weights):
    return {one: law(one, **weights) for one in specs}


positive = st.floats(1e-3, 1e3)
latencies_of_line = st.lists(positive, min_size=len(LINE), max_size=len(LINE))
inner_sizes = st.tuples(st.integers(24, 96), st.just(0)).map(lambda size: (size[0], size[0] * 4 // 3))


@pytest.mark.parametrize("overhead", [0.0, 0.002, 0.1])
@pytest.mark.parametrize("specs", [LINE, LINE[::2]], ids=["five points", "three points"])
def test_few_resolutions_give_overhead_and_slope(specs, overhead):
    interpolate = Interpolator(by_law(specs, overhead=overhead))
    for size in [(30, 40), (54, 72), (90, 120)]:
        estimate = interpolate(spec(size))
        assert estimate.latency_ms == pytest.approx(law(spec(size), overhead=overhead), rel=1e-6)
        assert estimate.error_pct == pytest.approx(0, abs=1e-4)


@given(weights=st.lists(st.floats(0.1, 10), min_size=5, max_size=5))
@settings(max_examples=20)
def test_law_of_a_grid_covers_other_channels(weights):
    names = ("overhead", "pixel", "read", "write", "mac")
    scaled = dict(zip(names, np.array(weights) * (2e-3, 1e-7, 2e-8, 4e-8, 1e-9), strict=True))
    interpolate = Interpolator(by_law(GRID, **scaled))
    for wanted in (spec((54, 72)), spec((54, 72), (24, 40)), spec((30, 40), (40, 24))):
        estimate = interpolate(wanted)
        assert estimate.latency_ms == pytest.approx(law(wanted, **scaled), rel=1e-4)
        assert estimate.error_pct < 0.1


def test_fast_channels_stay_fast_at_other_resolutions():
    factor = {(16, 16): 1.0, (16, 48): 0.8, (48, 16): 1.3, (32, 32): 2.5, (48, 48): 0.6}
    interpolate = Interpolator({one: law(one) * factor[one.c_in, one.c_out] for one in GRID})
    for channels in CHANNELS:
        wanted = spec((60, 80), channels)
        assert interpolate(wanted).latency_ms == pytest.approx(law(wanted) * factor[channels], rel=0.05)


def test_unmeasured_channels_get_their_own_error():
    factor = {(16, 16): 1.0, (16, 48): 0.8, (48, 16): 1.3, (32, 32): 2.5, (48, 48): 0.6}
    interpolate = Interpolator({one: law(one) * factor[one.c_in, one.c_out] for one in GRID})
    seen, unseen = interpolate(spec()), interpolate(spec(channels=(24, 24)))
    assert seen.error_pct < 5 < 20 < unseen.error_pct


@given(st.lists(st.floats(-0.1, 0.1), min_size=len(GRID), max_size=len(GRID)))
@settings(max_examples=20)
def test_error_matches_the_scatter(scatter):
    interpolate = Interpolator({one: law(one) * (1 + by) for one, by in zip(GRID, scatter, strict=True)})
    assert interpolate(spec()).error_pct < 25


@given(values=latencies_of_line, size=inner_sizes)
def test_estimates_are_positive_and_near_points(values, size):
    latency = Interpolator(dict(zip(LINE, values, strict=True)))(spec(size)).latency_ms
    assert min(values) / 10 < latency < max(values) * 10


@given(values=latencies_of_line)
def test_measured_latencies_are_reproduced(values):
    interpolate = Interpolator(dict(zip(LINE, values, strict=True)))
    assert [interpolate(one).latency_ms for one in LINE] == pytest.approx(values, rel=1e-6)


@given(values=latencies_of_line, noise=latencies_of_line, size=inner_sizes, scale=positive)
@settings(max_examples=20)
def test_estimates_scale_with_the_unit(values, noise, size, scale):
    values, noise = np.array(values), np.array(noise) / 100
    one, other = (
        Interpolator(dict(zip(LINE, values * unit, strict=True)), dict(zip(LINE, noise * unit, strict=True)))(
            spec(size)
        )
        for unit in (1, scale)
    )
    assert other.latency_ms == pytest.approx(one.latency_ms * scale, rel=1e-6)
    assert other.error_pct == pytest.approx(one.error_pct, rel=1e-5, abs=1e-5)


@given(value=positive, size=inner_sizes, noise=st.floats(0, 1))
@settings(max_examples=20)
def test_constant_latency_is_reproduced(value, size, noise):
    constant = dict.fromkeys(GRID, value)
    estimate = Interpolator(constant, dict.fromkeys(GRID, noise))(spec(size, (24, 40)))
    assert estimate.latency_ms == pytest.approx(value, rel=1e-6)
    assert estimate.error_pct == pytest.approx(0, abs=1e-4)


@given(wrong=st.floats(0.05, 20), at=st.sampled_from(LINE))
def test_noisy_points_have_little_weight(wrong, at):
    assume(abs(np.log(wrong)) > 0.1)
    measured = by_law(LINE) | {at: law(at) * wrong}
    noisy = Interpolator(measured, {at: 20 * measured[at]})(spec())
    assert noisy.latency_ms == pytest.approx(law(spec()), rel=0.1)
    assert noisy.error_pct < 10


def test_whole_resolutions_are_held_out():
    """Estimates ignore all points of their resolution; the outermost resolutions have none."""
    shared = (48, 64)
    one, other = by_law(GRID), {s: law(s) * (5 if s.fine == shared else 1) for s in GRID}
    rows, changed = (Interpolator(each).leave_one_resolution_out() for each in (one, other))
    assert {s for s, _, _ in rows} == {s for s in GRID if s.fine not in (SIZES[0], SIZES[-1])}
    for measured_spec, measured_ms, estimated_ms in rows:
        assert measured_ms == law(measured_spec)
        assert estimated_ms == pytest.approx(measured_ms, rel=1e-4)
    estimates, others = ({s: e for s, _, e in each if s.fine == shared} for each in (rows, changed))
    assert estimates == others
    assert len(estimates) == len(CHANNELS)


def test_few_points_allow_no_held_out_estimate():
    assert Interpolator(by_law(LINE[:MIN_GROUP_POINTS])).leave_one_resolution_out() == []
    assert len(Interpolator(by_law(LINE[: MIN_GROUP_POINTS + 1])).leave_one_resolution_out()) == MIN_GROUP_POINTS - 1


def test_groups_are_independent():
    kinds = [("max_pool_3x3", 1, 1), ("conv_3x3", 2, 1), ("conv_3x3", 1, 4)]
    odd = [spec(size, (16, 16), *kind) for size in SIZES for kind in kinds]
    alone, among = Interpolator(by_law(LINE)), Interpolator(by_law(LINE) | dict.fromkeys(odd, 7.0))
    assert alone(spec()) == among(spec())
    assert among(odd[0]).latency_ms == pytest.approx(7.0)


def test_free_operators_need_no_measurement():
    assert Interpolator({})(spec(operator="skip")) == Estimate(0.0, 0.0)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (spec(stride=2), "no conv_3x3 with stride 2 and batch 1 was measured, only with stride 1 and batch 1"),
        (spec(batch=8), "no conv_3x3 with stride 1 and batch 8 was measured, only with"),
        (spec(operator="add"), "no add with stride 1 and batch 1 was measured, nor with any other stride"),
        (spec((12, 16)), "outside the measured .*, 5 from 24x32 to 96x128, channels 16-16"),
        (spec((192, 256)), "no estimate of conv_3x3/c16-16/192x256/s1/b1: it is outside"),
        (spec(channels=(16, 24)), "outside the measured conv_3x3 with stride 1 and batch 1"),
        (spec(channels=(17, 17)), "outside the measured .* channels 16-16"),
        (spec((36, 96)), "outside the measured"),
    ],
    ids=str,
)
def test_unmeasured_range_has_no_estimate(wanted, why):
    with pytest.raises(MissingEntryError, match=why):
        Interpolator(by_law(LINE))(wanted)


def test_channel_range_depends_on_the_resolution():
    """Few channels were measured on large planes and many on small ones: many on large ones are outside."""
    diagonal = [spec(size, (c, c)) for size, c in zip(reversed(SIZES), (8, 16, 24, 32, 48), strict=True)]
    interpolate = Interpolator(by_law(diagonal))
    assert interpolate(diagonal[2]).latency_ms == pytest.approx(law(diagonal[2]))
    for outside in (spec((96, 128), (48, 48)), spec((24, 32), (8, 8))):
        with pytest.raises(MissingEntryError, match="channels 8-8, 16-16, 24-24, 32-32, 48-48"):
            interpolate(outside)


def test_small_extrapolation_is_allowed():
    interpolate = Interpolator(by_law(GRID))
    for wanted in (spec((23, 31)), spec((98, 131), (32, 32)), spec(channels=(15, 15)), spec((54, 76))):
        assert interpolate(wanted).latency_ms == pytest.approx(law(wanted), rel=0.01)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_points_are_rejected(count):
    with pytest.raises(MissingEntryError, match=f"it needs 3 measured conv_3x3 .*, but there are {count} from 24x32"):
        Interpolator(by_law(LINE[:count]))(spec((24, 32)))


@pytest.mark.parametrize("latency", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_latencies_are_rejected(latency):
    with pytest.raises(MeasurementError, match=r"invalid latency of conv_3x3/c16-16/54x72/s1/b1"):
        Interpolator({spec(): latency})


@pytest.mark.parametrize("ci", [-0.1, float("nan"), float("inf")])
def test_invalid_intervals_are_rejected(ci):
    with pytest.raises(MeasurementError, match="invalid latency"):
        Interpolator({spec(): 1.0}, {spec(): ci})


def test_invalid_specs_are_rejected():
    with pytest.raises(UnknownNameError, match="unknown operator 'conv_9x9'"):
        Interpolator({})(spec(operator="conv_9x9"))
    with pytest.raises(UsageError, match="max_pool_3x3 needs c_in equal to c_out"):
        Interpolator({})(spec(operator="max_pool_3x3", channels=(4, 8)))
