"""`lgc-scenes`: write generated street scenes in the layout of a real data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli.console import JsonFlag, emit, grid, new_app, parse_size, progress_bar, run

app = new_app()


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder, or one to finish or to extend.")],
    layout: Annotated[str, typer.Option(help="camvid-segnet, camvid, camvid-lists or cityscapes.")] = "camvid-segnet",
    train: Annotated[int, typer.Option(help="Training images.")] = 24,
    val: Annotated[int, typer.Option(help="Validation images.")] = 8,
    test: Annotated[int, typer.Option(help="Test images.")] = 8,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width, pixels.")] = "192x256",
    seed: Annotated[int, typer.Option(help="Of the series of scenes, 0 or more.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write generated street scenes with exact labels, in the layout of a real data set.

    The same options give the same files; an interrupted call is finished by the same call.

    Example: lgc-scenes --layout cityscapes --train 24 --val 8 --test 0 --size 256x512 --out scenes
    """
    from ..profiler.timing.rounds import RoundProgress
    from ..search.data.synthetic.writers import write_scenes

    height, width = parse_size(size)
    counts = {"train": train, "val": val, "test": test}
    total, done = sum(counts.values()), 0
    with progress_bar() as show:

        def advance() -> None:
            nonlocal done
            done += 1
            show(RoundProgress("scenes", done / total, None))

        scenes = write_scenes(out, layout, counts, (height, width), seed, advance)
    result = {
        "directory": str(scenes.directory),
        "layout": scenes.layout,
        "size": f"{height}x{width}",
        "seed": seed,
        "counts": scenes.counts,
        "written": scenes.written,
        "kept": scenes.kept,
    }
    table = grid(f"{scenes.directory}: {scenes.layout}, {height}x{width}, seed {seed}", "split", "images", numbers=1)
    for split, count in scenes.counts.items():
        table.add_row(split, str(count))
    emit(result, as_json, table, f"{scenes.written} written, {scenes.kept} there already")


def main() -> None:
    """Run the command."""
    run(app)
