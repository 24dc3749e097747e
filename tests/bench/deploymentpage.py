"""The deployment benchmark's result as a page to read."""

from __future__ import annotations

from typing import Any

from parts import told

from report import head


def page(result: dict[str, Any]) -> str:
    lines = [
        *head(f"Deployment, {' '.join(result['name'][1:])}", result),
        f"Written by `make bench-deployment`; {told(result['made'])}. ONNX Runtime on a CPU, one thread, fp32, scope "
        "dense, where nothing else is said.",
        "",
        *_predicted(result.get("predicted")),
        *_clock(result.get("clock")),
        *_outputs(result.get("outputs")),
        *_ahead(result.get("ahead")),
        *_peers(result.get("peers")),
        *_contest(result.get("contest")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _predicted(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    report, table = found["report"], found["table"]
    rows = [
        f"| {index} | {row['predicted_ms']:.3f} | {row['measured_ms']:.3f} | {row['error_pct']:+.2f} | {row['runs']} |"
        for index, row in enumerate(found["rows"])
    ]
    return [
        "## Predicted against measured",
        "",
        f"{len(rows)} random architectures that the table has not seen, exported, and their files timed: MAPE "
        f"{report['mape_pct']:.2f} % (the same networks measured twice: {report['ceiling_mape_pct']:.2f} %), bias "
        f"{report['bias_pct']:+.2f} %, worst {report['worst_pct']:.2f} %, Kendall tau {report['kendall_tau']:.3f} "
        f"(twice: {report['ceiling_kendall_tau']:.3f}). The table's own 90 % interval is "
        f"±{found['interval_pct']:.1f} %; it has {table['entries']} entries ({table['noisy']} noisy) and took "
        f"{table['seconds']:.0f} s. Since then the machine had become {found['drift_pct']:+.1f} % slower, which "
        "networks of the table, measured beside, tell.",
        "",
        "| network | predicted ms | measured ms | error % | runs |",
        "|" + " --- |" * 5,
        *rows,
        "",
    ]


def _clock(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {row['ours_ms']:.3f} | {row['ratio']:.4f} | {row['ratio_q25']:.4f} to {row['ratio_q75']:.4f} |"
        for row in found["rows"]
    ]
    return [
        "## Our clock against a bare loop",
        "",
        f"The same session with the same bound buffers, in turn with a bare loop over ONNX Runtime's own call: "
        f"{found['rounds']} rounds of {found['runs_a_round']} runs each way.",
        "",
        "| a run, ms | ours / bare, median of rounds | quartiles |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]


def _outputs(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {row['network']} | {row['precision']} | {row['source']} | {row['max_abs_diff']:.1e} "
        f"| {row['mean_abs_diff']:.1e} | {row['argmax_agreement_pct']:.3f} |"
        for row in found["rows"]
    ]
    return [
        "## Outputs against torch",
        "",
        f"{found['networks']} architectures of preset tiny, trained {found['steps']} steps on generated scenes; their "
        f"files at each precision under ONNX Runtime's CPU provider against torch in fp32, nothing folded. int8 takes "
        f"its ranges from {found['calibration_images']} training images; compared is on {found['images']} validation "
        "images, and on random pixels.",
        "",
        "| network | precision | images | max difference of logits | mean | pixels of the same class, % |",
        "|" + " --- |" * 6,
        *rows,
        "",
    ]


def _ahead(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rows = [row for row in found["rows"] if "refused" not in row]
    names, precisions = ({row[key]: None for row in found["rows"]} for key in ("name", "precision"))
    layers, seconds = ([row[key] for row in rows] for key in ("layers", "seconds"))
    lines = [
        "## Engines built ahead of time",
        "",
        f"{found['library']}, without a GPU, for compute capability 8.9: {found['built']} of {len(found['rows'])} "
        f"builds (every preset and {len(names) - 3} random architectures, {', '.join(precisions)}) went through; "
        f"{min(layers)} to {max(layers)} layers, {min(seconds):.1f} to {max(seconds):.1f} s each. An engine holds the "
        "whole network: there is nothing that it could fall back to.",
        "",
    ]
    refused = [f"- {row['name']}, {row['precision']}: {row['refused']}" for row in found["rows"] if "refused" in row]
    return [*lines, *refused, *([""] if refused else [])]


def _peers(found: list[dict[str, Any]] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {row['title']} | {_against(row['published_parameters'], row['parameters'], 1e6)} "
        f"| {'x'.join(map(str, row['size']))} | {_against(row['published_macs'], row['macs'], 1e9)} "
        f"| {row['counted']} |"
        for row in found
    ]
    return [
        "## Peers",
        "",
        "Counted as the publications count (docs/peers.md has their sources).",
        "",
        "| network | parameters published, M | ours | input | MACs published, G | ours | what is counted |",
        "|" + " --- |" * 7,
        *rows,
        "",
    ]


def _against(published: float | None, ours: float, unit: float) -> str:
    """Two cells: what is published, and ours with the difference."""
    if published is None:
        return f"- | {ours / unit:.3f}"
    return f"{published / unit:.3f} | {ours / unit:.3f} ({100 * (ours / published - 1):+.2f} %)"


def _contest(found: list[dict[str, Any]] | None) -> list[str]:
    if found is None:
        return []
    rows = [
        f"| {row['name']} | {row['parameters'] / 1e6:.2f} | {row['macs'] / 1e9:.2f} | {row['relative']:.2f} "
        f"| {row['fps']:.1f} | {row['argmax_agreement_pct']:.2f} |"
        for row in found
    ]
    return [
        "## Side by side",
        "",
        f"`lgc-bench` at {found[0]['input']}, random weights, interleaved in random order; compare the ratios, the "
        "absolute rates are this CPU's.",
        "",
        "| network | parameters, M | GMACs | times the fastest | FPS | pixels of torch's class, % |",
        "|" + " --- |" * 6,
        *rows,
        "",
    ]
