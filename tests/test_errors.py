import inspect

import pytest

from lgc import errors


def test_errors_have_exit_codes_and_docstrings():
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)]
    assert len(classes) > 5
    for error in classes:
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
def test_unknown_names_get_a_suggestion(name, message):
    assert str(errors.UnknownNameError("backend", name, {"torch": 1, "onnxruntime": 2})) == message
