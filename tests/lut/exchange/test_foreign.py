"""Reading of other projects' tables and mapping of rows to OpSpecs."""

import io
import json
import pickle

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lgc.errors import FileFormatError, UsageError
from lgc.lut.exchange.foreign import read_foreign


class TestFasterSeg:
    def test_rows_map_to_specs(self, fasterseg):
        found = read_foreign(fasterseg.path)
        assert found.project == "FasterSeg"
        assert {row.name: row.latency_ms for row in found.rows} == fasterseg.rows
        assert {str(row.spec): row.latency_ms for row in found.rows if row.spec} == fasterseg.equal
        assert all((row.spec is None) == bool(row.why) for row in found.rows)
        assert {row.ci_ms for row in found.rows} == {None}
        assert found.rows[0].fields == {
            "kind": "BasicResidual1x",
            "H": 128,
            "W": 256,
            "Cin": 64,
            "Cout": 96,
            "stride": 1,
            "dilation": 1,
        }

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    @pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
    def test_files_of_older_numpy(self, npy, tmp_path, protocol, module, fasterseg):
        """Read every pickle protocol, NumPy's scalars, and the module names before NumPy 2."""
        path = npy({})
        header = path.read_bytes()[:128]
        content = {name: np.float64(value) for name, value in fasterseg.rows.items()}
        data = pickle.dumps(np.array(content, dtype=object), protocol=protocol)
        here, there = np._core.multiarray.__name__.encode(), module.encode()
        if protocol < 4:
            data = data.replace(here, there)
        else:
            data = data.replace(bytes([len(here)]) + here, bytes([len(there)]) + there)
        data = pickle_without_frames(data)
        path.write_bytes(header + data)
        assert {row.name: row.latency_ms for row in read_foreign(path).rows} == fasterseg.rows

    @pytest.mark.parametrize("number", [np.float32(0.25), np.float16(0.25), np.dtype(">f8").type(0.25), 1, np.int64(1)])
    def test_numbers_of_other_kinds(self, npy, number):
        (row,) = read_foreign(npy({"ff_H1_W2_C3": number})).rows
        assert (row.latency_ms, row.fields) == (float(number), {"kind": "ff", "H": 1, "W": 2, "C": 3})

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (float("nan"), "nan"),
            (float("inf"), "inf"),
            (0, "0"),
            (-0.5, "-0.5"),
            (True, "True"),
            (None, "None"),
            ("fast", "'fast'"),
            ([1.0], "list"),
            pytest.param(10**5000, "int", id="huge"),
        ],
    )
    def test_row_without_latency_is_rejected(self, npy, value, shown):
        path = npy({"ff_H1_W2_C3": 1.0, "head_H1_W2_Cin3_Cout4": value})
        with pytest.raises(FileFormatError) as caught:
            read_foreign(path)
        assert str(caught.value) == (f"{path}: row 'head_H1_W2_Cin3_Cout4' holds {shown} instead of a latency")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (np.zeros((2, 3)), "it is another NumPy array, with header \"{'descr': '<f8'"),
            (np.array([{}, {}], dtype=object), "it is another NumPy array, with header \"{'descr': '|O'"),
            (np.array([1.0, 2.0], dtype=object), "it is another NumPy array"),
            (np.array({1: 2.0}, dtype=object), "int instead of str"),
            (np.array({"\ud800": 2.0}, dtype=object), "surrogates not allowed"),
            (np.array("text", dtype=object), "it has no dict of latencies"),
            (np.array({}, dtype=object), "without rows"),
            (np.array({"a": {1.0}}, dtype=object), r"instruction b'\x8f' is not plain data"),
        ],
    )
    def test_other_arrays_are_rejected(self, npy, content, reason):
        with pytest.raises(FileFormatError) as caught:
            read_foreign(npy(content))
        assert reason in str(caught.value)

    def test_truncated_file_is_rejected(self, fasterseg):
        path = fasterseg.path
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(FileFormatError):
                read_foreign(path)


def pickle_without_frames(data):
    """Return the pickle without FRAME instructions, whose lengths a changed name invalidates."""
    if data[2:3] != b"\x95":
        return data
    return data[:2] + data[11:]


ROW = "Conv-input:8x8x3-output:4x4x32"


class TestOnceForAll:
    def test_rows(self, once_for_all):
        found = read_foreign(once_for_all)
        assert found.project == "once-for-all"
        conv, block, logits, pool = found.rows
        assert [row.latency_ms for row in found.rows] == [3.25, 5.264772727272727, 0.5, 0.125]
        assert conv.ci_ms == pytest.approx(1.96 * 0.2 / 10)
        assert logits.ci_ms == pytest.approx(1.96 * 0.25 / 4)
        assert pool.ci_ms is None
        assert block.fields == {
            "kind": "expanded_conv",
            "input_H": 7,
            "input_W": 7,
            "input_C": 192,
            "output_H": 7,
            "output_W": 7,
            "output_C": 320,
            "expand": 6,
            "kernel": 5,
            "stride": 1,
            "idskip": 0,
        }
        assert logits.fields == {"kind": "Logits", "input_H": 7, "input_W": 7, "input_C": 1280, "output_C": 1000}
        assert {row.spec for row in found.rows} == {None}

    def test_json_equals_yaml(self, text, once_for_all):
        content = yaml.safe_load(once_for_all.read_text())
        content["Conv-input:224x224x3-output:112x112x32"]["mean"] = 1e-05  # PyYAML reads 1e-05 as text
        found = read_foreign(text(json.dumps(content, indent=1), "160_lookup_table.json"))
        assert [row.latency_ms for row in found.rows] == [1e-05, 5.264772727272727, 0.5, 0.125]

    @pytest.mark.parametrize("mean", [".nan", "0", "-1.5", "fast", "[1.0]", "", "'1.5'", "true", ".inf", "1.0e+400"])
    def test_row_without_latency_is_rejected(self, text, mean, once_for_all):
        path = text(f"{once_for_all.read_text()}Conv-input:1x1x1-output:1x1x1: {{mean: {mean}}}\n")
        with pytest.raises(FileFormatError, match=r"row 'Conv-input:1x1x1-output:1x1x1' holds .* instead of a latency"):
            read_foreign(path)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("a: 1", "its key 'a' does not have the form Conv-input"),
            ("- a\n- b", "it is text that begins with '- a'"),
            ("just text", "it is text that begins with 'just text'"),
            ("a: [", "not readable as YAML or JSON"),
            ('{"a": ', "not readable as YAML or JSON"),
            ("1: {mean: 1.0}", "it is text that begins with"),
            ("Conv-input:1x1x1-output:1x1x1: 3.0", "'Conv-input:1x1x1-output:1x1x1' has no mean"),
            ("Conv-input:1x1x1-output:1x1x1: {count: 3}", "has no mean"),
            ("Conv-input:1x1x1-output:1xx: {mean: 3}", "does not have the form"),
            pytest.param(f'{{"Conv-input:{"9" * 6000}-output:1": {{}}}}', "does not have the form", id="huge"),
            ("{}", "without rows"),
            (f"{ROW}: {{mean: 1.0}}\n{ROW}: {{mean: 2.0}}", "line 2: duplicate key"),
            (f"{ROW}: {{mean: 1.0, mean: 2.0}}", "line 1: duplicate key 'mean'"),
            (f"{ROW}: {{mean: 010}}", "line 1: 010 is an octal number"),
            (f"{ROW}: {{mean: 1:30}}", "line 1: 1:30 is a number in base 60"),
            (f'{{"{ROW}": {{"mean": 1.0}}, "{ROW}": {{"mean": 2.0}}}}', f"duplicate key '{ROW}'"),
        ],
    )
    def test_other_texts_are_rejected(self, text, content, reason):
        with pytest.raises(FileFormatError) as caught:
            read_foreign(text(content))
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "rest", ["count: 1, std: 1", "count: 4, std: -1", "count: x, std: 1", "count: 4, std: .nan"]
    )
    def test_invalid_spread_is_ignored(self, text, rest):
        (row,) = read_foreign(text(f"Conv-input:1x1x1-output:1x1x1: {{mean: 2.0, {rest}}}")).rows
        assert row.ci_ms is None


def test_foreign_files_are_rejected(foreign_files):
    for noun, path in foreign_files.items():
        with pytest.raises(FileFormatError) as caught:
            read_foreign(path)
        assert str(path) in str(caught.value)
        assert noun in str(caught.value)


HEADER = b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"


class TestFuzz:
    """Any bytes are read as a table or raise FileFormatError."""

    def read(self, path):
        try:
            return read_foreign(path)
        except FileFormatError:
            return None

    @given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY", HEADER, HEADER + b"\x80\x04"]))
    def test_bytes(self, tmp_path, content, start):
        path = tmp_path / "t.npy"
        path.write_bytes(start + content)
        self.read(path)

    @given(st.integers(0, 10**6), st.integers(0, 255))
    def test_changed_byte(self, fasterseg, tmp_path, position, value):
        path = tmp_path / "t.npy"
        buffer = io.BytesIO()
        np.save(buffer, fasterseg.rows)
        content = bytearray(buffer.getvalue())
        content[position % len(content)] = value
        path.write_bytes(content)
        self.read(path)

    @given(st.text(max_size=200), st.booleans())
    def test_text(self, once_for_all, tmp_path, content, row):
        path = tmp_path / "t.yaml"
        path.write_text(f"{once_for_all.read_text()}{content}" if row else content, "utf-8", errors="replace")
        self.read(path)

    @given(
        st.dictionaries(
            st.from_regex(r"Conv-input:\d{1,3}x\d-output:\d(-[a-z]+:\d)?", fullmatch=True),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
                lambda x: (
                    st.lists(x, max_size=3)
                    | st.dictionaries(st.sampled_from(["mean", "var", "std", "count"]), x, max_size=4)
                ),
                max_leaves=8,
            ),
            max_size=3,
        )
    )
    def test_mappings(self, tmp_path, content):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(content))
        found = self.read(path)
        assert found is None or all(0 < row.latency_ms < 1e9 for row in found.rows)


class TestUnits:
    def write(self, tmp_path, mean, **entries):
        path = tmp_path / "t.json"
        path.write_text(json.dumps({ROW: {"mean": mean, "count": 4, "std": mean}} | entries))
        return path

    @pytest.mark.parametrize(("unit", "mean"), [("s", 1.35e-3), ("ms", 1.35), ("us", 1350.0), ("ns", 1.35e6)])
    def test_named_unit_is_converted(self, tmp_path, unit, mean):
        by_option = read_foreign(self.write(tmp_path, mean), unit)
        by_file = read_foreign(self.write(tmp_path, mean, unit=unit))
        for table in (by_option, by_file):
            assert (table.unit, table.is_assumed) == (unit, False)
            (row,) = table.rows
            assert (row.latency_ms, row.ci_ms) == (pytest.approx(1.35), pytest.approx(1.35 * 1.96 / 2, rel=1e-3))

    def test_numpy_table_may_name_its_unit(self, npy):
        table = read_foreign(npy({"ff_H1_W2_C3": 250.0, "unit": "microseconds"}))
        assert (table.unit, [row.latency_ms for row in table.rows]) == ("us", [0.25])

    @pytest.mark.parametrize("mean", [1350.0, 30.0, 0.01, 0.0013])
    def test_implausible_milliseconds_are_not_assumed(self, tmp_path, mean):
        path = self.write(tmp_path, mean)
        with pytest.raises(UsageError, match=f"median, {mean:g}, need not be milliseconds: add --unit"):
            read_foreign(path)
        assert read_foreign(path, "ms").rows[0].latency_ms == mean

    def test_plausible_milliseconds_are_assumed(self, tmp_path):
        assert read_foreign(self.write(tmp_path, 1.35)).is_assumed

    def test_contradicting_and_unknown_units_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match=r"--unit us: .* its unit is s"):
            read_foreign(self.write(tmp_path, 1.35, unit="s"), "us")
        with pytest.raises(FileFormatError, match="unknown unit 'min'; known: s, ms, us, ns"):
            read_foreign(self.write(tmp_path, 1.35, unit="min"))
