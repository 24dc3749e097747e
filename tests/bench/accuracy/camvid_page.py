"""Result, page and picture of the networks on CamVid: groups of trainings, latencies, peers won and lost."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgc.lut import Target
from lgc.profiler.backends import get_backend
from lgc.profiler.machine.environment import fingerprint

from ..common.results import page_header, result_path, stamp, write_result
from .camvid import DEFAULT_STRATEGY, LEVELS, PEERS, SIZES, SPACE, STRATEGIES
from .recipe_page import CONFIDENCE, estimate_mean
from .trainings import SPLITS, Setting

GAIN, SPEED, LOSS = 1.0, 1.3, 0.5
"""A peer is won by `GAIN` points of test mIoU, no slower; or by `SPEED` times the speed and at most `LOSS` less."""
TITLES = {"fast": "ours, latency of Fast-SCNN", "accurate": "ours, latency of DDRNet-23-slim"}
Row = dict[str, Any]


def write_camvid(setting: Setting, targets: Mapping[str, float], out: Path) -> None:
    """Write the result of everything that is finished in a work folder, its page and its picture."""
    from .camvid_plot import draw_front

    target = Target("cpu", "onnxruntime")
    trainings = [json.loads(path.read_text()) for path in sorted(setting.work.glob("*-seed-*.json"))]
    require_one_recipe(trainings)
    searches = {path.name: json.loads(_result_of(path).read_text()) for path in _list_searches(setting.work)}
    latencies = {f"{h}x{w}": read_latencies(setting.work / f"latency-{h}x{w}.json") for h, w in SIZES}
    result: Row = {
        "name": ["camvid", "x".join(map(str, setting.size))],
        **stamp(),
        "environment": fingerprint(target, get_backend(target.backend)),
        "settings": {**setting.list_settings(), "space": SPACE, "targets_ms": dict(targets)},
        "table": json.loads((setting.work / "table.json").read_text()),
        "levels": read_latencies(setting.work / "levels.json"),
        "trainings": trainings,
        "searches": searches,
        "latencies": latencies,
    }
    result["summary"] = summarise(trainings, searches, latencies, result["levels"])
    picture = result_path(out, result, target).with_suffix(".svg")
    write_result(out, result, target, render_page(result, picture.name))
    draw_front(result["summary"]["groups"], picture)


def require_one_recipe(trainings: Sequence[Row]) -> None:
    """Stop unless all trainings have the settings of the first one."""
    first = trainings[0]["settings"] if trainings else {}
    for row in trainings:
        if row["settings"] != first:
            changed = ", ".join(name for name in first if row["settings"].get(name) != first[name])
            sys.exit(f"{row['network']}, seed {row['seed']}, has a different {changed or 'recipe'}: train it again")


def _list_searches(work: Path) -> list[Path]:
    """Return the run folders of the finished searches."""
    return sorted(path for path in (work / "searches").glob("*") if _result_of(path).exists())


def _result_of(search: Path) -> Path:
    return search.parent.parent / f"{search.name}.json"


def read_latencies(path: Path) -> dict[str, Row]:
    """Return network -> latency in ms and its ratio to the first network, of a result of `lgc-bench`; empty without."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text())["results"]
    return {row["name"]: {key: row[key] for key in ("latency_ms", "parameters", "macs")} for row in rows}


def find_group(network: str) -> str:
    """Return the group of a network: a peer's name, or level and strategy of a search."""
    return network if network in PEERS else network.rpartition("-")[0]


def summarise(
    trainings: Sequence[Row],
    searches: Mapping[str, Row],
    latencies: Mapping[str, Mapping[str, Row]],
    levels: Mapping[str, Row],
) -> dict[str, Any]:
    """Return groups of trainings, and the comparisons of the groups.

    Args:
        trainings: all trainings.
        searches: search -> its result.
        latencies: size -> network -> its latency, measured last.
        levels: peer -> its latency, measured with the table.
    """
    groups: dict[str, Row] = {}
    for row in trainings:
        groups.setdefault(find_group(row["network"]), {"networks": {}})["networks"].setdefault(
            row["network"], []
        ).append(row)
    for name, group in groups.items():
        group |= _summarise_group(name, group.pop("networks"), searches, latencies)
    return {
        "groups": groups,
        "peers": {peer: compare_with_peer(groups, peer) for peer in PEERS if peer in groups},
        "random": _compare_with_random(groups),
        "strategies": {s: groups[f"fast-{s}"] for s in STRATEGIES if f"fast-{s}" in groups},
        "times": {level: _compare_times(groups, level) for level in LEVELS},
        "targets": _list_landings(searches, latencies, levels),
    }


def _summarise_group(
    name: str,
    networks: Mapping[str, Sequence[Row]],
    searches: Mapping[str, Row],
    latencies: Mapping[str, Mapping[str, Row]],
) -> Row:
    """Return scores of a group: of each network over its seeds, and of all.

    The units of an interval are what was drawn anew: the searches, or the seeds of a peer.
    """
    group: Row = {"name": name}
    for split in SPLITS:
        scores = {network: [row[split]["miou"] for row in rows] for network, rows in networks.items()}
        means = [statistics.mean(values) for values in scores.values()]
        units = means if len(means) > 1 else next(iter(scores.values()))
        group[split] = {"networks": scores, "units": units, **estimate_mean(units)}
    # Medians: a search or a training may have been paused.
    seconds = [row["train"]["seconds"] for rows in networks.values() for row in rows]
    group["train_seconds"] = statistics.median(seconds)
    found = [searches[network]["seconds"] for network in networks if network in searches]
    group["search_seconds"] = statistics.median(found) if found else None
    group["latency_ms"] = {
        size: statistics.mean(rows[network]["latency_ms"] for network in networks)
        for size, rows in latencies.items()
        if all(network in rows for network in networks)
    }
    return group


def compare(ours: Row, other: Row, deviation: float | None = None) -> Row:
    """Return the difference of two groups on test, with its 95 % interval by Welch's t.

    Args:
        ours: group.
        other: group.
        deviation: standard deviation of a group with a single unit; None for no interval then.
    """
    from scipy.stats import t

    parts = []
    for units in (ours["test"]["units"], other["test"]["units"]):
        if len(units) > 1:
            parts.append((statistics.variance(units) / len(units), len(units) - 1))
        elif deviation is not None:
            parts.append((deviation**2, 1))
    difference = ours["test"]["mean"] - other["test"]["mean"]
    if len(parts) < 2:
        return {"difference": difference, "low": None, "high": None}
    error = sum(variance for variance, _ in parts)
    freedom = error**2 / max(sum(variance**2 / degrees for variance, degrees in parts), 1e-12)
    half = float(t.ppf((1 + CONFIDENCE) / 2, max(freedom, 1.0))) * math.sqrt(error)
    return {"difference": difference, "low": difference - half, "high": difference + half}


def compare_with_peer(groups: Mapping[str, Row], peer: str) -> Row:
    """Return the comparison of our networks at each latency with a peer, and whether it is won or lost."""
    deviations = [statistics.stdev(groups[name]["test"]["units"]) for name in PEERS if _has_several(groups, name)]
    deviation = math.sqrt(statistics.mean(value**2 for value in deviations)) if deviations else None
    rows: dict[str, Row] = {}
    for level in LEVELS:
        ours = groups.get(f"{level}-{DEFAULT_STRATEGY}")
        if ours is None or not ours["latency_ms"] or not groups[peer]["latency_ms"]:
            continue
        speed = {size: groups[peer]["latency_ms"][size] / ms for size, ms in ours["latency_ms"].items()}
        row = {**compare(ours, groups[peer], deviation), "speed": speed}
        rows[level] = row | {"won": _is_won(row)}
    lost = all(row["difference"] < -LOSS and min(row["speed"].values()) < SPEED for row in rows.values())
    return {"levels": rows, "won": any(row["won"] for row in rows.values()), "lost": bool(rows) and lost}


def _has_several(groups: Mapping[str, Row], name: str) -> bool:
    return name in groups and len(groups[name]["test"]["units"]) > 1


def _is_won(row: Row) -> bool:
    """Return True if a peer is won, see `GAIN`."""
    slowest = min(row["speed"].values())
    low = -math.inf if row["low"] is None else row["low"]
    return (slowest >= 1 and row["difference"] >= GAIN and low > 0) or (slowest >= SPEED and low > -LOSS)


def _compare_with_random(groups: Mapping[str, Row]) -> Row | None:
    """Return the percentile of the searched networks among random ones of equal latency, and their difference."""
    ours, drawn = groups.get(f"fast-{DEFAULT_STRATEGY}"), groups.get("fast-drawn")
    if ours is None or drawn is None:
        return None
    values, ranked = drawn["test"]["units"], statistics.median(ours["test"]["units"])
    percentile = 100 * sum(value < ranked for value in values) / len(values)
    return {"networks": len(values), "percentile": percentile, **compare(ours, drawn)}


def _compare_times(groups: Mapping[str, Row], level: str) -> float | None:
    """Return the time of a search and of the training of its result, over that of training the peer of this latency."""
    ours, peer = groups.get(f"{level}-{DEFAULT_STRATEGY}"), groups.get(LEVELS[level])
    if ours is None or peer is None or ours["search_seconds"] is None:
        return None
    return float((ours["search_seconds"] + ours["train_seconds"]) / peer["train_seconds"])


def _list_landings(
    searches: Mapping[str, Row], latencies: Mapping[str, Mapping[str, Row]], levels: Mapping[str, Row]
) -> list[Row]:
    """Return target, and measurements by the search and at the end, of the searches for targets.

    The peers in `levels` were measured with the table; their median ratio is the machine's drift since then.
    """
    last = latencies.get("x".join(map(str, SIZES[0])), {})
    ratios = [last[peer]["latency_ms"] / row["latency_ms"] for peer, row in levels.items() if peer in last]
    drift = statistics.median(ratios) if ratios else 1.0
    return [
        {
            "target_ms": search["target_ms"],
            "search_ms": search["measured_ms"],
            "measured_ms": last[name]["latency_ms"] / drift,
        }
        for name, search in searches.items()
        if name.startswith("target-") and name in last
    ]


def render_page(result: Row, picture: str) -> str:
    """Return the page of a result."""
    settings, summary = result["settings"], result["summary"]
    size, epochs, batch = result["name"][-1], settings["epochs"], settings["batch"]
    lines = [
        *page_header(f"Networks on CamVid, {size}", result),
        "Written by `make bench-camvid DATA=DIR` (`tests/bench/accuracy/camvid.py`), on the images of CamVid, which "
        f"are not part of the repository: {epochs} epochs at {size}, batch {batch}, the default recipe of `lgc-train` "
        "for all, from random weights on a CPU. Peers have auxiliary classifiers where their papers do, with "
        "the recipe's weight; PIDNet-S is trained without its boundary losses, STDC1-Seg without its detail loss. "
        f"Commits of the trainings: {', '.join(sorted({row['commit'] for row in result['trainings']}))}. "
        "Networks are chosen on val and reported on test. Latencies are of ONNX "
        "Runtime on one thread, scope dense, all networks interleaved in one run. Intervals are 95 % (Student's t); "
        "their units are the searches, or the seeds of a peer. A peer with a single seed has none of its own: "
        "comparisons with it use the mean standard deviation of the other peers.",
        "",
        f"![Test mIoU against latency]({picture})",
        "",
        "## All networks",
        "",
        "| networks | trainings | val mIoU, % | test mIoU, % | interval | "
        + " | ".join(f"ms at {s}" for s in result["latencies"])
        + " |",
        "|" + " --- |" * (5 + len(result["latencies"])),
        *(_describe_group(group, list(result["latencies"])) for group in summary["groups"].values()),
        "",
        "## Against each peer",
        "",
        f"Won: at least {GAIN:g} more on test with the interval above 0, no slower at both sizes; or {SPEED:g} times "
        f"as fast with the interval above {-LOSS:g}. Lost: more than {LOSS:g} less at both latencies, and not "
        f"{SPEED:g} times as fast.",
        "",
        "| peer | latency of ours | difference on test | speed | result |",
        "|" + " --- |" * 5,
        *(line for peer, row in summary["peers"].items() for line in _describe_peer(peer, row)),
        "",
        *_describe_random(summary["random"]),
        *_describe_strategies(summary["strategies"], result["searches"]),
        *_describe_times(summary["times"]),
        *_describe_landings(summary["targets"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _describe_group(group: Row, sizes: Sequence[str]) -> str:
    test = group["test"]
    count = sum(len(values) for values in test["networks"].values())
    interval = "one training" if test["low"] is None else f"{test['low']:.1f} to {test['high']:.1f}"
    ms = [f"{group['latency_ms'][size]:.2f}" if size in group["latency_ms"] else "-" for size in sizes]
    networks = len(test["networks"])
    made = f"{networks} x {count // networks}" if networks > 1 else str(count)
    scores = f"{group['val']['mean']:.1f} | {test['mean']:.1f} | {interval}"
    return f"| {group['name']} | {made} | {scores} | {' | '.join(ms)} |"


def _describe_peer(peer: str, row: Row) -> list[str]:
    outcome = "won" if row["won"] else "lost" if row["lost"] else "neither"
    lines = []
    for level, own in row["levels"].items():
        interval = "" if own["low"] is None else f" ({own['low']:+.1f} to {own['high']:+.1f})"
        speed = ", ".join(f"{value:.2f}" for value in own["speed"].values())
        mark = "won" if own["won"] else "-"
        lines.append(f"| {peer} | {TITLES[level]} | {own['difference']:+.1f}{interval} | {speed} | {mark} |")
    return [*lines, f"| **{peer}** | | | | **{outcome}** |"]


def _describe_random(row: Row | None) -> list[str]:
    if row is None:
        return []
    return [
        "## Against random architectures",
        "",
        f"{row['networks']} random architectures of `{SPACE}` just below the target of the lower latency, one training "
        f"each, with the seeds in turn: the median search is at the {row['percentile']:.0f}th percentile; difference "
        f"on test {row['difference']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}).",
        "",
    ]


def _describe_strategies(strategies: Mapping[str, Row], searches: Mapping[str, Row]) -> list[str]:
    if len(strategies) < 2:
        return []
    return [
        "## Strategies at equal computation",
        "",
        "At the lower latency. Passes are forward passes of a batch that a strategy used, its gradients included.",
        "",
        "| strategy | val mIoU, % | test mIoU, % | of each search | passes | search, s |",
        "|" + " --- |" * 6,
        *(
            f"| {name} | {group['val']['mean']:.1f} | {group['test']['mean']:.1f} "
            f"| {', '.join(f'{value:.1f}' for value in group['test']['units'])} "
            f"| {statistics.mean(searches[network]['passes'] for network in group['test']['networks']):.0f} "
            f"| {group['search_seconds']:.0f} |"
            for name, group in strategies.items()
        ),
        "",
    ]


def _describe_times(times: Mapping[str, float | None]) -> list[str]:
    rows = [f"| {TITLES[level]} | {value:.1f} |" for level, value in times.items() if value is not None]
    if not rows:
        return []
    return [
        "## Time of a search",
        "",
        "A search and the training of its result, over the training of the peer of the same latency: medians of the "
        "elapsed times, one thread each. Jobs of the benchmark may have run on another core.",
        "",
        "| networks | times |",
        "|" + " --- |" * 2,
        *rows,
        "",
    ]


def _describe_landings(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    errors = [100 * (row["measured_ms"] / row["target_ms"] - 1) for row in rows]
    return [
        "## Results against targets",
        "",
        "Searches with `--measure`. Measured again at the end, interleaved, at the machine's speed of the table by the "
        f"peers that were measured then: mean {statistics.mean(errors):+.1f} %, largest {max(errors):+.1f} %.",
        "",
        "| target, ms | measured by the search | measured at the end | error |",
        "|" + " --- |" * 4,
        *(
            f"| {row['target_ms']:.3f} | {row['search_ms']:.3f} | {row['measured_ms']:.3f} | {error:+.1f} % |"
            for row, error in zip(rows, errors, strict=True)
        ),
        "",
    ]
