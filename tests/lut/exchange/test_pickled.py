"""Reading of pickles as data, without executing anything."""

import copyreg
import pickle
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError
from lgc.lut.exchange.foreign import read_foreign
from lgc.lut.exchange.pickled import MAX_BYTES, StandIn, load_pickle

OTHER_INSTRUCTIONS = [
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
    *("NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8", "EMPTY_SET", "ADDITEMS", "FROZENSET", "POP", "POP_MARK", "DUP"),
    *("INT", "LONG", "FLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "GET", "PUT", "LIST", "DICT"),
]
RECONSTRUCT, SCALAR = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n"
NDARRAY, DTYPE, ENCODE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"


def push_text(text):
    """Return the instruction that pushes a text."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def push_dtype(code):
    """Return the instructions that push a dtype."""
    return DTYPE + push_text(code) + b"\x89\x88\x87R(K\x03" + push_text("<") + b"NNNtb"


class Calls:
    """Object whose pickle contains a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestNothingIsRun:
    @pytest.mark.parametrize("protocol", range(2, 6))
    @pytest.mark.parametrize("function", ["open", "eval", "print", "getattr"])
    def test_pickle_with_a_call_is_rejected(self, tmp_path, protocol, function, capsys):
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

    def test_module_is_not_imported(self):
        assert "this" not in sys.modules
        with pytest.raises(ValueError, match=r"name 'this\.d' is not plain data"):
            load_pickle(b"\x80\x02cthis\nd\n.")
        assert "this" not in sys.modules

    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            pytest.param(NDARRAY, b"J\xff\xff\xff\x7f\x85", id="large array"),
            pytest.param(RECONSTRUCT, DTYPE + b"NN\x87", id="array of a class that is not ndarray"),
            pytest.param(DTYPE, push_text("V9") + b"\x89\x88\x87", id="other dtype"),
            pytest.param(DTYPE, b")" + b"\x85" * 9 + b"\x89\x88\x87", id="dtype by a tuple"),
            pytest.param(SCALAR, push_dtype("O8") + b"]\x86", id="scalar of an object"),
            pytest.param(SCALAR, push_dtype("O8") + b"C\0\x86", id="scalar without bytes"),
            pytest.param(SCALAR, push_dtype("f8") + b"C\x01x\x86", id="scalar with too few bytes"),
            pytest.param(SCALAR, DTYPE + b"C\x01x\x86", id="scalar of a function"),
            pytest.param(ENCODE, push_text("x" * 9) + b"N\x86", id="long bytes"),
            pytest.param(ENCODE, b"N", id="no arguments"),
            pytest.param(push_dtype("f8"), b")", id="call of a dtype"),
            pytest.param(b"}", b")", id="call of a dict"),
        ],
    )
    def test_other_calls_are_rejected(self, function, arguments):
        with pytest.raises(ValueError, match=r"call of \w+ is not plain data|invalid instructions"):
            load_pickle(function + arguments + b"R.")

    @pytest.mark.parametrize("name", OTHER_INSTRUCTIONS)
    def test_other_instructions_are_rejected(self, name):
        data = NDARRAY + b")(" + NDARRAY + b")}" + getattr(pickle, name) + b"\x01\n."
        with pytest.raises(ValueError, match=r"instruction b'.+' is not plain data"):
            load_pickle(data)

    def test_registered_extension_is_rejected(self, monkeypatch):
        """The standard unpickler returns an extension that is in the cache without `find_class`."""
        monkeypatch.setitem(copyreg._extension_cache, 200, print)
        assert pickle.loads(b"\x82\xc8.") is print
        with pytest.raises(ValueError, match="is not plain data"):
            load_pickle(b"\x82\xc8.")

    @pytest.mark.parametrize("target", [b"}", b"]", b")", b"N", b"K\x01", push_text("x")])
    @pytest.mark.parametrize("state", [b"}" + push_text("x") + b"Ns", b"N}" + push_text("x") + b"Ns\x86"])
    def test_attributes_cannot_be_set(self, target, state):
        with pytest.raises(ValueError, match="invalid instructions"):
            load_pickle(target + state + b"b.")

    def test_state_ends_with_the_load(self):
        changed = load_pickle(DTYPE + b"N}" + push_text("name") + push_text("x") + b"s\x86b.")
        assert (changed.name, changed.state) == ("dtype", (None, {"name": "x"}))
        assert load_pickle(DTYPE + b".").state == ()
        assert load_pickle(pickle.dumps(np.float64(1.5))) == 1.5

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
            with pytest.raises(
                FileFormatError, match=r"cannot read table of FasterSeg \(.npy\) or once-for-all \(YAML, JSON\) "
            ):
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
    found = load_pickle(pickle.dumps(np.array([1, "a", None], dtype=object)))
    assert (found.name, found.state[-1]) == ("array", [1, "a", None])


def test_array_within_an_array(npy):
    path = npy({"ff_H1_W2_C3": np.array([np.array(1.0, dtype=object), None], dtype=object)})
    with pytest.raises(FileFormatError, match="holds StandIn instead of a latency"):
        read_foreign(path)


class TestResources:
    """A small file takes little memory and time."""

    @pytest.fixture(autouse=True)
    def little_memory(self):
        tracemalloc.start()
        yield
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * 2**20

    def test_large_memo_index(self):
        """The unpickler in C allocates 64 GiB."""
        assert load_pickle(b"]r\xff\xff\xff\xff.") == []

    @pytest.mark.parametrize(
        "head", [b"\x8e%Q", b"\x8d%Q", b"\x95%Q", b"B%I", b"X%I", b"\x8b%I"], ids=lambda head: repr(head[:1])
    )
    def test_large_declared_length(self, head):
        length = struct.pack("<Q", 2**62) if head.endswith(b"Q") else struct.pack("<I", 2**31 - 1)
        with pytest.raises(ValueError, match="invalid instructions"):
            load_pickle(head[:1] + length + b"]")

    def test_doubled_tuples(self):
        doubled = b")" + b"q\x00h\x00\x86" * 100
        assert len(load_pickle(doubled + b".")) == 2
        with pytest.raises(ValueError, match="tuple instead of str"):
            load_pickle(b"}" + doubled + b"Ns.")
        with pytest.raises(ValueError, match="call of tuple is not plain data"):  # Python's message has all of it
            load_pickle(doubled + b"K\x01R.")

    def test_deep_tuples(self):
        """Hashing them overflows the stack."""
        deep = b")" + b"\x85" * 2**18
        assert len(load_pickle(deep + b".")) == 1
        for data in (b"}" + deep + b"Ns.", b"}(" + deep + b"Nu."):
            with pytest.raises(ValueError, match="tuple instead of str"):
                load_pickle(data)

    def test_deep_arrays(self):
        start, end = RECONSTRUCT + NDARRAY + b")N\x87R(K\x01)" + push_dtype("O8") + b"\x89]", b"atb"
        content = load_pickle(start * 1000 + b"N" + end * 1000 + b".")
        for _ in range(1000):
            (content,) = content.state[-1]
        assert content is None

    def test_repeated_call_with_long_text(self):
        call = ENCODE + b"q\x00" + push_text("x" * 2**20) + b"N\x86q\x01" + b"h\x00h\x01R" * 2**12
        with pytest.raises(ValueError, match="call of encode is not plain data"):
            load_pickle(call + b".")

    def test_large_file(self):
        with pytest.raises(ValueError, match="too many for a table"):
            load_pickle(bytes(MAX_BYTES + 1))


FRAGMENTS = [
    *(b")", b"]", b"}", b"(", b"N", b"K\x03", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R", b"b"),
    *(b"q\x00", b"h\x00", b"\x94", b"C\x08" + bytes(8), push_text("a"), push_text("f8"), push_dtype("f8")),
    *(NDARRAY, DTYPE, SCALAR, RECONSTRUCT, ENCODE),
]


@given(st.lists(st.sampled_from(FRAGMENTS)))
def test_any_program_is_data_or_rejected(fragments):
    try:
        content = load_pickle(b"".join(fragments) + b".")
    except ValueError:
        return
    assert isinstance(content, StandIn | dict | list | tuple | bytes | str | float | int | None)
