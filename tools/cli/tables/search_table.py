"""The table and the lines of a search's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..console import format_number, grid

if TYPE_CHECKING:
    from rich.table import Table

    from ....search.results import SearchResult, SeedsResult


def make_search_table(results: Sequence[SearchResult], seeds: Sequence[int] = ()) -> Table:
    """Return the table of results, one row each; with their seeds, if these differ."""
    rates = ("target FPS", "predicted FPS") if results[0].target_fps is not None else ()
    trials = ("trial mIoU",) if any(result.trial_steps for result in results) else ()
    own = ("seed",) if seeds else ()
    names = (*own, "target ms", "predicted ms", "90 % interval", *rates, "loss", *trials, "steps", "seconds")
    table = grid("architectures", *names, numbers=len(names))
    for index, result in enumerate(results):
        low, high = result.predicted_low_ms, result.predicted_high_ms
        table.add_row(
            *((str(seeds[index]),) if seeds else ()),
            " / ".join(format_number(row.target_ms, ".3f") for row in result.rows),
            " / ".join(f"{row.predicted_ms:.3f}" for row in result.rows),
            "-" if low is None else f"{low:.3f} to {high:.3f}",
            *([" / ".join(format_number(row.target_fps, ".4g") for row in result.rows)] if rates else ()),
            *([" / ".join(format_number(row.predicted_fps, ".4g") for row in result.rows)] if rates else ()),
            f"{result.loss_after:.3f}",
            *([format_number(result.best_trial_miou, ".1f")] if trials else ()),
            str(result.steps),
            f"{result.seconds:.0f}",
        )
    return table


def format_results(results: Sequence[SearchResult]) -> list[str]:
    """Return lines on the architectures of results."""
    first = results[0]
    lines = [f"latency range of the space: {first.fastest_ms:.3f} to {first.slowest_ms:.3f} ms"]
    for result in results:
        operators = ", ".join(f"{count} {name}" for name, count in result.operators.items() if count)
        parts = [f"edges: {operators}"] if operators else []
        widths = ", ".join(f"{name} {width}" for name, width in result.widths.items())
        parts += [f"channels: {widths}"] if widths else []
        parts += [] if result.head_channels is None else [f"head of {result.head_channels} channels"]
        likeliest = result.loss_likeliest
        lines += [
            f"architecture  {result.architecture}",
            *([f"  {'; '.join(parts)}"] if parts else []),
            *_format_measurement(result),
            *(["  dominated: another point is faster and more accurate"] if result.dominated else []),
            "  in the supernet: "
            + ("" if result.supernet_miou is None else f"mIoU {result.supernet_miou:.1f} %, ")
            + f"loss {result.loss_after:.3f}; loss of sampled paths {result.loss_before:.3f}"
            + ("" if likeliest is None else f", most probable architecture {likeliest:.3f}"),
            *_format_trials(result),
        ]
    return lines


def format_seeds(result: SeedsResult) -> list[str]:
    """Return a line with mean and standard deviation over the seeds."""
    rows = {"trial mIoU": (result.trial_miou, ".1f", " %"), "predicted": (result.predicted_ms, ".3f", " ms")}
    parts = [
        f"{name} {estimate.mean:{digits}}{unit} ± {estimate.deviation:{digits}}"
        for name, (estimate, digits, unit) in rows.items()
        if estimate is not None
    ]
    return [f"{len(result.searches)} searches, mean ± standard deviation: {', '.join(parts)}"]


def _format_trials(result: SearchResult) -> list[str]:
    """Return a line with the mIoU of each trial, or with its loss where no pixel is labelled or in earlier results."""
    if not result.trial_losses:
        return []
    name, scores, digits = "mIoU", result.trial_mious, ".1f"
    if result.best_trial_miou is None:
        name, scores, digits = "loss", result.trial_losses, ".3f"
    values = (
        "diverged" if loss is None else format_number(score, digits)
        for score, loss in zip(scores, result.trial_losses, strict=True)
    )
    return [f"  {name} of the candidates after trials of {result.trial_steps} steps: {', '.join(values)}"]


def _format_measurement(result: SearchResult) -> list[str]:
    error_pct, target = result.measured_error_pct, "the target"
    if error_pct is None:
        return []
    if result.target_fps is not None:
        target += f" of {result.target_fps:.4g} FPS ({result.target_ms:.3f} ms)"
    above = "; no architecture that was measured meets it" if error_pct > 0 else ""
    return [
        f"  measured {result.measured_ms:.3f} ms at the table's machine speed, {error_pct:+.1f} % from {target}, "
        f"after {result.refinements} refinements; the table predicts {result.predicted_ms:.3f} ms{above}"
    ]
