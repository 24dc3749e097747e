"""A benchmark's result as a page to read."""

from __future__ import annotations

from typing import Any

from lgc.profiler.machine.environment import DEVICE_NAME


def head(title: str, result: dict[str, Any]) -> list[str]:
    """Title, and the line that says where and with what a result was made."""
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return [
        f"# {title}",
        "",
        f"Commit {result['commit']}, {result['date']}, {environment[DEVICE_NAME]}, {environment['system']}, "
        f"{versions}, lgc {environment['lgc']}, Python {environment['python']}.",
        "",
    ]


def markdown(result: dict[str, Any]) -> str:
    """The page of one space on one target."""
    lines = [
        *head(f"{' '.join(result['name'])} on {result['target']}", result),
        f"Table of {result['entries']} entries ({result['noisy']} noisy) from nothing, verified: "
        f"{result['profile_seconds']:.0f} s. Context {result['protocol']['context']}, correction "
        f"{result['calibration']['dense']['form']}.",
        "",
        *_accuracy(result),
        *_usual(result),
        *_rates(result),
        *_repeatability(result.get("repeatability")),
        *_interpolation(result.get("interpolation")),
        *_exports(result.get("exports")),
        *_help(result.get("help_seconds")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _accuracy(result: dict[str, Any]) -> list[str]:
    held, anew = result["held_out"], result["verify"]
    lines = [
        "| prediction of whole networks | held out while profiling | anew, unseen networks |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {held[name]:.4g} | {anew[name]:.4g} |" for name in held]
    inside = anew["inside_90_pct_interval_pct"]
    return [
        *lines,
        "",
        f"Drift of the machine between table and verification: {anew['drift_pct']:+.1f} %. Networks inside the "
        f"prediction's 90 % interval: {inside:.0f} %.",
        "",
    ]


def _usual(result: dict[str, Any]) -> list[str]:
    usual, ours = result["usual_table"], result["verify"]["mape_pct"]
    return [
        f"The usual table (operators alone, one after another, means, summed) on the same networks: MAPE "
        f"{usual['mape_pct']:.1f} %, {usual['mape_pct'] / ours:.1f} times ours; multiplied by the factor that suits it "
        f"best {usual['mape_at_its_best_scale_pct']:.1f} %; with our correction fitted to it "
        f"{usual['mape_with_our_correction_pct']:.1f} %.",
        "",
    ]


def ablation_page(result: dict[str, Any]) -> str:
    """The page that tells what each part of the protocol gains."""
    environment = result["environment"]
    lines = [
        f"# What the protocol gains: {' '.join(result['name'])} on {result['target']}",
        "",
        f"Commit {result['commit']}, {result['date']}, {environment[DEVICE_NAME]}, {environment['system']}.",
        "",
        "Each row is a table of its own, from nothing, with the same networks; corrections are fitted to each alike.",
        "`warm`: a graph is run several times in a row, `cold`: once, between others.",
        "",
        "| operators | runs | plain sum, MAPE % | held out, MAPE % | worst % | tau | ceiling MAPE % | its tau |",
        "|" + " --- |" * 8,
    ]
    for row in result["rows"]:
        held = row["held_out"]
        lines.append(
            f"| {row['context']} | {row['runs']} | {row['plain_mape_pct']:.1f} | {held['mape_pct']:.2f} "
            f"| {held['worst_pct']:.1f} | {held['kendall_tau']:.3f} | {held['ceiling_mape_pct']:.2f} "
            f"| {held['ceiling_kendall_tau']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _rates(result: dict[str, Any]) -> list[str]:
    found = result["predictions"]
    lines = [f"| architectures a second, one core, {found['edges']} edges | |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {rate:,.0f} |" for name, rate in found["per_second"].items()), ""]


def _repeatability(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"Two tables one after the other, normalised by their sentinels, {found['entries']} entries above 1 % of a "
        f"network: median difference {found['median_difference_pct']:.1f} %, 95 % within "
        f"{found['p95_difference_pct']:.1f} % (drift {found['drift_pct']:+.1f} %).",
        "",
    ]


def _interpolation(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"Interpolation, leave one resolution out, input sizes times {', '.join(map(str, found['scales']))}: "
        f"{found['estimated']} of {found['measured']} entries, median error {found['median_error_pct']:.1f} %, "
        f"90 % within {found['p90_error_pct']:.1f} %.",
        "",
    ]


def _exports(rows: list[dict[str, float]] | None) -> list[str]:
    if rows is None:
        return []
    lines = ["| exported network | predicted ms | measured ms | error % | drift % | max diff |", "|" + " --- |" * 6]
    for index, row in enumerate(rows):
        lines.append(
            f"| {index} | {row['predicted_ms']:.3f} | {row['measured_ms']:.3f} | {row['error_pct']:+.1f} "
            f"| {row['drift_pct']:+.1f} | {row['max_abs_diff']:.1e} |"
        )
    return [*lines, ""]


def _help(seconds: dict[str, float] | None) -> list[str]:
    if seconds is None:
        return []
    return ["| `--help` | seconds |", "| --- | --- |", *(f"| {name} | {s:.2f} |" for name, s in seconds.items())]
