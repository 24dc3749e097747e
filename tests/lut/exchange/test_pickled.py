"""Reading of pickles as data, without executing anything."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError
from lgc.lut.exchange.foreign import read_foreign
from lgc.lut.exchange.pickled import ObjectArray, load_pickle


class Calls:
    """Object whose pickle contains a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestNothingIsRun:
    @pytest.mark.parametrize("protocol", range(2, 6))
    @pytest.mark.parametrize("function", ["open", "eval", "print", "getattr"])
    def test_pickle_with_a_call_is_rejected(self, npy, tmp_path, protocol, function, capsys):
        witness = tmp_path / "witness"
        call = Calls(__builtins__[function], str(witness), "w")
        for content in (call, {"a": call}, [call], {"a": 1.0, "b": [(call,)]}):
            with pytest.raises(ValueError, match="is not plain data"):
                load_pickle(pickle.dumps(content, protocol=protocol))
        assert not witness.exists()
        assert capsys.readouterr().out == ""

    def test_npy_with_a_call_is_rejected(self, npy, tmp_path):
        witness = tmp_path / "witness"
        path = npy({"ff_H1_W2_C3": Calls(open, str(witness), "w")})
        assert not witness.exists()
        with pytest.raises(FileFormatError, match=r"cannot read FasterSeg table .*table\.npy: name '\w+\.open'"):
            read_foreign(path)
        assert not witness.exists()

    def test_allowed_name_cannot_be_called(self):
        """numpy.save names ndarray, but never calls it."""
        with pytest.raises(ValueError, match="call of ndarray is not plain data"):
            load_pickle(pickle.dumps(Calls(np.ndarray, (10**12,))))

    def test_yaml_tags_and_aliases_are_rejected(self, text, tmp_path):
        witness = tmp_path / "witness"
        bomb = "a: &a [x, x]\n" + "".join(
            f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
        )
        for content in (
            f"Conv-input:1x1x1-output:1x1x1: !!python/object/apply:os.mknod [{witness}]",
            "Conv-input:1x1x1-output:1x1x1: {mean: !!float 1.0}",
            bomb,
            "[" * 100_000,
            "{a: " * 50_000,
        ):
            with pytest.raises(FileFormatError, match="cannot read once-for-all table"):
                read_foreign(text(content))
        assert not witness.exists()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x) | st.tuples(x, x),
    )
)
def test_plain_data_matches_pickle(content):
    for protocol in range(3, 6):
        assert load_pickle(pickle.dumps(content, protocol=protocol)) == content


def test_shared_and_recursive_data():
    shared = ["x"]
    assert load_pickle(pickle.dumps([shared, shared])) == [["x"], ["x"]]
    shared.append(shared)
    found = load_pickle(pickle.dumps(shared))
    assert found[1] is found


def test_object_array():
    assert load_pickle(pickle.dumps(np.array([1, "a", None], dtype=object))) == ObjectArray([1, "a", None])
