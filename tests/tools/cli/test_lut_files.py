"""`lgc-lut merge`, `export`, `import` and `upgrade` from the command line."""

import json
import shutil
import sqlite3

import numpy as np
import pytest

from lgc.lut import LatencyTable, Target
from lgc.models import SearchSpace

OFA = (
    "expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0: {count: 9, mean: 5.5, var: 1.0}\n"
)


def read_rows(npy):
    return np.load(npy, allow_pickle=True).item()


class TestMerge:
    def test_prints_json(self, call, two, tmp_path):
        a, b, _ = two
        done = call("lgc-lut", "merge", a, b, "--out", tmp_path / "c.lut", "--json")
        assert (done.code, done.err) == (0, "")
        result = json.loads(done.out)
        with LatencyTable.open(a) as table:
            count = len(table.entries())
        assert (result["lut"], result["from"]) == (str(tmp_path / "c.lut"), [str(a), str(b)])
        assert (result["entries"], result["missing"], result["sessions"]) == (count, 0, 2)
        assert result["verification"] is None

    def test_prints_lines(self, call, mini_lut, tmp_path):
        other = shutil.copy(mini_lut, tmp_path / "copy.lut")
        done = call("lgc-lut", "merge", mini_lut, other, "--out", tmp_path / "c.lut")
        assert done.code == 0
        assert "entries from 2 tables, measured in 1 session\n" in done.out
        assert "mean absolute error" in done.out

    def test_other_input_sizes_give_a_warning(self, call, make_table, mini_space, tmp_path):
        a, b = make_table(mini_space, "a.lut"), make_table(mini_space.with_input(56, 40), "b.lut")
        done = call("lgc-lut", "merge", a.path, b.path, "--out", tmp_path / "c.lut", "--json")
        assert done.code == 0
        assert f"warning: {b.path} has another input size" in done.err
        assert f"warning: {b.path} has no benchmark in common" in done.err
        result = json.loads(done.out)
        assert result["other_inputs"] == result["untied"] == [str(b.path)]
        assert result["entries"] == len({entry.key for table in (a, b) for entry in table.entries()})

    def test_repeated_table_gives_a_warning(self, call, two, tmp_path):
        a, b, _ = two
        done = call("lgc-lut", "merge", a, b, tmp_path / "." / "a.lut", "--out", tmp_path / "c.lut")
        assert done.code == 0
        assert f"warning: {a} is given 2 times; its sample batches are merged once" in done.err

    def test_rejects_bad_input(self, call, two, make_table, mini_space, tmp_path):
        a, b, _ = two
        out = tmp_path / "c.lut"
        assert f"{a} already exists" in call("lgc-lut", "merge", a, b, "--out", a).refusal("lgc-lut")
        assert "cannot merge 1 table" in call("lgc-lut", "merge", a, "--out", out).refusal("lgc-lut")
        assert "Missing option '--out'" in call("lgc-lut", "merge", a, b).refusal("lgc-lut")
        other = make_table(mini_space, "o.lut", target=Target("cpu", "torch"))
        line = call("lgc-lut", "merge", a, other.path, "--out", out).refusal("lgc-lut")
        assert "backend onnxruntime, not torch" in line
        assert not out.exists()


class TestExport:
    def test_csv(self, call, mini_lut, tmp_path):
        done = call("lgc-lut", "export", mini_lut, "--out", tmp_path / "t.csv", "--json")
        assert (done.code, done.err) == (0, "")
        with LatencyTable.open(mini_lut) as table:
            count = len(table.entries())
        assert json.loads(done.out) == {"lut": str(mini_lut), "out": str(tmp_path / "t.csv"), "rows": count}
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert lines[0].startswith("key,operator,c_in,c_out,height,width,stride,batch,status,")
        assert {"latency_ms", "ci_ms", "share_pct"} <= set(lines[0].split(","))
        assert len(lines) == 1 + count

    def test_rejects_bad_input(self, call, mini_lut, tmp_path):
        for name in ("t", "t.xlsx", "t.lut"):
            line = call("lgc-lut", "export", mini_lut, "--out", tmp_path / name).refusal("lgc-lut")
            assert "choose a file that ends in .csv or .parquet" in line
        assert "Missing option '--out'" in call("lgc-lut", "export", mini_lut).refusal("lgc-lut")


class TestImport:
    def test_to_a_table(self, call, npy, tmp_path):
        arguments = ("--space", "tiny", "--device", "cuda:0", "--backend", "tensorrt", "--precision", "fp16")
        done = call("lgc-lut", "import", npy, *arguments, "--out", tmp_path / "t.lut", "--json")
        assert done.code == 0
        assert "t.lut is in space tiny, so it predicts no network" in done.err
        result = json.loads(done.out)
        assert (result["project"], result["rows"], result["imported"], result["in_space"]) == ("FasterSeg", 4, 2, 0)
        assert set(result["left"]) == set(list(read_rows(npy))[2:])
        with LatencyTable.open(tmp_path / "t.lut") as table:
            assert table.target == Target("cuda:0", "tensorrt", "fp16")
        shown = call("lgc-lut", "show", tmp_path / "t.lut", "--status", "measured").out
        assert "imported from table.npy: ConvNorm_H1024" in shown

    def test_prints_lines(self, call, npy, tmp_path):
        arguments = ("--space", "tiny", "--device", "cpu", "--backend", "torch")
        done = call("lgc-lut", "import", npy, *arguments, "--out", tmp_path / "t.lut")
        assert "2 operators from 4 rows of FasterSeg" in done.out
        assert "skipped: 1 row of ff (an attention module)" in done.out

    def test_entries_of_the_space_exit_with_0(self, call, npy, tmp_path):
        spec = next(spec for spec in SearchSpace.load("tiny").specs() if spec.operator == "conv_3x3")
        size = f"H{spec.height}_W{spec.width}_Cin{spec.c_in}_Cout{spec.c_out}"
        np.save(npy, {f"ConvNorm_{size}_kernel3_stride{spec.stride}": 1.0})
        arguments = ("--space", "tiny", "--device", "cpu", "--backend", "torch", "--out", tmp_path / "t.lut")
        done = call("lgc-lut", "import", npy, *arguments)
        assert done.code == 0
        assert done.err.startswith("unit: milliseconds assumed")
        assert "1 of them are in the space" in done.out

    def test_to_columns(self, call, npy, tmp_path):
        for source, project, rows in ((npy, "FasterSeg", "4 rows"), (tmp_path / "o.yaml", "once-for-all", "1 row")):
            (tmp_path / "o.yaml").write_text(OFA)
            done = call("lgc-lut", "import", source, "--unit", "ms", "--out", tmp_path / "t.csv")
            assert done.out == f"{tmp_path / 't.csv'}: {rows} of {project}\n"
            assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + int(rows.split()[0])

    def test_rejects_bad_input(self, call, npy, tmp_path, foreign_files):
        out = tmp_path / "t.lut"
        arguments = ("--space", "tiny", "--device", "cpu", "--backend", "torch", "--out", out)
        (tmp_path / "o.yaml").write_text(OFA)
        line = call("lgc-lut", "import", tmp_path / "o.yaml", "--unit", "ms", *arguments).refusal("lgc-lut")
        assert "lgc has no operator for any row of once-for-all (rows: 1;" in line
        assert "needs --space, --device and --backend" in call("lgc-lut", "import", npy, "--out", out).refusal(
            "lgc-lut"
        )
        for name, value, reason in (
            ("--out", tmp_path / "t.cvs", "choose a file that ends in .lut, .csv or .parquet"),
            ("--device", "gpu", "device 'gpu' is neither 'cpu' nor 'cuda:N'"),
            ("--backend", "tensort", "'tensort' is not one of"),
            ("--precision", "fp8", "'fp8' is not one of 'fp32'"),
            ("--space", "tyny", "unknown search space 'tyny' (did you mean 'tiny'?)"),
        ):
            assert reason in call("lgc-lut", "import", npy, *arguments, name, value).refusal("lgc-lut")
        for noun, path in foreign_files.items():
            assert noun in call("lgc-lut", "import", path, *arguments).refusal("lgc-lut")
        np.save(npy, {**read_rows(npy), "head_H1_W2_Cin3_Cout4": float("nan")})
        assert "row 'head_H1_W2_Cin3_Cout4' holds nan" in call("lgc-lut", "import", npy, *arguments).refusal("lgc-lut")
        assert not out.exists()


class TestUpgrade:
    def test_current_schema_is_kept(self, call, mini_lut):
        before = mini_lut.read_bytes()
        done = call("lgc-lut", "upgrade", mini_lut, "--json")
        assert (done.code, json.loads(done.out)) == (0, {"lut": str(mini_lut), "from": 3, "to": 3, "kept": None})
        assert "has the current schema, 3" in call("lgc-lut", "upgrade", mini_lut).out
        assert mini_lut.read_bytes() == before


def make_arguments(verb, path, whole, tmp_path):
    """Return the arguments of a command with `path` as one of its tables."""
    return {
        "show": ("show", path),
        "diff a": ("diff", path, whole),
        "diff b": ("diff", whole, path),
        "merge": ("merge", whole, path, "--out", tmp_path / "out.lut"),
        "calibrate": ("calibrate", path),
        "export": ("export", path, "--out", tmp_path / "out.csv"),
        "upgrade": ("upgrade", path),
    }[verb]


@pytest.mark.parametrize("verb", ["show", "diff a", "diff b", "merge", "calibrate", "export", "upgrade"])
class TestBadTables:
    """Errors are one line with exit code 2; every file is unchanged."""

    def refused(self, call, verb, path, whole, tmp_path):
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
        line = call("lgc-lut", *make_arguments(verb, path, whole, tmp_path)).refusal("lgc-lut")
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
        return line

    def test_foreign_files(self, call, verb, two, foreign_files, tmp_path):
        for noun, path in foreign_files.items():
            line = self.refused(call, verb, path, two[0], tmp_path)
            assert str(path) in line
            assert noun in line

    @pytest.mark.parametrize("length", [50, 4096, 20_000])
    def test_truncated_table(self, call, verb, two, length, tmp_path):
        a, b, _ = two
        b.write_bytes(b.read_bytes()[:length])
        assert "b.lut is a damaged latency table" in self.refused(call, verb, b, a, tmp_path)

    def test_table_of_a_newer_schema(self, call, verb, two, tmp_path):
        a, b, _ = two
        with sqlite3.connect(b) as connection:
            connection.execute("PRAGMA user_version = 9")
        connection.close()
        line = self.refused(call, verb, b, a, tmp_path)
        assert line.endswith("has table schema 9, this lgc reads 3: update lgc")

    def test_table_in_another_unit(self, call, verb, two, tmp_path):
        """Column names contain the unit, so a table in microseconds lacks the expected columns."""
        a, b, _ = two
        with sqlite3.connect(b) as connection:
            connection.execute("ALTER TABLE entries RENAME COLUMN latency_ms TO latency_us")
        connection.close()
        line = self.refused(call, verb, b, a, tmp_path)
        assert "b.lut is a damaged latency table" in line
        assert "latency_ms" in line

    @pytest.mark.parametrize("latency", ["-1.0", "0.0", "9e999", "NULL"])
    def test_non_positive_or_missing_latency(self, call, verb, two, latency, tmp_path):
        """SQLite stores NaN as NULL."""
        a, b, _ = two
        with sqlite3.connect(b) as connection:
            connection.execute("PRAGMA ignore_check_constraints = 1")
            connection.execute(f"UPDATE entries SET latency_ms = {latency} WHERE rowid = 1")
        connection.close()
        assert "b.lut is a damaged latency table" in self.refused(call, verb, b, a, tmp_path)
