"""Page of the benchmark of training."""

from __future__ import annotations

from typing import Any

from ..common.results import describe_parts, page_header
from .step import KEEP_MEMORY
from .views import COMPARATORS

NAMES = {"cityscapes": "made-up Cityscapes", "camvid": "CamVid"}


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result; parts that it lacks are omitted."""
    lines = [
        *page_header("Training: data, step, clipping, resuming", result),
        f"Written by `make bench-training` (`tests/bench/training/run.py`); {describe_parts(result['made'])}. Ratios "
        "are medians of rounds in which all take turns, with their 95 % interval.",
        "",
        *_views(result.get("views")),
        *_waiting(result.get("waiting")),
        *_step(result.get("step")),
        *_clipping(result.get("clipping")),
        *_resume(result.get("resume")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _views(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    lines = [
        "## Training views",
        "",
        "A view is a finished, normalised float32 tensor and its labels: scaled by 0.5 to 2, cropped, flipped, with "
        f"brightness, contrast and saturation changed. Batches of {part['batch']}, one thread a process. Without "
        "workers, all work is on one core; with 2, on two. Loaders take turns of about "
        f"{part['turn_s']:.0f} s, {part['rounds']} each; each turn begins with an idle loader, and includes the start "
        f"of its workers. lgc's cache is a file made beforehand; it is in the system's page cache, as the images are. "
        f"Baseline: `SegmentationDataset.view` of commit {part['baseline']}, without joining views to batches. The "
        "other loaders are torch's DataLoader with transforms as one writes them with torchvision, in Pillow, or by "
        "kornia on whole batches (`tests/bench/training/comparators.py`); torchvision itself is not a dependency.",
        "",
    ]
    for case in NAMES:
        if case in part:
            lines += _case(case, part[case])
    return lines


def _case(case: str, row: dict[str, Any]) -> list[str]:
    made = {
        "cityscapes": "Generated scenes with noise whose neighbours are joined, so that a PNG has about the size of "
        "one of Cityscapes, 2.3 MB; its time to decode is measured, not matched.",
        "camvid": "Generated scenes of CamVid's size." if row["generated"] else "CamVid's own images, as PNG.",
    }[case]
    ours, theirs = row["bytes"]["lgc"], row["bytes"]["baseline"]
    size, crop = ("x".join(map(str, row[name])) for name in ("size", "crop"))
    return [
        f"### {NAMES[case]}, {size} to {crop}",
        "",
        f"{made} {row['images']} images of {row['file_bytes'] / 1e6:.2f} MB; decoding one takes {row['decode_ms']:.0f} "
        f"ms. Bytes to the device per view: {ours / 1e6:.2f} MB, {theirs / 1e6:.2f} MB in the baseline: "
        f"{ours / theirs:.2f} of them.",
        "",
        "| workers | loader | views a second | lgc's, times as many |",
        "|" + " --- |" * 4,
        *(
            f"| {workers} | {COMPARATORS[name]} | {values['views_per_s']:.1f} | {_ratio(values)} |"
            for workers, loaders in row["workers"].items()
            for name, values in loaders.items()
        ),
        "",
    ]


def _waiting(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    return [
        "## Waiting for data",
        "",
        f"Training by defaults of the smallest architecture of the preset `{part['preset']}` at "
        f"{'x'.join(map(str, part['size']))}, batch {part['batch']}, threads: {part['threads']}, from images of "
        f"360x480: a step takes {part['step_ms']:.0f} ms, of which {part['waiting_pct']:.2f} % passed before its batch "
        f"was there ({part['steps']} steps).",
        "",
    ]


def _step(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    return [
        "## Training step",
        "",
        "lgc's training loop with its metrics log against a bare torch loop (`tests/bench/training/bare_loop.py`), "
        f"from the same weights, on the same views of lgc's loader, at {'x'.join(map(str, part['size']))}, batch "
        f"{part['batch']}, threads: {part['threads']}; neither writes checkpoints or validates in its turns. The bare "
        f"loop has the memory format that is faster for it. {_describe_memory(part)}Difference: that of the averaged "
        f"weights after {part['checked_steps']} steps, relative to the weights; 0 are equal bits.",
        "",
        "| network | lgc, images a second | bare loop | lgc / bare loop | difference | steps of each |",
        "|" + " --- |" * 6,
        *(
            f"| {name} | {row['images_per_s']['lgc']:.1f} | {row['images_per_s']['bare']:.1f} | {_ratio(row, 3)} "
            f"| {row['weights_differ_by']:.1e} | {row['steps']} |"
            for name, row in part["networks"].items()
        ),
        "",
    ]


def _describe_memory(part: dict[str, Any]) -> str:
    return f"glibc keeps freed memory ({', '.join(KEEP_MEMORY)}). " if part.get("keeps_memory") else ""


def _clipping(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    return [
        "## Clipping of gradients",
        "",
        f"`{part['network']}` on {part['batch']} views of {'x'.join(map(str, part['size']))}, where batch norms have "
        f"few values: {part['steps']} steps from each of {part['seeds']} seeds. Norm: that of the first gradients, "
        "before clipping. Failed: trainings in which a loss is NaN or infinite.",
        "",
        "| optimiser | precision | clipped | median norm | largest norm | failed |",
        "|" + " --- |" * 6,
        *(
            f"| {row['optimiser']} | {row['precision']} | {'yes' if row['clipped'] else 'no'} | {row['median']:.1e} "
            f"| {row['max']:.1e} | {row['failed']} of {part['seeds']} |"
            for row in part["rows"]
        ),
        "",
    ]


def _resume(part: dict[str, Any] | None) -> list[str]:
    if part is None:
        return []
    compared = part["processes"]
    return [
        "## Killed and resumed",
        "",
        "A small U-Net with dropout and an auxiliary output on generated scenes at "
        f"{'x'.join(map(str, part['size']))}, batch {part['batch']} in all; processes by torchrun, on the CPU. Killed "
        "by SIGKILL after a checkpoint, and started again. Weights are compared bit by bit with those of an "
        "uninterrupted training of the same setting, and with those of the first setting with as many processes.",
        "",
        "| processes | cache | workers | killed at step | equal to uninterrupted | equal to first setting |",
        "|" + " --- |" * 6,
        *(
            f"| {row['processes']} | {row['cache']} | {row['workers']} | {row['killed_at']} of {row['steps']} "
            f"| {_yes(row['resumed_equal'])} | {_yes(row['equal_to_first'])} |"
            for row in part["rows"]
        ),
        "",
        f"Two processes against one: updates {_list(compared['updates'])}, images seen "
        f"{_list(compared['images_seen'])}, learning rates equal: {_yes(compared['learning_rates_equal'])}, views of "
        f"each step equal: {_yes(compared['views_equal'])}; losses differ by at most "
        f"{100 * compared['largest_loss_difference']:.2g} %.",
        "",
    ]


def _ratio(row: dict[str, Any], digits: int = 2) -> str:
    if "ratio" not in row:
        return ""
    return f"{row['ratio']:.{digits}f} ({row['ratio_low']:.{digits}f} to {row['ratio_high']:.{digits}f})"


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def _list(values: list[int]) -> str:
    return " and ".join(map(str, values))
