"""`lgc-lut diff`, `merge`, `calibrate`, `export`, `import` and `upgrade` from the command line, and their errors."""

import json
import sqlite3

import numpy as np
import pytest

from lgc.lut import LatencyTable, Target
from lgc.lut.statistics.calibration import FORMS

FASTERSEG = {
    "ConvNorm_H1024_W2048_Cin3_Cout32_kernel3_stride2": 0.75,
    "BasicResidual1x_H128_W256_Cin64_Cout96_stride1_dilation1": 0.25,
    "BasicResidual2x_H128_W256_Cin64_Cout64_stride1_dilation1": 0.5,
    "ff_H128_W256_C64": 0.3,
}
OFA = (
    "expanded_conv-input:7x7x192-output:7x7x320-expand:6-kernel:5-stride:1-idskip:0: {count: 9, mean: 5.5, var: 1.0}\n"
)


@pytest.fixture
def two(make_table, mini_space):
    """Return two tables of a space, a.lut and b.lut; an operator is 50 % slower in b."""
    a, b = make_table(mini_space, "a.lut"), make_table(mini_space, "b.lut")
    with b.store.transaction() as connection:
        connection.execute("UPDATE entries SET latency_ms = 1.5 * latency_ms WHERE rowid = 3")
    key = a.entries()[2].key
    paths = a.path, b.path
    a.close()
    b.close()
    return (*paths, key)


@pytest.fixture
def npy(tmp_path):
    np.save(tmp_path / "table.npy", FASTERSEG)
    return tmp_path / "table.npy"


class TestDiff:
    def test_prints_json(self, call, two):
        a, b, key = two
        done = call("lgc-lut", "diff", a, b, "--json")
        assert done.code == 1
        assert done.err == ""
        result = json.loads(done.out)
        assert (result["a"], result["b"]) == (str(a), str(b))
        with LatencyTable.open(a) as table:
            assert result["common"] == len(table.entries())
        assert (result["moved"], result["beyond_threshold"], result["drift_pct"]) == (1, 1, 0.0)
        assert (result["median_change_pct"], result["only_a"], result["only_b"]) == (0.0, [], [])
        assert result["p95_change_pct"] < 50
        first, second = result["entries"][:2]
        assert (first["key"], first["beyond_noise"], first["beyond_threshold"]) == (key, True, True)
        assert first["change_pct"] == pytest.approx(50)
        assert first["low_pct"] < 50 < first["high_pct"]
        assert (second["change_pct"], second["beyond_noise"]) == (0.0, False)

    def test_prints_lines(self, call, two):
        a, b, key = two
        done = call("lgc-lut", "diff", a, b)
        assert done.code == 1
        (line,) = (line for line in done.out.splitlines() if line.startswith(key))
        assert "+50.0 %" in line
        assert "1 changed by more than 5 %, 0 by less" in done.out
        assert "corrected above" in done.out

    @pytest.mark.parametrize(("threshold", "code"), [("49%", 1), ("51", 0), ("51%", 0)])
    def test_threshold_decides_the_exit_code(self, call, two, threshold, code):
        a, b, _ = two
        assert call("lgc-lut", "diff", a, b, "--threshold", threshold, "--json").code == code

    def test_match_limits_the_threshold(self, call, two):
        a, b, key = two
        assert call("lgc-lut", "diff", a, b, "--match", key).code == 1
        done = call("lgc-lut", "diff", a, b, "--match", "nothing like it", "--json")
        assert (done.code, json.loads(done.out)["median_change_pct"]) == (0, None)

    def test_table_equals_itself(self, call, mini_lut):
        done = call("lgc-lut", "diff", mini_lut, mini_lut)
        assert (done.code, done.err) == (0, "")
        assert "0 changed by more than 5 %" in done.out

    def test_different_targets_give_a_warning(self, call, make_table, mini_space):
        a = make_table(mini_space, "a.lut")
        b = make_table(mini_space, "b.lut", target=Target("cuda:0", "torch", "fp16"))
        done = call("lgc-lut", "diff", a.path, b.path, "--json")
        assert done.code == 0
        assert "warning: the tables also differ in device cpu, not cuda:0; backend" in done.err
        assert "precision fp32, not fp16" in json.loads(done.out)["differences"]

    def test_entries_of_one_table_are_listed(self, call, two):
        a, b, key = two
        with sqlite3.connect(b) as connection:
            connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL WHERE key = ?", (key,))
        connection.close()
        assert f"only in A: {key}" in call("lgc-lut", "diff", a, b).out
        assert json.loads(call("lgc-lut", "diff", b, a, "--json").out)["only_b"] == [key]

    def test_unknown_interval_gives_a_warning(self, call, two):
        a, b, _ = two
        with sqlite3.connect(b) as connection:
            connection.execute("UPDATE entries SET ci_ms = NULL WHERE rowid = 1")
        connection.close()
        assert "warning: 1 entries have no confidence interval" in call("lgc-lut", "diff", a, b).err

    def test_rejects_bad_input(self, call, two, npy, tmp_path):
        a, b, _ = two
        assert "invalid percentage 'much'" in call("lgc-lut", "diff", a, b, "--threshold", "much").refusal("lgc-lut")
        assert "Missing argument 'B.lut'" in call("lgc-lut", "diff", a).refusal("lgc-lut")
        arguments = ("--space", "tiny", "--device", "cuda:0", "--backend", "torch", "--out", tmp_path / "c.lut")
        assert call("lgc-lut", "import", npy, *arguments).code == 0
        line = call("lgc-lut", "diff", a, tmp_path / "c.lut").refusal("lgc-lut")
        assert "have no measured entry in common" in line


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
        done = call("lgc-lut", "merge", mini_lut, mini_lut, "--out", tmp_path / "c.lut")
        assert done.code == 0
        assert "entries from 2 tables, measured in 1 session\n" in done.out
        assert "mean absolute error" in done.out

    def test_other_input_sizes_give_a_warning(self, call, make_table, mini_space, tmp_path):
        a, b = make_table(mini_space, "a.lut"), make_table(mini_space.with_input(56, 40), "b.lut")
        done = call("lgc-lut", "merge", a.path, b.path, "--out", tmp_path / "c.lut", "--json")
        assert done.code == 0
        assert f"warning: {b.path} has another input size" in done.err
        assert f"warning: {b.path} shares no benchmark" in done.err
        result = json.loads(done.out)
        assert result["other_inputs"] == result["untied"] == [str(b.path)]
        assert result["entries"] == len({entry.key for table in (a, b) for entry in table.entries()})

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


class TestCalibrate:
    def test_prints_json(self, call, mini_lut):
        with LatencyTable.open(mini_lut) as table:
            before = table.metadata("verification")
        done = call("lgc-lut", "calibrate", mini_lut, "--form", "affine", "--json")
        assert (done.code, done.err) == (0, "")
        result = json.loads(done.out)
        assert {correction["form"] for correction in result["calibration"].values()} == {"affine"}
        assert result["before"] == before
        with LatencyTable.open(mini_lut) as table:
            assert result["calibration"] == table.metadata("calibration")
            assert result["after"] == table.metadata("verification")

    @pytest.mark.parametrize("form", FORMS)
    def test_prints_lines(self, call, mini_lut, form):
        done = call("lgc-lut", "calibrate", mini_lut, "--form", form)
        assert done.code == 0
        assert f"calibration, dense: {form}, intercept" in done.out
        assert "mean absolute error" in done.out

    def test_help_lists_all_forms(self, command):
        text = " ".join(command("lgc-lut", "calibrate", "--help").out.split())
        assert f"{', '.join(list(FORMS)[:-1])} or {list(FORMS)[-1]}" in text

    def test_rejects_bad_input(self, call, mini_lut, two):
        line = call("lgc-lut", "calibrate", mini_lut, "--form", "affin").refusal("lgc-lut")
        assert "unknown form of calibration 'affin' (did you mean 'affine'?)" in line
        line = call("lgc-lut", "calibrate", two[0]).refusal("lgc-lut")
        assert "holds too few measured networks to calibrate, 4 are needed: lgc-profile --device cpu" in line
        with sqlite3.connect(mini_lut) as connection:
            connection.execute("UPDATE entries SET status = 'pending', latency_ms = NULL")
        connection.close()
        before = mini_lut.read_bytes()
        assert "not measured yet; measure it with" in call("lgc-lut", "calibrate", mini_lut).refusal("lgc-lut")
        assert mini_lut.read_bytes() == before


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
        assert (done.code, done.err) == (0, "")
        result = json.loads(done.out)
        assert (result["project"], result["rows"], result["imported"], result["in_space"]) == ("FasterSeg", 4, 2, 0)
        assert set(result["left"]) == set(FASTERSEG) - set(list(FASTERSEG)[:2])
        with LatencyTable.open(tmp_path / "t.lut") as table:
            assert table.target == Target("cuda:0", "tensorrt", "fp16")
        shown = call("lgc-lut", "show", tmp_path / "t.lut", "--status", "measured").out
        assert "imported from table.npy: ConvNorm_H1024" in shown

    def test_prints_lines(self, call, npy, tmp_path):
        arguments = ("--space", "tiny", "--device", "cpu", "--backend", "torch")
        done = call("lgc-lut", "import", npy, *arguments, "--out", tmp_path / "t.lut")
        assert "2 operators from 4 rows of FasterSeg" in done.out
        assert "skipped: 1 rows of ff (an attention module)" in done.out

    def test_to_columns(self, call, npy, tmp_path):
        for source, project, rows in ((npy, "FasterSeg", 4), (tmp_path / "o.yaml", "once-for-all", 1)):
            (tmp_path / "o.yaml").write_text(OFA)
            done = call("lgc-lut", "import", source, "--out", tmp_path / "t.csv")
            assert done.out == f"{tmp_path / 't.csv'}: {rows} rows of {project}\n"
            assert len((tmp_path / "t.csv").read_text().splitlines()) == 1 + rows

    def test_rejects_bad_input(self, call, npy, tmp_path, foreign_files):
        out = tmp_path / "t.lut"
        arguments = ("--space", "tiny", "--device", "cpu", "--backend", "torch", "--out", out)
        (tmp_path / "o.yaml").write_text(OFA)
        line = call("lgc-lut", "import", tmp_path / "o.yaml", *arguments).refusal("lgc-lut")
        assert "lgc has no operator for any of the 1 rows of once-for-all" in line
        assert "needs --space, --device and --backend" in call("lgc-lut", "import", npy, "--out", out).refusal(
            "lgc-lut"
        )
        for name, value, reason in (
            ("--device", "gpu", "device 'gpu' is neither 'cpu' nor 'cuda:N'"),
            ("--backend", "tensort", "unknown backend 'tensort' (did you mean 'tensorrt'?)"),
            ("--precision", "fp8", "unknown precision 'fp8'"),
            ("--space", "tyny", "unknown search space 'tyny' (did you mean 'tiny'?)"),
        ):
            assert reason in call("lgc-lut", "import", npy, *arguments, name, value).refusal("lgc-lut")
        for noun, path in foreign_files.items():
            assert noun in call("lgc-lut", "import", path, *arguments).refusal("lgc-lut")
        np.save(npy, {**FASTERSEG, "head_H1_W2_Cin3_Cout4": float("nan")})
        assert "row 'head_H1_W2_Cin3_Cout4' holds nan" in call("lgc-lut", "import", npy, *arguments).refusal("lgc-lut")
        assert not out.exists()


class TestUpgrade:
    def test_current_schema_is_kept(self, call, mini_lut):
        before = mini_lut.read_bytes()
        done = call("lgc-lut", "upgrade", mini_lut, "--json")
        assert (done.code, json.loads(done.out)) == (0, {"lut": str(mini_lut), "from": 2, "to": 2, "kept": None})
        assert "schema 2 is up to date" in call("lgc-lut", "upgrade", mini_lut).out
        assert mini_lut.read_bytes() == before


def words_of(verb, path, whole, tmp_path):
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
        line = call("lgc-lut", *words_of(verb, path, whole, tmp_path)).refusal("lgc-lut")
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
        assert line.endswith("has table schema 9, this lgc reads 2: update lgc")

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


class TestShow:
    def test_filters(self, call, mini_lut):
        def keys(*arguments):
            return [
                entry["key"]
                for entry in json.loads(call("lgc-lut", "show", mini_lut, *arguments, "--json").out)["entries"]
            ]

        every = keys()
        assert keys("--operator", "conv_3x3") == [key for key in every if key.startswith("conv_3x3/")]
        assert keys("--resolution", "8x8") == [key for key in every if "/8x8/" in key] != []
        assert keys("--status", "pending") == []
        assert keys("--match", "c4-4", "--resolution", "8x8") == [k for k in every if "/c4-4/8x8/" in k]
        assert keys("--sort", "key") == sorted(every)
        assert sorted(keys("--sort", "latency")) == sorted(keys("--sort", "ci")) == sorted(every)

    def test_sort_orders(self, call, mini_lut):
        def rows(sort):
            return json.loads(call("lgc-lut", "show", mini_lut, "--sort", sort, "--json").out)["entries"]

        latencies = [row["latency_ms"] for row in rows("latency")]
        assert latencies == sorted(latencies, reverse=True)
        widths = [row["ci_ms"] / row["latency_ms"] for row in rows("ci")]
        assert widths == sorted(widths, reverse=True)

    def test_prints_intervals_and_calibration(self, call, mini_lut):
        done = call("lgc-lut", "show", mini_lut)
        assert done.code == 0
        with LatencyTable.open(mini_lut) as table:
            entry = table.entries()[0]
            form = table.correction("dense").form
        assert f"{entry.latency_ms:.4f} ± {entry.ci_ms:.4f}" in done.out
        assert f"calibration, dense: {form}, intercept" in done.out
        assert "9 of 10 networks within ±" in done.out

    def test_subjects_lists_benchmarks(self, call, mini_lut):
        def subjects(*arguments):
            return json.loads(call("lgc-lut", "show", mini_lut, "--subjects", *arguments, "--json").out)["subjects"]

        every = subjects()
        assert {subject["kind"] for subject in every} == {"carrier", "operator", "network"}
        assert {"visits", "ci_ms", "spread_pct", "samples", "energy_mj"} <= set(every[0])
        chosen = subjects("--operator", "sep_conv_3x3", "--resolution", "8x8")
        assert {subject["kind"] for subject in chosen} == {"carrier", "operator"}
        assert all("8x8" in s["key"] or "/4x4/" in s["key"] for s in chosen)
        text = call("lgc-lut", "show", mini_lut, "--subjects").out
        assert "probe/" in text
        assert "carrier/" in text
        assert "network/dense/" in text

    def test_rejects_bad_input(self, call, mini_lut):
        for arguments, reason in (
            (("--operator", "conv_3x4"), "unknown operator 'conv_3x4' (did you mean 'conv_3x3'?)"),
            (("--status", "done"), "unknown status 'done'"),
            (("--sort", "size"), "unknown order 'size'"),
            (("--resolution", "8"), "invalid size '8'"),
        ):
            assert reason in call("lgc-lut", "show", mini_lut, *arguments).refusal("lgc-lut")

    def test_damaged_verification_is_rejected(self, call, mini_lut):
        for key in ("verification", "calibration"):
            with sqlite3.connect(mini_lut) as connection:
                connection.execute('UPDATE meta SET value = \'{"dense": {"x": 1}}\' WHERE key = ?', (key,))
            connection.close()
            line = call("lgc-lut", "show", mini_lut).refusal("lgc-lut")
            assert f"mini.lut is a damaged latency table: its {key} fails at" in line
