"""Benchmarks of accuracy: their statistics, pages and work folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lgc.models.geometry import Geometry
from lgc.models.nets.peers import PEERS

from ..common import trees
from . import ablations, camvid, camvid_page, camvid_plot, forms, geometry, recipe, recipe_page, trainings
from .trainings import SPLITS


def test_interval_of_three_seeds():
    estimate = recipe_page.estimate_mean([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # Student's t, 2 degrees of freedom
    assert estimate == pytest.approx({"mean": 2.0, "low": 2 - half, "high": 2 + half}, rel=1e-6)
    assert recipe_page.estimate_mean([1.5]) == {"mean": 1.5, "low": None, "high": None}


def test_differences_are_paired_by_seed():
    def row(name: str, seed: int, miou: float) -> dict[str, object]:
        scores = {"miou": miou, "pixel_accuracy": 80.0}
        return {"recipe": name, "network": "net", "seed": seed, "val": scores, "test": scores}

    trainings = [row("baseline", 0, 30.0), row("baseline", 1, 40.0), row("default", 1, 42.0), row("default", 0, 31.0)]
    summary = recipe_page.summarise(trainings)["net"]
    assert summary["default"]["test_miou"]["difference"]["mean"] == 1.5
    assert "difference" not in summary["baseline"]["test_miou"]
    rows = recipe_page._table("test", {"net": summary})
    assert "| net | default | 42.00, 31.00 | 36.50 | +1.50 (-4.85 to +7.85) | 80.00 | +0.00 (+0.00 to +0.00) |" in rows


def test_missing_data_is_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("sys.argv", ["recipe", "--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match="pass its folder with --data"):
        recipe.main()
    assert not (tmp_path / "work").exists()


def test_geometries_are_paired_by_seed():
    case = next(iter(geometry.CASES))
    scores = {(1, 0): 30.0, (1, 1): 32.0, (2, 0): 33.0, (2, 1): 37.0, (1, 2): 99.0}
    trainings = [
        {"case": case, "geometry": own, "seed": seed, **{split: {"miou": value} for split in SPLITS}}
        for (own, seed), value in scores.items()
    ]
    row = geometry.summarise(trainings)[case]
    assert row["seeds"] == [0, 1]
    assert (row["test"]["1"], row["test"]["2"]) == ([30.0, 32.0], [33.0, 37.0])
    assert row["test"]["difference"]["mean"] == 4.0


def test_upsampling_of_both_geometries_runs():
    for own in Geometry:
        assert geometry.make_graph(2, 4, (30, 48), own)() > 0


def test_another_recipe_needs_a_commit():
    assert recipe.read_recipes([], ["adamw=HEAD --lr 1e-3"]) == {"adamw": ("HEAD", ("--lr", "1e-3"))}
    with pytest.raises(SystemExit, match="NAME=COMMIT"):
        recipe.read_recipes([], ["adamw"])


def test_changed_settings_are_refused(tmp_path: Path):
    trainings.keep(tmp_path / "settings.json", {"epochs": 30})
    trainings.keep(tmp_path / "settings.json", {"epochs": 30})
    with pytest.raises(SystemExit, match="choose another --work"):
        trainings.keep(tmp_path / "settings.json", {"epochs": 29})


def test_trainings_of_a_result_are_taken_over(tmp_path: Path):
    setting = trainings.Setting(tmp_path, tmp_path / "work", (192, 256), 8, 30, 1, trees.REPOSITORY)
    row = {"recipe": "sgd", "network": "fast-scnn", "seed": 1, "test": {"miou": 40.0}}
    result = {"settings": setting.list_settings(), "recipes": {"sgd": {"commit": "a1", "options": []}}}
    recipe.take_over({**result, "trainings": [row]}, setting)
    training = recipe.Training("sgd", "fast-scnn", 1)
    assert json.loads((setting.work / f"{training.name}.json").read_text()) == row
    assert recipe.run_training(training, setting).endswith("finished before")
    with pytest.raises(SystemExit, match="choose another --work"):
        recipe.take_over({**result, "settings": {"epochs": 29}, "trainings": []}, setting)


def test_gradient_norms_are_described(tmp_path: Path):
    lines = [json.dumps({"step": step, "gradient_norm": float(step + 1)}) for step in range(200)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    norms = trainings.describe_norms(tmp_path / "train.jsonl")
    assert norms == {"median": 100.5, "p99": 198.0, "max": 200.0}
    row = {"network": "net", "recipe": "sgd", "gradient_norm": norms}
    assert recipe_page._list_norms([row, row])[-2] == "| net | sgd | 100.5 | 198.0 | 200.0 |"
    (tmp_path / "train.jsonl").write_text('{"step": 0}\n')
    assert trainings.describe_norms(tmp_path / "train.jsonl") is None


def test_locked_training_is_left_alone(tmp_path: Path):
    with trainings.lock(tmp_path / "a.lock") as held:
        assert held is not None
        with trainings.lock(tmp_path / "a.lock") as second:
            assert second is None


@pytest.mark.parametrize("build", [forms.build_separable, forms.build_residual])
def test_forms_have_two_auxiliary_outputs(build):
    network, images = build(11), torch.zeros(2, 3, 64, 96)
    shapes = {name: tuple(logits.shape) for name, logits in network(images).items()}
    assert shapes == {"out": (2, 11, 8, 12), "aux_16": (2, 11, 4, 6), "aux_32": (2, 11, 2, 3)}
    assert network.eval()(images).shape == (2, 11, 8, 12)


def make_training(network: str, seed: int, test: float) -> dict[str, object]:
    scores = {"miou": test}
    seconds = 900.0 if (network, seed) == (f"fast-{camvid.DEFAULT_STRATEGY}-0", 1) else 100.0  # it was paused
    return {"network": network, "seed": seed, "train": {"seconds": seconds}, "val": {"miou": test + 10}, "test": scores}


@pytest.fixture
def camvid_summary() -> dict[str, dict[str, object]]:
    """Two searches of two seeds that win Fast-SCNN by points, PIDNet-S by speed, and lose against DDRNet-23-slim."""
    scores = {
        "fast-scnn": (40.0, 40.2),
        "ddrnet-23-slim": (43.9, 44.1),
        "pidnet-s": (42.0, 42.2),
        "stdc1-seg": (42.9,),
        f"fast-{camvid.DEFAULT_STRATEGY}-0": (42.1, 42.3),
        f"fast-{camvid.DEFAULT_STRATEGY}-1": (42.3, 42.5),
        "fast-random-0": (41.0, 41.2),
        **{f"fast-drawn-{number}": (40.0 + number / 5,) for number in range(16)},
    }
    trainings = [
        make_training(name, seed, value) for name, values in scores.items() for seed, value in enumerate(values)
    ]
    searches = {
        name: {"seconds": 150.0, "passes": 900} for name in scores if name[-1].isdigit() and "drawn" not in name
    }
    searches["target-0"] = {"target_ms": 2.0, "measured_ms": 1.98, "seconds": 9.0}
    ms = {"fast-scnn": 2.0, "ddrnet-23-slim": 1.9, "pidnet-s": 9.0, "stdc1-seg": 1.0, "target-0": 2.45}
    rows = {name: {"latency_ms": ms.get(name, 1.95)} for name in (*scores, "target-0")}
    levels = {"fast-scnn": {"latency_ms": 1.6}}  # the machine is slower by a quarter since
    return camvid_page.summarise(trainings, searches, {"192x256": rows, "384x512": rows}, levels)


def test_units_are_searches_or_seeds(camvid_summary):
    ours = camvid_summary["groups"][f"fast-{camvid.DEFAULT_STRATEGY}"]
    assert ours["test"]["units"] == pytest.approx([42.2, 42.4])
    assert ours["test"]["mean"] == pytest.approx(42.3)
    assert camvid_summary["groups"]["fast-scnn"]["test"]["units"] == [40.0, 40.2]
    assert ours["latency_ms"] == {"192x256": 1.95, "384x512": 1.95}


def test_peers_are_won_by_points_or_by_speed(camvid_summary):
    peers = camvid_summary["peers"]
    assert {peer: (row["won"], row["lost"]) for peer, row in peers.items()} == {
        "fast-scnn": (True, False),
        "ddrnet-23-slim": (False, True),
        "pidnet-s": (True, False),
        "stdc1-seg": (False, True),
    }
    row = peers["fast-scnn"]["levels"]["fast"]
    # Welch: variances 0.02 of two units each, so the error is 0.1414 and the freedom 2.
    assert row["difference"] == pytest.approx(2.2)
    assert row["high"] - row["difference"] == pytest.approx(4.302653 * 0.02**0.5, rel=1e-5)
    assert peers["stdc1-seg"]["levels"]["fast"]["low"] is not None  # by the deviation of the others


def test_searched_networks_are_placed_among_random_ones(camvid_summary):
    assert camvid_summary["random"]["percentile"] == 75.0
    assert camvid_summary["times"]["fast"] == pytest.approx(2.5)


def test_page_and_picture_of_camvid(camvid_summary, tmp_path: Path):
    environment = {"device_name": "cpu", "system": "s", "versions": {}, "lgc": "0", "python": "3"}
    result = {
        "name": ["camvid", "192x256"],
        "commit": "abc",
        "date": "today",
        "environment": environment,
        "settings": {"epochs": 30, "batch": 8},
        "latencies": {"192x256": {}, "384x512": {}},
        "trainings": [{"commit": "abc"}, {"commit": "def"}, {"commit": "abc"}],
        "summary": camvid_summary,
        "searches": {
            name: {"passes": 900} for name in ("fast-random-0", *(f"fast-{camvid.DEFAULT_STRATEGY}-{n}" for n in "01"))
        },
    }
    page = camvid_page.render_page(result, "front.svg")
    assert "| fast-scnn | ours, latency of Fast-SCNN | +2.2 (+1.6 to +2.8) | 1.03, 1.03 | won |" in page
    assert "Commits of the trainings: abc, def." in page
    assert "| 2.000 | 1.980 | 1.960 | -2.0 % |" in page
    camvid_plot.draw_front(camvid_summary["groups"], tmp_path / "front.svg")
    first = (tmp_path / "front.svg").read_bytes()
    camvid_plot.draw_front(camvid_summary["groups"], tmp_path / "front.svg")
    assert first == (tmp_path / "front.svg").read_bytes()


def test_trainings_of_different_recipes_are_not_mixed():
    rows = [{"network": name, "seed": 0, "settings": {"lr": 0.004, "aux_heads": 2}} for name in ("a", "b")]
    camvid_page.require_one_recipe(rows)
    rows[1]["settings"] = {"lr": 0.004, "aux_heads": 1}
    with pytest.raises(SystemExit, match="b, seed 0, has a different aux_heads: train it again"):
        camvid_page.require_one_recipe(rows)


def test_peers_have_their_names_on_the_command_line():
    assert set(camvid.PEERS) == set(PEERS)
    assert set(camvid.LEVELS.values()) <= set(PEERS)


def test_ablations_are_compared_with_the_whole():
    scores = {
        "fast-whole-0": (44.0,),
        "fast-whole-1": (44.4,),
        "fast-no-trials-0": (43.0,),
        "fast-no-trials-1": (43.4,),
    }
    trainings = [
        make_training(name, seed, value) for name, values in scores.items() for seed, value in enumerate(values)
    ]
    groups = camvid_page.summarise(trainings, {}, {}, {})["groups"]
    environment = {"device_name": "cpu", "system": "s", "versions": {}, "lgc": "0", "python": "3"}
    page = ablations.render_page(
        {
            "name": ["ablations", "camvid", "192x256"],
            "commit": "abc",
            "date": "today",
            "environment": environment,
            "settings": {"epochs": 30, "space": "rapid", "target_ms": 2.4},
            "groups": groups,
        }
    )
    assert "| whole | - | 44.0, 44.4 | 54.2 | 44.2 |  |" in page
    assert "| no-trials | --trials 0 | 43.0, 43.4 | 53.2 | 43.2 | -1.0 (-2.2 to +0.2) |" in page


def test_searches_come_before_their_trainings(tmp_path: Path):
    setting = trainings.Setting(tmp_path, tmp_path, (192, 256), 8, 30, 1, trees.REPOSITORY)
    bench = camvid.Bench(setting, tmp_path, "abc", tmp_path / "rapid.lut", {"fast": 2.4, "accurate": 8.0})
    stages = list(camvid.list_stages("ours", bench))
    for level, searched, trained in zip(("fast", "accurate"), stages[::2], stages[1::2], strict=True):
        names = [f"{level}-{camvid.DEFAULT_STRATEGY}-{number}" for number in range(3)]
        assert [job.name for job in searched] == names
        assert all(job.measures for job in searched)
        assert [job.name for job in trained] == [f"{name}-seed-{seed}" for seed in range(3) for name in names]
    (peers,) = camvid.list_stages("peers", bench)
    assert len(peers) == sum(camvid.PEERS.values())
