"""Import of other projects' tables; export as CSV and Parquet."""

import sys

import pytest

from lgc.errors import FileFormatError, OutputError, UsageError
from lgc.lut import LatencyTable, Target
from lgc.lut.exchange.convert import foreign_to_frame, import_table, table_to_frame, write_frame
from lgc.lut.exchange.foreign import read_foreign
from lgc.models import OpSpec

TARGET = Target("cuda:0", "tensorrt")


class TestImport:
    def test_matching_rows_become_a_table(self, tmp_path, mini_space, fasterseg):
        found = import_table(read_foreign(fasterseg.path), tmp_path / "t.lut", mini_space, TARGET)
        assert (found.imported, found.in_space) == (4, 0)
        with LatencyTable.open(tmp_path / "t.lut") as table:
            assert (table.target, table.space) == (TARGET, mini_space)
            measured = {entry.key: entry for entry in table.entries() if entry.status == "measured"}
            assert {key: entry.latency_ms for key, entry in measured.items()} == fasterseg.equal
            assert {entry.ci_ms for entry in measured.values()} == {None}
            assert measured["conv_1x1/c256-128/32x64/s1/b1"].reason == (
                "imported from table.npy: ConvNorm_H32_W64_Cin256_Cout128_kernel1_stride1"
            )
            assert found.missing == len(table.entries()) - 4
            assert table.environment["device_name"] == "unknown, imported from table.npy of FasterSeg"
            table.finalize()
            assert table.latency_ms(OpSpec("conv_1x1", 256, 128, 32, 64)) == 0.03, "no batch changes it"

    def test_import_fills_entries_of_the_space(self, npy, tmp_path, mini_space):
        spec = next(spec for spec in mini_space.specs() if spec.operator == "conv_3x3")
        size = f"H{spec.height}_W{spec.width}_Cin{spec.c_in}_Cout{spec.c_out}"
        rows = {
            f"ConvNorm_{size}_kernel3_stride{spec.stride}": 1.0,
            f"BasicResidual1x_{size}_stride{spec.stride}_dilation1": 2.0,
        }
        found = import_table(read_foreign(npy(rows)), tmp_path / "t.lut", mini_space, TARGET)
        assert (found.imported, found.in_space) == (1, 1)
        with LatencyTable.open(tmp_path / "t.lut") as table:
            assert table.latency_ms(spec) == 1.5, "mean of equal rows"

    def test_table_without_matching_rows_is_rejected(self, tmp_path, mini_space, once_for_all):
        with pytest.raises(
            FileFormatError, match=r"lgc has no operator for any row of once-for-all \(rows: 4;"
        ) as caught:
            import_table(read_foreign(once_for_all), tmp_path / "t.lut", mini_space, TARGET)
        assert ".csv or .parquet" in str(caught.value)
        assert not (tmp_path / "t.lut").exists()

    def test_existing_table_is_kept(self, tmp_path, mini_space, fasterseg):
        (tmp_path / "t.lut").write_text("mine")
        with pytest.raises(OutputError, match="already exists"):
            import_table(read_foreign(fasterseg.path), tmp_path / "t.lut", mini_space, TARGET)
        assert (tmp_path / "t.lut").read_text() == "mine"


class TestFrames:
    def test_rows_of_another_project(self, fasterseg, once_for_all):
        frame = foreign_to_frame(read_foreign(fasterseg.path))
        assert dict(frame["latency_ms"]) == fasterseg.rows
        row = frame.loc["ConvNorm_H1024_W2048_Cin3_Cout32_kernel3_stride2"]
        assert (row["kind"], row["H"], row["kernel"], row["spec"]) == (
            *("ConvNorm", 1024, 3, "conv_3x3/c3-32/1024x2048/s2/b1"),
        )
        frame = foreign_to_frame(read_foreign(once_for_all))
        assert list(frame["kernel"].dropna()) == [5]
        assert frame["ci_ms"].notna().sum() == 3

    def test_csv_equals_the_table(self, carried, tmp_path):
        pd = pytest.importorskip("pandas")
        table = carried(networks=4)
        write_frame(table_to_frame(table), tmp_path / "new" / "t.csv")
        frame = pd.read_csv(tmp_path / "new" / "t.csv", index_col="key")
        for entry in table.entries():
            assert frame.loc[entry.key, "latency_ms"] == entry.latency_ms
            assert frame.loc[entry.key, "ci_ms"] == entry.ci_ms
        assert {"operator", "c_in", "c_out", "height", "width", "stride", "batch", "status"} <= set(frame.columns)
        assert 0 < frame["share_pct"].min() < frame["share_pct"].max() < 100

    def test_shares_need_networks(self, carried):
        assert table_to_frame(carried())["share_pct"].isna().all()

    def test_parquet_equals_the_table(self, carried, tmp_path, fasterseg):
        pytest.importorskip("pyarrow")
        pd = pytest.importorskip("pandas")
        for frame in (table_to_frame(carried()), foreign_to_frame(read_foreign(fasterseg.path))):
            write_frame(frame, tmp_path / "t.parquet")
            read = pd.read_parquet(tmp_path / "t.parquet")
            pd.testing.assert_frame_equal(read, frame, check_dtype=False)

    def test_parquet_without_pyarrow_names_the_install_command(self, carried, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UsageError, match=r"t\.parquet: Parquet needs pyarrow: pip install pyarrow"):
            write_frame(table_to_frame(carried()), tmp_path / "t.parquet")
        assert not (tmp_path / "t.parquet").exists()

    def test_other_suffixes_are_rejected(self, carried, tmp_path):
        frame = table_to_frame(carried())
        with pytest.raises(UsageError, match=r"ends in \.csv or \.parquet"):
            write_frame(frame, tmp_path / "t.xlsx")
        (tmp_path / "d.csv").mkdir()
        with pytest.raises(OutputError, match="is a folder"):
            write_frame(frame, tmp_path / "d.csv")
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="cannot make the folder"):
            write_frame(frame, tmp_path / "file" / "t.csv")
