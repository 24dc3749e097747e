"""Pages of the latency benchmark."""

from __future__ import annotations

from typing import Any

from lgc.profiler.machine.environment import DEVICE_NAME

from ..common.results import page_header


def space_page(result: dict[str, Any]) -> str:
    """Return the page of a space on a target."""
    lines = [
        *page_header(f"{' '.join(result['name'])} on {result['target']}", result),
        f"Table of {result['entries']} entries ({result['noisy']} noisy), profiled and verified in "
        f"{result['profile_seconds']:.0f} s. Context {result['protocol']['context']}, correction "
        f"{result['calibration']['dense']['form']}.{_describe_range(result.get('range_ms'))}",
        "",
        *_accuracy(result),
        *_describe_remainder(result.get("remainder")),
        *_conventional(result),
        *_rates(result),
        *_repeatability(result.get("repeatability")),
        *_interpolation(result.get("interpolation")),
        *_exports(result.get("exports")),
        *_help(result.get("help_seconds")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _describe_range(range_ms: list[float] | None) -> str:
    return "" if range_ms is None else f" Its architectures take {range_ms[0]:.2f} to {range_ms[1]:.2f} ms."


def _accuracy(result: dict[str, Any]) -> list[str]:
    held_out, unseen = result["held_out"], result["verify"]
    lines = [
        "| prediction of networks | held out while profiling | unseen networks |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {name} | {held_out[name]:.4g} | {unseen[name]:.4g} |" for name in held_out]
    covered = unseen["inside_90_pct_interval_pct"]
    return [
        *lines,
        "",
        f"Drift between table and verification: {unseen['drift_pct']:+.1f} %. Networks within the "
        f"90 % prediction interval: {covered:.0f} %.",
        "",
    ]


def _describe_remainder(remainder: dict[str, Any] | None) -> list[str]:
    if remainder is None:
        return []
    return [
        f"Standard deviation of the measurement noise of unseen networks: {remainder['noise_pct']:.2f} %; of the error "
        f"that both halves of the measurement share: {remainder['repeatable_pct']:.2f} %. Factors for kinds of "
        "operators, fitted to all unseen networks but the predicted one, leave a MAPE of "
        f"{remainder['kinds_mape_pct']:.2f} %. With further features, whose penalty is chosen without that network:",
        "",
        "| added to kinds of operators | features | change of the MAPE, % | standard error |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {row['features']} | {row['change_pct']:+.2f} | {row['standard_error_pct']:.2f} |"
            for name, row in remainder["added"].items()
        ),
        "",
    ]


def _conventional(result: dict[str, Any]) -> list[str]:
    conventional, ours = result["usual_table"], result["verify"]["mape_pct"]
    return [
        f"A conventional table (isolated operators in sequence, means, summed) on the same networks: MAPE "
        f"{conventional['mape_pct']:.1f} %, {conventional['mape_pct'] / ours:.1f} times that of lgc; with the best "
        f"common factor {conventional['mape_at_its_best_scale_pct']:.1f} %; with lgc's correction "
        f"{conventional['mape_with_our_correction_pct']:.1f} %.",
        "",
    ]


def ablation_page(result: dict[str, Any]) -> str:
    """Return the page of the ablation of the protocol."""
    environment = result["environment"]
    lines = [
        f"# Ablation of the protocol: {' '.join(result['name'])} on {result['target']}",
        "",
        f"Commit {result['commit']}, {result['date']}, {environment[DEVICE_NAME]}, {environment['system']}.",
        "",
        "Each row is a separate table with its own correction; the networks are the same.",
        "`warm`: a graph runs several times in a row; `cold`: once, after a different graph.",
        "",
        "| operators | runs | plain sum, MAPE % | held out: MAPE % | max % | tau | split half: MAPE % | tau |",
        "|" + " --- |" * 8,
    ]
    for row in result["rows"]:
        held_out = row["held_out"]
        lines.append(
            f"| {row['context']} | {row['runs']} | {row['plain_mape_pct']:.1f} | {held_out['mape_pct']:.2f} "
            f"| {held_out['worst_pct']:.1f} | {held_out['kendall_tau']:.3f} | {held_out['ceiling_mape_pct']:.2f} "
            f"| {held_out['ceiling_kendall_tau']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _rates(result: dict[str, Any]) -> list[str]:
    rates = result["predictions"]
    lines = [f"| architectures per second, one core, {rates['edges']} edges | |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {rate:,.0f} |" for name, rate in rates["per_second"].items()), ""]


def _repeatability(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return []
    return [
        f"Two consecutive tables, normalised by common benchmarks, {result['entries']} entries above 1 % of a "
        f"network: median difference {result['median_difference_pct']:.1f} %, 95th percentile "
        f"{result['p95_difference_pct']:.1f} % (drift {result['drift_pct']:+.1f} %).",
        "",
    ]


def _interpolation(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return []
    return [
        f"Interpolation, leaving one resolution out, input sizes scaled by {', '.join(map(str, result['scales']))}: "
        f"{result['estimated']} of {result['measured']} entries, median error {result['median_error_pct']:.1f} %, "
        f"90th percentile {result['p90_error_pct']:.1f} %.",
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
