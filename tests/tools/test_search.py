"""`lgc-search` from the command line: results, warnings and missing entries."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from shutil import copy

import pytest

from lgc.errors import UsageError
from lgc.lut import LatencyTable, Predictor, Target
from lgc.models import Architecture, SearchSpace
from lgc.profiler import derivation
from lgc.profiler.deployment import latency
from lgc.profiler.profile import profile
from lgc.search.config import SearchConfig
from lgc.search.constraint.refinement import MAX_REFINEMENTS
from lgc.search.data.synthetic.writers import write_scenes
from lgc.search.training.config import HOST_FIELDS

SHORT = ("--steps", 4, "--batch", 2, "--trials", 0)


@pytest.fixture(scope="module")
def street(headed_space) -> SearchSpace:
    """Return a space with the scenes' classes."""
    content = {**headed_space.model_dump(mode="json"), "name": "street", "classes": 11}
    return headed_space.check(content, "street")


@pytest.fixture(scope="module")
def lut(tmp_path_factory, street) -> Path:
    """Return a measured table of the space."""
    path = tmp_path_factory.mktemp("lut") / "street.lut"
    profile(street, Target("cpu", "onnxruntime"), path, rounds=4, networks=4)
    with LatencyTable.open(path) as table:  # however badly that went here
        table.set_metadata("verification", {})
        corrections = (table.metadata("calibration") or {}).items()
        settled = {"error_pct": 2.0, "intercept_ms": 0.0}  # noise can put the intercept below all latencies
        table.set_metadata("calibration", {scope: {**content, **settled} for scope, content in corrections})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "camvid-segnet", {"train": 6, "val": 2, "test": 0}, (32, 32), 0)
    return folder


@pytest.fixture(scope="module")
def reach(lut) -> tuple[float, float]:
    """Return the latency of the fastest and of the slowest architecture in ms."""
    predictor = predictor_of(lut)
    return predictor.predict(predictor.fastest), predictor.predict(predictor.slowest)


def predictor_of(lut: Path) -> Predictor:
    with LatencyTable.open(lut) as table:
        return Predictor(table.space, table)


@pytest.fixture
def run_search(call, lut, data, tmp_path):
    """Return a function that searches into `tmp_path`/run and returns the JSON result and stderr."""

    def run(*options, code=0):
        done = call("lgc-search", "--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run", *options, "--json")
        assert done.code == code, done.err
        return (json.loads(done.out) if done.out else None), done.err

    return run


def test_measure_refines_the_result(run_search, reach, monkeypatch, tmp_path):
    meter = partial(latency.make_latency_meter, seconds=0.5)  # not METER_SECONDS
    monkeypatch.setattr(latency, "make_latency_meter", meter)
    target = (reach[0] + reach[1]) / 2
    result, _ = run_search("--target-ms", target, "--measure")
    assert result["measured_ms"] > 0
    assert 1 <= result["landings"] <= MAX_REFINEMENTS
    assert "one table, a target for it" in run_search("--measure", "--out", tmp_path / "other", code=2)[1]


def test_omitted_options_are_the_searchs_own(run_search, reach, tmp_path):
    target = round((reach[0] + reach[1]) / 2, 4)
    first, _ = run_search("--target-ms", target, "--precision", "bf16", "--arch-lr", 0.01)
    again, err = run_search()
    assert again == first
    own = f"targets_ms [[{target}]], arch_lr 0.01, precision 'bf16'"
    assert f"{tmp_path / 'run'} keeps the settings that it began with: {own}" in err.splitlines()
    assert "precision 'bf16', not 'fp32'" in run_search("--precision", "fp32", code=2)[1]


def test_json_has_documented_keys(run_search, lut, tmp_path):
    result, _ = run_search()
    assert {"architecture", "target_ms", "predicted_ms", "steps", "seconds"} <= result.keys()
    assert result["architecture"] == str(tmp_path / "run" / "architecture.json")
    assert result["predicted_ms"] == pytest.approx(predictor_of(lut).predict(Architecture.load(result["architecture"])))
    assert (result["target_ms"], result["steps"]) == (None, 4)
    assert result["seconds"] >= 0
    assert result["fastest_ms"] <= result["predicted_ms"] <= result["slowest_ms"]
    assert run_search()[0] == result


def test_target_in_ms_is_met(run_search, reach):
    target = sum(reach) / 2
    result, _ = run_search("--target-ms", target)
    assert result["target_ms"] == pytest.approx(target)
    assert 0.8 * target <= result["predicted_ms"] <= result["target_ms"]
    assert not {"target_fps", "predicted_fps", "median_ratio"} & result.keys()


@pytest.mark.parametrize("option", ["--target-ms 1000", "--target-fps 1"])
def test_target_above_every_latency_is_met(call, lut, data, tmp_path, option):
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run", *option.split())
    done = call("lgc-search", *arguments)
    assert done.code == 0, done.err
    value, unit = (("1000 ms", "ms"), ("1 FPS", "FPS"))["fps" in option]
    (line,) = (line for line in done.err.splitlines() if "excludes nothing" in line)
    assert line.startswith(f"a target of {value} excludes nothing: {lut} predicts ")
    assert f" {unit} in scope dense; " in line
    assert line.endswith("; with this table, the architecture is chosen by its loss alone")


def set_median_ratio(lut: Path, ratio: float | None) -> None:
    """Change the networks' medians of all runs in a table; None removes them."""
    with LatencyTable.open(lut) as table, table.store.transaction() as connection:
        connection.execute("UPDATE subjects SET median_ms = latency_ms * ? WHERE kind = 'network'", (ratio,))


def test_frame_rate_is_of_the_median(call, lut, data, reach, tmp_path):
    """The table's statistic is of undisturbed runs, so its target is tighter than 1000 / FPS."""
    slow = Path(copy(lut, tmp_path / "slow.lut"))
    set_median_ratio(slow, 1.25)
    target_ms = sum(reach) / 2
    fps = 1000 / (1.25 * target_ms)
    arguments = ("--lut", slow, "--data", data, *SHORT, "--out", tmp_path / "run", "--target-fps", fps)
    done = call("lgc-search", *arguments, "--json")
    result = json.loads(done.out)
    assert result["target_ms"] == pytest.approx(target_ms)
    assert (result["target_fps"], result["median_ratio"]) == pytest.approx((fps, 1.25))
    assert result["predicted_fps"] == pytest.approx(1000 / (1.25 * result["predicted_ms"]))
    assert result["predicted_ms"] <= target_ms
    assert (
        f"{fps:.4g} FPS: {1000 / fps:.4g} ms by the median of all runs; {target_ms:.4g} ms by the table's" in done.err
    )
    assert "its networks had a median 25.0 % above it" in done.err
    provenance = Architecture.load(result["architecture"]).provenance
    assert provenance["target_fps"] == pytest.approx(fps)
    assert provenance["targets"] == ["cpu, onnxruntime, fp32, 1 thread"]
    shown = call("lgc-search", *arguments)
    assert f"{result['predicted_fps']:.4g}" in shown.out


def test_frame_rate_without_networks_is_uncorrected(call, lut, data, reach, tmp_path):
    old = Path(copy(lut, tmp_path / "old.lut"))
    set_median_ratio(old, None)
    target_ms = sum(reach) / 2
    arguments = ("--lut", old, "--data", data, *SHORT, "--out", tmp_path / "run", "--target-fps", 1000 / target_ms)
    done = call("lgc-search", *arguments, "--json")
    assert json.loads(done.out)["target_ms"] == pytest.approx(target_ms)
    assert "which is not converted to the table's statistic of undisturbed runs: " in done.err


def test_front_of_frame_rates_keeps_each(call, lut, data, reach, tmp_path):
    other = Path(copy(lut, tmp_path / "other.lut"))
    set_median_ratio(other, 1.25)
    low, high = reach
    rates = [1000 / (low + share * (high - low)) for share in (0.9, 0.95, 0.7, 0.75)]
    arguments = [word for fps in rates for word in ("--target-fps", fps)]
    done = call(
        "lgc-search",
        "--lut",
        lut,
        "--lut",
        other,
        "--data",
        data,
        *SHORT,
        "--out",
        tmp_path / "run",
        *arguments,
        "--json",
    )
    assert done.code == 0, done.err
    front = json.loads(done.out)["front"]
    assert [[row["target_fps"] for row in point["tables"]] for point in front] == [rates[:2], rates[2:]]
    assert front[1]["tables"][1]["target_ms"] == pytest.approx(1000 / (1.25 * rates[3]))


def test_several_targets_give_a_front(run_search, reach, tmp_path):
    low, high = reach
    targets = [round(low + share * (high - low), 3) for share in (0.3, 0.7)]
    result, _ = run_search(*(word for target in targets for word in ("--target-ms", target)))
    assert [row["target_ms"] for row in result["front"]] == targets
    assert {"steps", "seconds"} <= result.keys()
    for row, target in zip(result["front"], targets, strict=True):
        assert Path(row["architecture"]).parent == tmp_path / "run" / f"target-{target:g}ms"
        assert Path(row["architecture"]).exists()
        assert row["predicted_ms"] <= target


def test_each_table_has_its_target(run_search, lut, reach, tmp_path):
    other = Path(copy(lut, tmp_path / "other.lut"))
    low, high = reach
    result, _ = run_search("--lut", other, "--target-ms", high, "--target-ms", (low + high) / 2)
    assert [row["lut"] for row in result["tables"]] == [str(lut), str(other)]
    assert [row["target_ms"] for row in result["tables"]] == [high, (low + high) / 2]
    assert result["predicted_ms"] <= (low + high) / 2


@pytest.mark.parametrize(
    ("option", "setting"), [("--no-latency-term", {"latency_term": False}), ("--beta 0.004", {"beta": 0.004})]
)
def test_options_reach_the_search(run_search, tmp_path, option, setting):
    arguments = f"{option} --cells shared --communication none --fusion fixed --arch-lr 0.01 --warm-up 0.5"
    arguments += " --strategy evolution --seed 3 --crop 16x24 --scope core --precision bf16 --optimiser sgd"
    arguments += " --weight-lr 0.01 --weight-lr-end 0.002 --explore 0.1 --trial-seeds 1 --samples 9"
    run_search(*arguments.split())
    settings = json.loads((tmp_path / "run" / "search.json").read_text())
    expected = {"cells": "shared", "communication": "none", "fusion": "fixed", "arch_lr": 0.01, **setting}
    expected |= {"warm_up": 0.5, "strategy": "evolution", "seed": 3, "crop": [16, 24], "scope": "core"}
    expected |= {"precision": "bf16", "steps": 4, "batch": 2, "targets_ms": [], "quantile": None, "optimiser": "sgd"}
    expected |= {
        "weight_lr": 0.01,
        "weight_lr_end": 0.002,
        "explore": 0.1,
        "trial_seeds": 1,
        "samples": 9,
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.fixture
def gpu_lut(make_table, street, tmp_path) -> Path:
    """Return a table of a GPU that no machine has."""
    make_table(street, "gpu.lut", target=Target("cuda:77", "torch")).close()
    return tmp_path / "gpu.lut"


def test_absent_table_device_is_reported(call, gpu_lut, data, tmp_path):
    arguments = ("--lut", gpu_lut, "--data", data, *SHORT, "--out", tmp_path / "run", "--json")
    done = call("lgc-search", *arguments)
    assert done.code == 0, done.err
    remark = (
        "searching on cpu: the table's device cuda:77 is not present (this torch is a CPU build; install a CUDA build "
        "of torch); choose another device with --device"
    )
    assert done.err.splitlines().count(remark) == 1
    again = call("lgc-search", *arguments, "--device", "cpu")
    assert json.loads(again.out) == json.loads(done.out), "a run is resumed on any device"
    assert remark not in again.err
    provenance = Architecture.load(tmp_path / "run" / "architecture.json").provenance
    assert provenance["devices"] == ["cuda:77"]


@pytest.mark.parametrize(
    ("tables", "options", "device"),
    [
        (["cuda:1"], (), "cuda:1"),
        (["cpu"], (), "cpu"),
        (["cpu", "cuda:0"], (), "cuda:0"),
        (["cuda:1"], ("--device", "cpu"), "cpu"),
    ],
)
def test_search_runs_on_the_tables_device(
    call, make_table, street, data, tmp_path, monkeypatch, tables, options, device
):
    monkeypatch.setattr(
        "lgc.profiler.machine.devices.list_devices", lambda: dict.fromkeys(("cpu", "cuda:0", "cuda:1"), "name")
    )
    monkeypatch.setattr("lgc.search.engine.search", lambda *_, device, **__: stop(device))

    def stop(device):
        raise UsageError(f"search on {device}")

    arguments = []
    for number, name in enumerate(tables):
        make_table(street, f"{number}.lut", target=Target(name, "torch")).close()
        arguments += ["--lut", tmp_path / f"{number}.lut", "--target-ms", 1e6]
    done = call("lgc-search", *arguments, "--data", data, *SHORT, "--out", tmp_path / "run", *options)
    assert f"search on {device}" in done.refusal("lgc-search")
    assert ("its latency table is of a CPU; choose another device" in done.err) == (tables == ["cpu"])


def test_default_options_are_the_settings_defaults(call, lut, data, tmp_path):
    done = call("lgc-search", "--lut", lut, "--data", data, "--steps", 2, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    settings = json.loads((tmp_path / "run" / "search.json").read_text())
    defaults = SearchConfig(steps=2).model_dump(mode="json", exclude=HOST_FIELDS)
    assert {name: settings[name] for name in defaults} == defaults


def test_default_steps_are_80_half_epochs(call, lut, data, tmp_path, monkeypatch):
    """Half of six images is three batches of 1, so 80 epochs have 240 steps."""
    monkeypatch.setattr("lgc.search.engine.search", lambda predictors, data, out, config, **_: stop(config.steps))

    def stop(steps):
        raise UsageError(f"{steps} steps")

    arguments = ("--lut", lut, "--data", data, "--batch", 1, "--out", tmp_path / "run")
    assert "240 steps" in call("lgc-search", *arguments).refusal("lgc-search")


def test_quantile_meets_the_target(run_search, lut, reach):
    predictor = predictor_of(lut)
    target = sum(reach) / 2 * predictor.margin(0.9)
    result, _ = run_search("--target-ms", target, "--quantile", 0.9)
    (row,) = result["tables"]
    assert row["bound_ms"] == pytest.approx(result["predicted_ms"] * predictor.margin(0.9))
    assert row["bound_ms"] <= target


def test_printed_numbers_agree_with_json(call, run_search, lut, data, reach, tmp_path):
    target = round(sum(reach) / 2, 3)
    result, _ = run_search("--target-ms", target)
    arguments = ("--lut", lut, "--data", data, *SHORT, "--out", tmp_path / "run", "--target-ms", target)
    done = call("lgc-search", *arguments)
    lines = done.out.splitlines()
    header, row = next((line, lines[at + 2]) for at, line in enumerate(lines) if "target ms" in line)
    assert header.index("predicted ms") < header.index("loss") < header.index("seconds")
    low, high = result["predicted_low_ms"], result["predicted_high_ms"]
    shown = [
        f"{target:.3f}",
        f"{result['predicted_ms']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{result['loss_after']:.3f}",
    ]
    assert row.split() == [*" ".join(shown).split(), "4", f"{result['seconds']:.0f}"]
    assert f"latency range of the space: {result['fastest_ms']:.3f} to {result['slowest_ms']:.3f} ms" in done.out
    assert f"architecture  {result['architecture']}" in done.out
    assert f"head of {result['head_channels']} channels" in done.out
    assert done.out.splitlines()[-1].startswith("next: lgc-train ")


def test_trials_are_printed(call, lut, data, tmp_path):
    done = call("lgc-search", "--lut", lut, "--data", data, *SHORT, "--trials", 2, "--out", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "search-result.json").read_text())
    header, row = next(
        (line, lines[at + 2])
        for lines in [done.out.splitlines()]
        for at, line in enumerate(lines)
        if "target ms" in line
    )
    assert "trial mIoU" in header
    best, all_scores = max(result["trial_mious"]), ", ".join(f"{miou:.1f}" for miou in result["trial_mious"])
    assert row.split()[-3] == f"{best:.1f}"
    assert f"  mIoU of the candidates after trials of {result['trial_steps']} steps: {all_scores}" in done.out


def test_seeds_are_searched_and_compared(call, lut, data, reach, tmp_path):
    fastest, slowest = reach
    options = ("--lut", lut, "--data", data, "--steps", 4, "--batch", 2, "--trials", 2, "--seed", 3, "--seeds", 2)
    target = ("--target-ms", (fastest + slowest) / 2)
    out = tmp_path / "run"
    content = json.loads(call("lgc-search", *options, *target, "--out", out, "--json").out)
    assert content["seeds"] == [3, 4]
    assert json.loads((out / "seeds-result.json").read_text()) == content
    mious = [search["trial_miou"] for search in content["searches"]]
    for seed, search in zip(content["seeds"], content["searches"], strict=True):
        folder = out / f"seed-{seed}"
        assert search["architecture"] == str(folder / "architecture.json")
        assert json.loads((folder / "search.json").read_text())["seed"] == seed
        alone = call("lgc-search", *options[:-4], "--seed", seed, *target, "--out", tmp_path / str(seed), "--json")
        assert json.loads(alone.out)["trial_mious"] == search["trial_mious"]
    assert content["trial_miou"]["mean"] == pytest.approx(sum(mious) / 2)
    assert content["trial_miou"]["deviation"] == pytest.approx(abs(mious[0] - mious[1]) / 2**0.5)
    again = call("lgc-search", *options[:-4], "--seeds", 2, *target, "--out", out)  # without --seed
    assert f"{out}/seed-3 is finished" in again.err
    assert [row.split()[0] for row in again.out.splitlines() if row.strip().startswith(("3 ", "4 "))] == ["3", "4"]
    assert f"2 searches, mean ± standard deviation: trial mIoU {sum(mious) / 2:.1f} %" in again.out
    best = 3 + mious.index(max(mious))
    assert f"lgc-train {out}/seed-{best}" in again.out


def test_seeds_in_the_folder_of_a_search_are_refused(call, run_search, lut, data, tmp_path):
    run_search()
    done = call("lgc-search", "--lut", lut, "--data", data, *SHORT, "--seeds", 2, "--out", tmp_path / "run")
    assert "run holds a single search: choose another --out for --seeds" in done.refusal("lgc-search")


def test_seeds_of_a_front_are_refused(call, lut, data, reach, tmp_path):
    targets = [part for ms in reach for part in ("--target-ms", ms)]
    done = call("lgc-search", "--lut", lut, "--data", data, *targets, "--seeds", 2, "--out", tmp_path / "run")
    assert "--seeds is for a single point of targets" in done.refusal("lgc-search")
    assert not (tmp_path / "run").exists()


def test_collapsed_architecture_gives_a_warning(run_search, reach):
    result, message = run_search("--target-ms", reach[0] * 1.0001)
    edges = sum(result["operators"].values())
    assert result["operators"]["zero"] + result["operators"]["skip"] > 0.6 * edges
    assert "are zero or skip: the target is too tight, or the search collapsed" in message
    assert "evolution" not in message


def test_collapse_without_a_target_names_beta(run_search):
    result, message = run_search("--beta", 1000.0, "--arch-lr", 1.0)
    assert result["operators"]["zero"] + result["operators"]["skip"] > 0.6 * sum(result["operators"].values())
    assert "are zero or skip: --beta is too large, or the search collapsed" in message


def test_unverified_table_gives_a_warning(call, lut, data, tmp_path):
    unverified = copy(lut, tmp_path / "unverified.lut")
    with LatencyTable.open(unverified) as table:
        table.set_metadata("calibration", {})
    done = call("lgc-search", "--lut", unverified, "--data", data, *SHORT, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    (line,) = (line for line in done.err.splitlines() if "unverified.lut" in line)
    assert line.startswith("warning: ")
    assert "unverified.lut is not verified on whole networks" in line
    assert "predictions is unknown" in line


def test_inaccurate_table_gives_a_warning(call, lut, data, tmp_path):
    noisy = copy(lut, tmp_path / "noisy.lut")
    with LatencyTable.open(noisy) as table:
        table.set_metadata("verification", {"dense": {"mape_pct": 23.4}})
    done = call("lgc-search", "--lut", noisy, "--data", data, *SHORT, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert done.err.count("noisy.lut has a prediction error of 23 %") == 1
    refused = call("lgc-search", "--lut", noisy, "--data", tmp_path / "none", *SHORT, "--out", tmp_path / "other")
    assert refused.refusal("lgc-search")
    assert "warning" not in refused.err


@pytest.mark.parametrize(("error_pct", "target", "warned"), [(9.0, 1000, True), (0.5, 1000, False), (9.0, None, False)])
def test_wide_prediction_interval_gives_a_warning_on_the_target(call, lut, data, tmp_path, error_pct, target, warned):
    wide = copy(lut, tmp_path / "wide.lut")
    with LatencyTable.open(wide) as table:
        calibration = table.metadata("calibration")
        table.set_metadata("calibration", {"dense": {**calibration["dense"], "error_pct": error_pct, "networks": 9}})
        half_pct = table.correction("dense").half_width_pct()
    aim = () if target is None else ("--target-ms", target)
    done = call("lgc-search", "--lut", wide, "--data", data, *SHORT, *aim, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    warning = f"warning: {wide} predicts with a 90 % interval of ± {half_pct:.0f} %, so the network may miss its target"
    assert (warning in done.err) == warned


@pytest.fixture
def three_classes(headed_space, make_once) -> Path:
    """Return a measured table of a space with 3 classes; read-only."""
    target = Target("cpu", "onnxruntime")
    return make_once("headed", lambda to: profile(headed_space, target, to / "h.lut", rounds=4, networks=4)) / "h.lut"


@pytest.fixture
def _short_measurement(monkeypatch):
    monkeypatch.setattr(derivation, "profile_derived", partial(derivation.profile_derived, rounds=4))


@pytest.mark.usefixtures("_short_measurement")
def test_missing_entries_of_classes_are_measured(call, three_classes, data, tmp_path):
    before = three_classes.read_bytes()
    arguments = ("--lut", three_classes, "--data", data, *SHORT, "--out", tmp_path / "runs" / "a", "--json")
    done = call("lgc-search", *arguments)
    assert done.code == 0, done.err
    derived = tmp_path / "runs" / "h-11classes.lut"
    assert (
        f"{three_classes} is for 3 classes, the dataset {data} has 11: measuring what depends on the classes, "
        f"on cpu, onnxruntime, fp32, 1 thread, into {derived}"
    ) in done.err
    kept = rf"\d+ computed from the samples of {three_classes} and new ones \(median change \d+.\d %\)"
    assert re.search(rf"{derived}: 5 entries measured now, {kept}; mean prediction error", done.err)
    architecture = Architecture.load(json.loads(done.out)["architecture"])
    assert architecture.space.classes == 11
    assert json.loads(done.out)["predicted_ms"] == pytest.approx(predictor_of(derived).predict(architecture))
    assert three_classes.read_bytes() == before
    measured = derived.read_bytes()
    again = call("lgc-search", *arguments)
    assert again.code == 0, again.err
    assert f"using {derived}, derived from it" in again.err
    assert (derived.read_bytes(), again.out) == (measured, done.out)


def test_absent_device_names_the_profile_command(call, make_table, headed_space, data, tmp_path):
    make_table(headed_space, "gpu.lut", target=Target("cuda:77", "torch")).close()
    arguments = ("--lut", tmp_path / "gpu.lut", "--data", data, *SHORT, "--out", tmp_path / "runs" / "a")
    line = call("lgc-search", *arguments).refusal("lgc-search")
    assert f"{tmp_path / 'gpu.lut'} is for 3 classes, the dataset {data} has 11" in line
    assert "no device 'cuda:77' on this machine" in line
    derived = tmp_path / "runs" / "gpu-11classes.lut"
    command = f"lgc-profile --device cuda:77 --backend torch --precision fp32 --space {tmp_path / 'gpu.lut'} --input 32x32 --classes 11 --out {derived}"  # noqa: E501
    assert command in line
    assert line.endswith(f"then search with --lut {derived}")
    assert not (tmp_path / "runs").exists()


def test_one_process_measures_missing_entries(call, three_classes, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ("--lut", three_classes, "--data", data, *SHORT, "--out", tmp_path / "run")
    assert "in a single process: lgc-profile --device cpu" in call("lgc-search", *arguments).refusal("lgc-search")


def test_other_table_of_that_name_is_kept(call, three_classes, lut, data, tmp_path):
    copy(lut, tmp_path / "h-11classes.lut")
    arguments = ("--lut", three_classes, "--data", data, *SHORT, "--out", tmp_path / "run")
    message = call("lgc-search", *arguments).refusal("lgc-search")
    assert "h-11classes.lut is not derived from" in message
    assert "use it instead of" in message
