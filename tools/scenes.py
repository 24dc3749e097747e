"""`lgc-scenes`: write synthetic street scenes in the layout of a real dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli.console import emit, grid, new_app, run
from .cli.options import JsonOption, SeedOption, parse_size
from .cli.progress import make_item_progress, progress_bar

app = new_app()


@app.command()
def scenes(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Output folder: new, empty, or written with the same options before."),
    ],
    layout: Annotated[
        str, typer.Option(help="Dataset layout: camvid-segnet, camvid, camvid-lists or cityscapes.")
    ] = "camvid-segnet",
    train: Annotated[int, typer.Option(help="Number of training images.")] = 24,
    val: Annotated[int, typer.Option(help="Number of validation images.")] = 8,
    test: Annotated[int, typer.Option(help="Number of test images.")] = 8,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the images in pixels.")] = "192x256",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write synthetic street scenes with exact labels, in the layout of a real dataset.

    The same options always write the same files. Run the same command again to resume; larger numbers of images extend
    the dataset.

    Example: lgc-scenes --layout cityscapes --train 24 --val 8 --test 0 --size 256x512 --out scenes
    """
    from ..search.data.synthetic.writers import write_scenes

    height, width = parse_size(size)
    counts = {"train": train, "val": val, "test": test}
    with progress_bar() as on_progress:
        advance = make_item_progress("scenes", sum(counts.values()), on_progress)
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
    emit(result, as_json, table, f"{scenes.written} images written, {scenes.kept} kept")


def main() -> None:
    """Run the command."""
    run(app)
