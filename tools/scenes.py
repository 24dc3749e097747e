"""`lgc-scenes`: write generated street scenes in the layout of a real dataset, or with classes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli.console import emit, grid, new_app, run
from .cli.options import JsonOption, make_seed_option, parse_size
from .cli.progress import make_item_progress, progress_bar

app = new_app()


LayoutOption = Annotated[
    Literal["camvid-segnet", "camvid", "camvid-lists", "cityscapes", "four-classes"],
    typer.Option(help="Layout of folders and label files; four-classes has a dataset.yaml."),
]


@app.command()
def scenes(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Output folder: new, empty, or with scenes of the same options.")
    ],
    layout: LayoutOption = "camvid-segnet",
    train: Annotated[int, typer.Option(help="Training images.")] = 24,
    val: Annotated[int, typer.Option(help="Validation images.")] = 8,
    test: Annotated[int, typer.Option(help="Test images.")] = 8,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of an image in pixels.")] = "192x256",
    seed: Annotated[int, make_seed_option()] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write generated street scenes with exact labels, in the layout of a real dataset or with four classes.

    The same options give the same files. Run the same command again to resume; larger counts add images.

    Example: lgc-scenes --layout cityscapes --train 24 --val 8 --test 0 --size 256x512 --out scenes
    """
    from ..search.data.synthetic.writers import write_scenes

    height, width = parse_size(size)
    counts = {"train": train, "val": val, "test": test}
    with progress_bar() as on_progress:
        advance = make_item_progress("scenes", sum(counts.values()), on_progress)
        written = write_scenes(out, layout, counts, (height, width), seed, advance)
    result = {
        "directory": str(written.directory),
        "layout": written.layout,
        "size": f"{height}x{width}",
        "seed": seed,
        "counts": written.counts,
        "written": written.written,
        "kept": written.kept,
    }
    table = grid(f"{written.directory}: {written.layout}, {height}x{width}, seed {seed}", "split", "images", numbers=1)
    for split, count in written.counts.items():
        table.add_row(split, str(count))
    emit(result, as_json, table, f"{written.written} scenes written, {written.kept} already existed")


def main() -> None:
    """Run the command."""
    run(app)
