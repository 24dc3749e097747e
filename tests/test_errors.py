import inspect

import pytest

from lgc import errors


def test_every_error_is_an_lgc_error_that_leaves_with_1_or_2():
    found = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)]
    assert len(found) > 5
    for error in found:
        assert issubclass(error, errors.LgcError)
        assert error.exit_code in (1, 2)
        assert error.__doc__


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onxruntime", "unknown backend 'onxruntime' (did you mean 'onnxruntime'?); known: onnxruntime, torch"),
        ("abc", "unknown backend 'abc'; known: onnxruntime, torch"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_and_guesses(name, message):
    assert str(errors.UnknownNameError("backend", name, {"torch": 1, "onnxruntime": 2})) == message
