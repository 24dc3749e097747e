import pytest

from lgc.errors import MeasurementError
from lgc.profiler.backends import Workload
from lgc.profiler.timing.observer import MeasurementObserver, RoundProgress


@pytest.mark.parametrize("reason", ["out of memory", "add/8x8: out of memory"])
def test_default_rejection_names_workload_once(reason):
    with pytest.raises(MeasurementError) as raised:
        MeasurementObserver().on_failure("b", Workload("add/8x8", (), None), reason)
    assert str(raised.value) == "add/8x8: out of memory"


def test_progress_reaches_the_callback():
    reported, progress = [], RoundProgress("measuring", 0.5, 2.0)
    MeasurementObserver(reported.append).on_progress(progress)
    assert reported == [progress]
