"""Page of the benchmark of the user's own data and networks."""

from __future__ import annotations

from typing import Any

from ..common.results import describe_parts, page_header


def render_page(result: dict[str, Any]) -> str:
    """Return the page of a result; parts that it lacks are omitted."""
    settings = result["settings"]
    lines = [
        *page_header(f"Data and networks: {result['title']}, {result['name'][-1]}", result),
        f"Written by `make bench-data` (`tests/bench/data/run.py`); {describe_parts(result['made'])}. "
        f"{settings['steps']} steps of {settings['batch']} images from random weights, lgc's recipe, one seed: the "
        "scores show that the pipeline works, not how good a network can be.",
        "",
        *_layouts(result.get("layouts")),
        *_networks(result.get("networks")),
        *_pipeline(result.get("pipeline"), settings),
        *_bench(result.get("bench")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _layouts(rows: dict[str, Any] | None) -> list[str]:
    if rows is None:
        return []
    exact = sum(row["exact"] for row in rows.values())
    return [
        "## Layouts",
        "",
        "Small datasets with known labels and predictions (`tests/search/data/small_sets.py`): names and IoU are exact "
        f"in {exact} of {len(rows)}.",
        "",
        "| layout | classes | known classes | IoU, % | known, % | mIoU, % | known, % |",
        "|" + " --- |" * 7,
        *(
            f"| {layout} | {row['classes']} | {', '.join(row['names'])} | {_list(row['iou'])} "
            f"| {_list(row['known_iou'])} | {_score(row['miou'])} | {_score(row['known_miou'])} |"
            for layout, row in rows.items()
        ),
        "",
    ]


def _networks(rows: dict[str, Any] | None) -> list[str]:
    if rows is None:
        return []
    return [
        "## Networks",
        "",
        "Resumed: killed after the first checkpoint and started again; the weights are compared bit by bit with those "
        "of an uninterrupted training. Scored again: by `lgc-train --evaluate`, from the file of the weights. Logits: "
        "the largest difference of the exported file from torch, on random inputs and on images of the dataset.",
        "",
        "| network | mIoU, % | scored again | pixel accuracy, % | training, s | killed at step | bits equal "
        "| logits, random | logits, images | same class, images |",
        "|" + " --- |" * 10,
        *(_format_network(name, row) for name, row in rows.items()),
        "",
    ]


def _format_network(name: str, row: dict[str, Any]) -> str:
    random, images = row["agreement"]
    equal = "yes" if row["resumed_equal"] else "**no**"
    return (
        f"| {name} | {_score(row['miou'])} | {_score(row['scored_again'])} | {_score(row['pixel_accuracy'])} "
        f"| {row['seconds']:.0f} | {row['killed_at']} of {row['resumed_steps']} | {equal} "
        f"| {random['max_abs_diff']:.1e} | {images['max_abs_diff']:.1e} | {images['argmax_agreement_pct']:.3f} % |"
    )


def _pipeline(part: dict[str, Any] | None, settings: dict[str, Any]) -> list[str]:
    if part is None:
        return []
    check, table, search = part["check"], part["profile"], part["search"]
    verification, exported, train = table["verification"], part["export"], part["train"]
    images = ", ".join(f"{name} {split['images']}" for name, split in check["splits"].items())
    parity = part["agreement"][0]
    problems = sum(check["problems"].values())
    return [
        "## Pipeline",
        "",
        f"- `lgc-data check`: {images} images; {problems} problems; {check['wall_s']:.0f} s.",
        f"- `lgc-profile --space {settings['space']} --data`: {table['entries']} entries, {table['noisy']} noisy, "
        f"{table['seconds']:.0f} s; MAPE on held-out networks {verification['mape_pct']:.2f} % (split half "
        f"{verification['ceiling_mape_pct']:.2f} %).",
        f"- `lgc-search`, {settings['search_steps']} steps: target {part['target_ms']:.2f} ms, the median of random "
        f"architectures; predicted {search['predicted_ms']:.2f} ms; {search['wall_s']:.0f} s.",
        f"- `lgc-train`: mIoU {_score(train['miou'])} %, pixel accuracy {_score(train['pixel_accuracy'])} %; "
        f"{train['seconds']:.0f} s.",
        f"- `lgc-export`: predicted {exported['predicted_ms']:.2f} ms, measured {exported['measured_ms']:.2f} ms "
        f"({exported['error_pct']:+.1f} %); logits within {parity['max_abs_diff']:.1e} of torch's.",
        "",
        "| class | " + " | ".join(f"{name}, %" for name in check["splits"]) + " | IoU of the searched network, % |",
        "|" + " --- |" * (len(check["splits"]) + 2),
        *(
            f"| {name} | "
            + " | ".join(f"{split['classes'][name]['pixels_pct']:.2f}" for split in check["splits"].values())
            + f" | {_score(iou)} |"
            for name, iou in train["per_class"].items()
        ),
        "",
    ]


def _bench(rows: list[dict[str, Any]] | None) -> list[str]:
    if rows is None:
        return []
    return [
        "## Frame rates and scores by one protocol",
        "",
        "`lgc-bench` on all runs above, interleaved; relative: against the fastest, with the interquartile range.",
        "",
        "| network | mIoU, % | FPS | median, ms | relative | parameters, M | MACs, G |",
        "|" + " --- |" * 7,
        *(
            f"| {row['name']} | {_score(row['miou'])} | {row['fps']:.1f} | {row['median_ms']:.2f} "
            f"| {row['relative']:.2f} ({row['relative_low']:.2f} to {row['relative_high']:.2f}) "
            f"| {row['parameters'] / 1e6:.2f} | {row['macs'] / 1e9:.2f} |"
            for row in rows
        ),
        "",
    ]


def _list(scores: list[float | None]) -> str:
    return ", ".join(map(_score, scores))


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"
