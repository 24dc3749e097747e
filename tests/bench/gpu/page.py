"""Page of a backend in a precision on a GPU."""

from __future__ import annotations

from typing import Any

from ..common.results import page_header


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    lines = [
        *page_header(f"Deployment, {' '.join(result['name'][1:])} on {result['target']}", result),
        f"Written by tests/bench/gpu/deployment.py (`make gpu-check`): the median of nine random architectures, random "
        f"weights, batch size 1, {result['seconds']:g} s per scope, outputs compared with torch in fp32 on noise."
        f"{_calibration(result.get('calibration_images'))}",
        "",
        *([f"Failed: {result['refused']}", ""] if "refused" in result else []),
        *_gpu(result["environment"].get("gpu")),
        *_scopes(result["scopes"]),
        *_engines(result["scopes"]),
        *_paired("Timing against a bare loop", BARE_LOOP, result.get("clock")),
        *_paired("Timing against trtexec", TRTEXEC, result.get("trtexec")),
        *_skipped(result),
    ]
    return "\n".join(lines).rstrip() + "\n"


BARE_LOOP = (
    "The mean of lgc's timing, and the host's time of a bare loop over the same program, alternately. On a GPU the "
    "loop launches {runs_a_round} runs and waits once."
)
TRTEXEC = (
    "The same engine file, scope dense, alternately: medians of lgc's runs and of trtexec's GPU Compute Time "
    "(`{command}`, version {version})."
)


def _gpu(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    names = ("driver", "sm_clock_mhz", "max_sm_clock_mhz", "power_limit_w", "temperature_c", "memory_mib")
    return [", ".join(f"{name} {part[name]}" for name in names if part.get(name) is not None) + ".", ""]


def _calibration(images: int | None) -> str:
    return f" int8 is calibrated on {images} generated images, not on noise." if images else ""


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
        "| pixels with torch's class, % | within tolerance |",
        "|" + " --- |" * 11,
        *rows,
        "",
    ]
    return [*(table if rows else []), *_failures(scopes)]


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _failures(parts: dict[str, Any]) -> list[str]:
    lines = [f"- {name}, failed: {row['refused']}" for name, row in parts.items() if "refused" in row]
    return [*lines, *([""] if lines else [])]


def _engines(scopes: dict[str, Any]) -> list[str]:
    rows = [
        f"| {scope} | {engine['bytes'] / 1e6:.2f} | {engine['layers']} | {engine['fused']} "
        f"| {engine['build_seconds']:.1f} | {engine['made_for']} |"
        for scope, row in scopes.items()
        if (engine := row.get("engine"))
    ]
    title = ["| engine | MB | layers | fused | build time, s | library and device |", "|" + " --- |" * 6]
    return [*title, *rows, ""] if rows else []


def _paired(title: str, text: str, part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    if "ratio" not in part:
        reason = f"Skipped: {part['left_out']}." if "left_out" in part else f"Failed: {part['refused']}"
        return [f"## {title}", "", reason, ""]
    warnings = part.get("warnings", [])
    return [
        f"## {title}",
        "",
        text.format(**part),
        "",
        "| lgc, ms | other, ms | lgc / other, median of rounds | quartiles | rounds |",
        "|" + " --- |" * 5,
        f"| {part['ours_ms']:.4f} | {part['theirs_ms']:.4f} | {part['ratio']:.4f} "
        f"| {part['ratio_q25']:.4f} to {part['ratio_q75']:.4f} | {part['rounds']} |",
        "",
        *[f"- trtexec warning: {line}" for line in warnings],
        *([""] if warnings else []),
    ]


def _skipped(result: dict[str, Any]) -> list[str]:
    lines = [f"- {name}: {reason}" for name, reason in result["left_out"].items()]
    lines += [f"- {line}" for line in result["installation"]]
    if result["tensorrt_rtx"] is not None:
        lines.append(f"- TensorRT-RTX on this GPU: {result['tensorrt_rtx']}")
    return ["## Skipped on this device", "", *lines] if lines else []
