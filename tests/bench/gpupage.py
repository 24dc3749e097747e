"""The result of one backend at one precision on a GPU, as a page to read."""

from __future__ import annotations

from typing import Any

from report import head


def page(result: dict[str, Any]) -> str:
    lines = [
        *head(f"Deployment, {' '.join(result['name'][1:])} on {result['target']}", result),
        f"Written by tests/bench/gpudeployment.py (`make gpu-check`): one random architecture of the preset's middle, "
        f"random weights, batch 1, {result['seconds']:g} s for each scope, outputs against torch in fp32 on noise."
        f"{_calibration(result.get('calibration_images'))}",
        "",
        *([f"Refused: {result['refused']}", ""] if "refused" in result else []),
        *_gpu(result["environment"].get("gpu")),
        *_scopes(result["scopes"]),
        *_engines(result["scopes"]),
        *_turns("Our clock against a bare loop", CLOCK, result.get("clock")),
        *_turns("Beside trtexec", TRTEXEC, result.get("trtexec")),
        *_left_out(result),
    ]
    return "\n".join(lines).rstrip() + "\n"


CLOCK = (
    "The mean of our timing and the host's time of a bare loop over the same program, in turn; on a GPU the loop "
    "launches {runs_a_round} runs and waits once."
)
TRTEXEC = (
    "The same engine file, scope dense, in turn: medians of our runs and of trtexec's GPU Compute Time (`{command}`, "
    "version {version})."
)


def _gpu(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    names = ("driver", "sm_clock_mhz", "max_sm_clock_mhz", "power_limit_w", "temperature_c", "memory_mib")
    return [", ".join(f"{name} {found[name]}" for name in names if found.get(name) is not None) + ".", ""]


def _calibration(images: int | None) -> str:
    return f" int8 takes its ranges from {images} generated images; noise is not what they are of." if images else ""


def _scopes(scopes: dict[str, Any]) -> list[str]:
    rows = [
        f"| {scope} | {row['fps']:.1f} | {row['median_ms']:.3f} | {row['p90_ms']:.3f} | {row['p99_ms']:.3f} "
        f"| {row['iqr_ms']:.3f} | {row['runs']} "
        f"| {_small(row.get('max_abs_diff'))} | {_small(row.get('relative_diff'))} "
        f"| {row['argmax_agreement_pct']:.3f} | {'yes' if row['equals_torch'] else 'NO'} |"
        for scope, row in scopes.items()
        if "refused" not in row
    ]
    table = [
        "| scope | FPS | median ms | p90 | p99 | IQR | runs | max difference of logits | relative "
        "| pixels of torch's class, % | within bounds |",
        "|" + " --- |" * 11,
        *rows,
        "",
    ]
    return [*(table if rows else []), *_refusals(scopes)]


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _refusals(parts: dict[str, Any]) -> list[str]:
    lines = [f"- {name}, refused: {row['refused']}" for name, row in parts.items() if "refused" in row]
    return [*lines, *([""] if lines else [])]


def _engines(scopes: dict[str, Any]) -> list[str]:
    rows = [
        f"| {scope} | {engine['bytes'] / 1e6:.2f} | {engine['layers']} | {engine['fused']} "
        f"| {engine['build_seconds']:.1f} | {engine['made_for']} |"
        for scope, row in scopes.items()
        if (engine := row.get("engine"))
    ]
    title = ["| engine | MB | layers | fused | built in s | by and for |", "|" + " --- |" * 6]
    return [*title, *rows, ""] if rows else []


def _turns(title: str, words: str, found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if "ratio" not in found:
        told = f"Left out: {found['left_out']}." if "left_out" in found else f"Refused: {found['refused']}"
        return [f"## {title}", "", told, ""]
    warnings = found.get("warnings", [])
    return [
        f"## {title}",
        "",
        words.format(**found),
        "",
        "| ours, ms | theirs, ms | ours / theirs, median of rounds | quartiles | rounds |",
        "|" + " --- |" * 5,
        f"| {found['ours_ms']:.4f} | {found['theirs_ms']:.4f} | {found['ratio']:.4f} "
        f"| {found['ratio_q25']:.4f} to {found['ratio_q75']:.4f} | {found['rounds']} |",
        "",
        *[f"- trtexec warns: {line}" for line in warnings],
        *([""] if warnings else []),
    ]


def _left_out(result: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {reason}" for name, reason in result["left_out"].items()]
    lines += [f"- {words}" for words in result["installation"]]
    if result["tensorrt_rtx"] is not None:
        lines.append(f"- TensorRT-RTX, asked to build and run on this GPU: {result['tensorrt_rtx']}")
    return ["## Left out on this device", "", *lines] if lines else []
