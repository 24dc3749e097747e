"""`lgc-scenes`: write generated street scenes in the layout of a real data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import emit, parse_size, run

app = typer.Typer(add_completion=False)


@app.command()
def scenes(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="A new or empty folder, or one to finish or extend.")
    ],
    layout: Annotated[str, typer.Option(help="camvid-segnet, camvid, camvid-lists or cityscapes.")] = "camvid-segnet",
    train: Annotated[int, typer.Option(help="Training images.")] = 24,
    val: Annotated[int, typer.Option(help="Validation images.")] = 8,
    test: Annotated[int, typer.Option(help="Test images.")] = 8,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width, pixels.")] = "192x256",
    seed: Annotated[int, typer.Option(help="Of the series of scenes, 0 or more.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Write generated street scenes with exact labels, in the layout of a real data set.

    The same options give the same files; an interrupted call is finished by the same call.

    Example: lgc-scenes --layout cityscapes --train 24 --val 8 --test 0 --size 256x512 --out scenes
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from ..search.data.writers import write_scenes

    height, width = parse_size(size)
    counts = {"train": train, "val": val, "test": test}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scenes", total=sum(counts.values()))
        done = write_scenes(out, layout, counts, (height, width), seed, lambda: progress.advance(task))
    result: dict[str, object] = {
        "directory": str(done.directory),
        "layout": done.layout,
        "size": f"{height}x{width}",
        "seed": seed,
        "counts": done.counts,
        "written": done.written,
        "kept": done.kept,
    }
    table = Table("split", "images", title=f"{done.layout} scenes in {done.directory}")
    for split, count in done.counts.items():
        table.add_row(split, str(count))
    table.caption = f"{done.written} written, {done.kept} there already"
    emit(result, as_json, table)


def main() -> None:
    """Run the command."""
    run(app)
