"""Page of the deployment benchmark."""

from __future__ import annotations

from typing import Any

from ..common.results import describe_parts, page_header


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result; parts that it lacks are omitted."""
    lines = [
        *page_header(f"Deployment, {' '.join(result['name'][1:])}", result),
        f"Written by `make bench-deployment`; {describe_parts(result['made'])}. ONNX Runtime on a CPU, one thread, "
        "fp32, scope dense, unless stated otherwise.",
        "",
        *_predicted(result.get("predicted")),
        *_clock(result.get("clock")),
        *_outputs(result.get("outputs")),
        *_ahead(result.get("ahead")),
        *_peers(result.get("peers")),
        *_comparison(result.get("contest")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _predicted(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    report, table = part["report"], part["table"]
    rows = [
        f"| {index} | {row['predicted_ms']:.3f} | {row['measured_ms']:.3f} | {row['error_pct']:+.2f} | {row['runs']} |"
        for index, row in enumerate(part["rows"])
    ]
    return [
        "## Predicted and measured latency",
        "",
        f"{len(rows)} random architectures that are not in the table, exported and timed: MAPE "
        f"{report['mape_pct']:.2f} % (split half: {report['ceiling_mape_pct']:.2f} %), bias "
        f"{report['bias_pct']:+.2f} %, maximum {report['worst_pct']:.2f} %, Kendall tau {report['kendall_tau']:.3f} "
        f"(split half: {report['ceiling_kendall_tau']:.3f}). The table's 90 % prediction interval is "
        f"±{part['interval_pct']:.1f} %; it has {table['entries']} entries ({table['noisy']} noisy) and took "
        f"{table['seconds']:.0f} s. The drift since then, by reference networks of the table, is "
        f"{part['drift_pct']:+.1f} %.",
        "",
        "| network | predicted ms | measured ms | error % | runs |",
        "|" + " --- |" * 5,
        *rows,
        "",
    ]


def _clock(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {row['ours_ms']:.3f} | {row['ratio']:.4f} | {row['ratio_q25']:.4f} to {row['ratio_q75']:.4f} |"
        for row in part["rows"]
    ]
    return [
        "## Timing against a bare loop",
        "",
        f"lgc's timing and a bare loop over ONNX Runtime's call, alternately, with the same session and buffers: "
        f"{part['rounds']} rounds of {part['runs_a_round']} runs each.",
        "",
        "| run, ms | lgc / bare loop, median of rounds | quartiles |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]


def _outputs(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {row['network']} | {row['precision']} | {row['source']} | {row['max_abs_diff']:.1e} "
        f"| {row['mean_abs_diff']:.1e} | {row['argmax_agreement_pct']:.3f} |"
        for row in part["rows"]
    ]
    return [
        "## Outputs compared with torch",
        "",
        f"{part['networks']} architectures of preset tiny, trained {part['steps']} steps on generated scenes; their "
        f"files at each precision under ONNX Runtime's CPU provider, compared with the unfolded network in torch, "
        f"fp32. int8 is calibrated on {part['calibration_images']} training images. The comparison uses "
        f"{part['images']} validation images and random pixels.",
        "",
        "| network | precision | images | max difference of logits | mean | pixels with the same class, % |",
        "|" + " --- |" * 6,
        *rows,
        "",
    ]


def _ahead(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    rows = [row for row in part["rows"] if "refused" not in row]
    names, precisions = ({row[key]: None for row in part["rows"]} for key in ("name", "precision"))
    layers, seconds = ([row[key] for row in rows] for key in ("layers", "seconds"))
    lines = [
        "## Engines built ahead of time",
        "",
        f"{part['library']}, without a GPU, for compute capability 8.9: {part['built']} of {len(part['rows'])} "
        f"builds (every preset and {len(names) - 3} random architectures, {', '.join(precisions)}) succeeded; "
        f"{min(layers)} to {max(layers)} layers, {min(seconds):.1f} to {max(seconds):.1f} s each. "
        "An engine contains the whole network.",
        "",
    ]
    refused = [f"- {row['name']}, {row['precision']}: {row['refused']}" for row in part["rows"] if "refused" in row]
    return [*lines, *refused, *([""] if refused else [])]


def _peers(part: list[dict[str, Any]] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {row['title']} | {_against(row['published_parameters'], row['parameters'], 1e6)} "
        f"| {'x'.join(map(str, row['size']))} | {_against(row['published_macs'], row['macs'], 1e9)} "
        f"| {row['counted']} |"
        for row in part
    ]
    return [
        "## Peers",
        "",
        "Counted as in the publications (sources: docs/peers.md).",
        "",
        "| network | parameters in M: published | lgc | input | MACs in G: published | lgc | counted |",
        "|" + " --- |" * 7,
        *rows,
        "",
    ]


def _against(published: float | None, ours: float, unit: float) -> str:
    """Return two cells: the published number, and lgc's with the difference."""
    if published is None:
        return f"- | {ours / unit:.3f}"
    return f"{published / unit:.3f} | {ours / unit:.3f} ({100 * (ours / published - 1):+.2f} %)"


def _comparison(part: list[dict[str, Any]] | None) -> list[str]:
    if part is None:
        return []
    rows = [
        f"| {row['name']} | {row['parameters'] / 1e6:.2f} | {row['macs'] / 1e9:.2f} | {row['relative']:.2f} "
        f"| {row['fps']:.1f} | {row['argmax_agreement_pct']:.2f} |"
        for row in part
    ]
    return [
        "## Comparison of networks",
        "",
        f"`lgc-bench` at {part[0]['input']}, random weights, in random order. Compare the ratios; the "
        "absolute rates depend on the CPU.",
        "",
        "| network | parameters, M | GMACs | latency / fastest | FPS | pixels with torch's class, % |",
        "|" + " --- |" * 6,
        *rows,
        "",
    ]
