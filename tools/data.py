"""`lgc-data`: show what a dataset was understood as, and check its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import DataError, UsageError
from .cli.console import RESTARTS, emit, format_count, format_number, grid, new_app, run, say
from .cli.options import JsonOption
from .cli.progress import make_item_progress, progress_bar

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..search.data.check import DatasetCheck, Problem, SplitCheck
    from ..search.data.codings.coding import Coding
    from ..search.data.description import DatasetSpec

Values = list[list[int]]
"""Label values of each class, last those of ignored pixels."""
Colours = list[list[tuple[int, int, int]]]
"""Label colours of each class, last those of ignored pixels."""
EXAMPLES = 12
"""Images in the picture of `--overlays`."""
CLASS_COLUMNS = ("id", "class", "colour", "label values")
SPLIT_COLUMNS = ("split", "sizes", "images", "checked", "labelled", "ignored", "unknown")
"""Columns of the table of splits: numbers of images, and shares of the label pixels."""
WARNING = "warning"
MAX_SIZES = 3
"""Sizes of images that are printed of a split."""
MAX_PROBLEMS = 5
"""Printed problems of a kind."""

app = new_app()

DatasetPath = Annotated[
    Path, typer.Argument(metavar="FILE|DIR", help="Dataset: a dataset.yaml, or a folder.", show_default=False)
]


class _ShowByDefault(TyperGroup):
    """Group whose default command is `show`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of the command, the command, and its arguments."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


@app.callback(cls=_ShowByDefault)
def data() -> None:
    """Show and check datasets; `lgc-data DIR` is `lgc-data show DIR`."""


@app.command()
def show(dataset: DatasetPath, as_json: JsonOption = False) -> None:
    """Show what a dataset is understood as: name, classes, splits and normalisation.

    Example: lgc-data show scenes
    """
    from ..search.data.check import describe_empty_splits
    from ..search.data.description import read_dataset

    spec = read_dataset(dataset)
    splits = {name: len(split.entries) for name, split in spec.splits.items()}
    filled = [name for name, count in splits.items() if count]
    remarks = [*spec.remarks, *describe_empty_splits(spec, filled).values(), *_list_errors(spec, filled)]
    mean, std = spec.normalisation.mean, spec.normalisation.std
    codes = _list_codes(spec)
    _, values, colours = codes[0]
    content = {
        "name": spec.name,
        "root": str(spec.root),
        "classes": [
            {
                "name": name,
                "colour": list(spec.palette[index]),
                "label_values": values[index],
                "label_colours": colours[index],
            }
            for index, name in enumerate(spec.classes)
        ],
        "ignored_label_values": values[-1],
        "ignored_label_colours": colours[-1],
        "other_label_values": [
            {"files": files, "classes": dict(zip(spec.classes, rows, strict=False)), "ignored": rows[-1]}
            for files, rows, _ in codes[1:]
        ],
        "splits": splits,
        "normalisation": {"mean": list(mean), "std": list(std)},
        "remarks": [*remarks],
    }
    names = [*CLASS_COLUMNS, *(f"in {files}" for files, *_ in codes[1:])]
    table = grid(f"{spec.name}: {spec.num_classes} classes, files in {spec.root}", *names, wrap=names[3:])
    shown = [[_format_codes(*row) for row in zip(*code, strict=True)] for _, *code in codes]
    for index, name in enumerate(spec.classes):
        table.add_row(str(index), name, _format_colour(spec.palette[index]), *(column[index] for column in shown))
    table.add_row("", "ignored", "", *(column[-1] for column in shown))
    lines = [
        f"splits         {', '.join(f'{name} {count}' for name, count in splits.items())}",
        f"normalisation  mean {_format_numbers(mean)}, standard deviation {_format_numbers(std)}",
        *(f"{kind:<15}{text}" for kind, text in map(_split_kind, remarks)),
    ]
    emit(content, as_json, table, *lines)


@app.command()
def check(
    dataset: DatasetPath,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Check N images of each split, evenly spaced.", show_default="all"),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Read only the headers of images: finds no damaged image, and as leaks equal files."
        ),
    ] = False,
    overlays: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help=f"Picture of {EXAMPLES} labelled images to write.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check the files of a dataset: counts, sizes, classes, missing and damaged files, unknown values, leaks.

    A leak is an image that several splits have. Exit code 1 if there is a problem, not for remarks alone.

    Example: lgc-data check scenes --overlays scenes.png
    """
    from ..search.data.check import check_dataset
    from ..search.data.description import read_dataset

    spec = read_dataset(dataset)
    if overlays is not None:
        _check_picture(overlays, spec)
    with progress_bar() as on_progress:

        def start(total: int) -> Callable[[], None]:
            return make_item_progress("checking", total, on_progress)

        result = check_dataset(
            spec, sample=sample, full=not quick, examples=EXAMPLES if overlays else 0, on_start=start
        )
    if overlays is not None:
        _write_picture(overlays, spec, result)
        say(f"wrote {overlays}")
    emit(_to_json(spec, result, overlays), as_json, *_make_tables(spec, result))
    return 1 if result.problems else 0


def _check_picture(path: Path, spec: DatasetSpec) -> None:
    """Check, before files are read, that the picture can be written.

    Raises:
        UsageError: its name does not end in .png.
        OutputError: it is inside the dataset, or its folder cannot be created.
    """
    from ..errors import OutputError
    from ..files import ensure_folder

    if path.suffix.lower() != ".png":
        raise UsageError(f"invalid picture {path}: its name must end in .png")
    if path.resolve().is_relative_to(spec.root.resolve()):
        raise OutputError(f"--overlays {path} is inside the dataset {spec.root}: choose another folder")
    ensure_folder(path.parent)


def _write_picture(path: Path, spec: DatasetSpec, result: DatasetCheck) -> None:
    """Write the examples of a check as a picture, with each class's share of the label pixels."""
    import numpy as np

    from ..models.images import read_pixels
    from ..profiler.inference.painting import Legend, write_png
    from ..report.overlays import Overlay, draw_overlays
    from ..search.data.labels import IGNORE
    from ..search.data.reading import read_classes

    legend = Legend(spec.classes, spec.palette)
    pictures = []
    for split, pair in result.examples:
        assert pair.label is not None
        _, classes = read_classes(pair.label, pair.coding, pair.image)
        labels = np.where(classes < 0, IGNORE, classes).astype(np.uint8)
        with suppress(DataError):  # a damaged image, which --quick does not notice
            pictures.append(Overlay.fit(f"{split}: {pair.image.name}", read_pixels(pair.image), labels, legend))
    total = max(sum(split.pixels for split in result.splits), 1)
    pixels = np.sum([[*split.class_pixels, split.void_pixels] for split in result.splits], axis=0)
    shares = [f"{100 * count / total:.3g} %" for count in pixels.tolist()]
    write_png(draw_overlays(pictures, legend, shares), path)


def _to_json(spec: DatasetSpec, result: DatasetCheck, overlays: Path | None) -> dict[str, Any]:
    from ..search.data.check import PROBLEMS

    return {
        "name": spec.name,
        "root": str(spec.root),
        "splits": {split.name: _split_to_json(spec, split) for split in result.splits},
        "problems": {
            kind: [
                {"splits": list(problem.splits), "files": [str(path) for path in problem.files], "text": problem.text}
                for problem in result.problems
                if problem.kind == kind
            ]
            for kind in PROBLEMS
        },
        "remarks": list(result.remarks),
        "overlays": None if overlays is None else str(overlays),
    }


def _split_to_json(spec: DatasetSpec, split: SplitCheck) -> dict[str, Any]:
    rows = zip(spec.classes, split.class_pixels, split.class_images, strict=True)
    return {
        "images": split.images,
        "checked": split.checked,
        "labelled": split.labelled,
        "sizes": {f"{height}x{width}": count for (height, width), count in split.sizes.most_common()},
        "classes": {
            name: {"pixels_pct": split.share_pct(pixels), "images": int(images)} for name, pixels, images in rows
        },
        "ignored_pct": split.share_pct(split.void_pixels),
        "unknown_pct": split.share_pct(split.unknown_pixels),
    }


def _make_tables(spec: DatasetSpec, result: DatasetCheck) -> list[Table | str]:
    """Return the tables of splits and classes, the problems and the remarks."""
    root = "" if str(spec.root) == spec.name else f": {spec.root}"
    splits = grid(f"{spec.name}{root}", *SPLIT_COLUMNS, numbers=5, wrap=["sizes"])
    for split in result.splits:
        counts = (split.images, split.checked, split.labelled)
        shares = (split.share_pct(pixels) for pixels in (split.void_pixels, split.unknown_pixels))
        shown = (*map(str, counts), *(format_number(share, ".1f", " %") for share in shares))
        splits.add_row(split.name, _format_sizes(split), *shown)
    labelled = [split for split in result.splits if split.labelled]
    classes = grid(
        "classes: share of the label pixels, images with the class",
        "class",
        *(f"{split.name} {unit}" for split in labelled for unit in ("%", "images")),
        numbers=2 * len(labelled),
    )
    for index, name in enumerate(spec.classes):
        cells = [
            cell
            for split in labelled
            for cell in (
                format_number(split.share_pct(split.class_pixels[index]), ".2f"),
                str(split.class_images[index]),
            )
        ]
        classes.add_row(name, *cells)
    remarks = [_split_kind(remark) for remark in result.remarks]
    warnings = sum(kind == WARNING for kind, _ in remarks)
    summary = f"no problem, but {format_count(warnings, WARNING)}" if warnings else "no problem"
    lines = [*(f"{kind}: {text}" for kind, text in remarks), *(_list_problems(result.problems) or [summary])]
    return [splits, *([classes] if labelled else []), *lines]


def _list_errors(spec: DatasetSpec, splits: Sequence[str]) -> list[str]:
    """Return a warning for each split whose labels cannot be matched with its images."""
    errors = list[str]()
    for name in splits:
        try:
            _ = spec.splits[name].matches
        except DataError as error:
            errors.append(f"{WARNING}: {name} cannot be used: {error}")
    return errors


def _split_kind(remark: str) -> tuple[str, str]:
    """Return `warning` or `remark`, and the text."""
    text = remark.removeprefix(f"{WARNING}: ")
    return "remark" if text == remark else WARNING, text


def _list_problems(problems: Sequence[Problem]) -> list[str]:
    """Return lines on the problems, those of a kind together."""
    from ..search.data.check import PROBLEMS

    lines = []
    for kind, name in PROBLEMS.items():
        texts = [problem.text for problem in problems if problem.kind == kind]
        if texts:
            lines += [f"{name}: {len(texts)}", *(f"  {text}" for text in texts[:MAX_PROBLEMS])]
            lines += [f"  and {len(texts) - MAX_PROBLEMS} more: see --json"] if len(texts) > MAX_PROBLEMS else []
    return lines


def _format_sizes(split: SplitCheck) -> str:
    """Return the most frequent sizes of a split's images."""
    sizes = split.sizes.most_common()
    shown = [f"{height}x{width}" + (f" ({count})" if len(sizes) > 1 else "") for (height, width), count in sizes]
    more = [f"and {len(sizes) - MAX_SIZES} more"] if len(sizes) > MAX_SIZES else []
    return ", ".join([*shown[:MAX_SIZES], *more]) or "-"


def _list_codes(spec: DatasetSpec) -> list[tuple[str, Values, Colours]]:
    """Return the codes of classes in labels that exist, if these differ each with their files; see `_list_values`."""
    used = {pair.coding for pairs in spec.matched.values() for pair in pairs if pair.label is not None}
    files = [files for split in spec.splits.values() for files in split.labels]
    files = [part for part in files if spec.codings[part.coding] in used] or files[:1]
    codes = [(str(part.files), *_list_values(spec, spec.codings[part.coding])) for part in files]
    return [code for index, code in enumerate(codes) if code[1:] not in [other[1:] for other in codes[:index]]]


def _list_values(spec: DatasetSpec, coding: Coding) -> tuple[Values, Colours]:
    """Return the label values of each class, last those of ignored pixels, and their colours; only one of both."""
    from ..search.data.codings.raw import unpack_colour
    from ..search.data.labels import IGNORE

    numbers = (*range(spec.num_classes), IGNORE)
    if coding.is_coloured:
        codes = coding.colours.items()
        return [[] for _ in numbers], [[unpack_colour(code) for code, index in codes if index == i] for i in numbers]
    values = coding.values.items()
    return [sorted(value for value, index in values if index == i) for i in numbers], [[] for _ in numbers]


def _format_codes(values: Sequence[int], colours: Sequence[tuple[int, int, int]]) -> str:
    """Return label values as ranges, or colours as `#rrggbb`."""
    from ..search.data.schema import format_values

    return ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours) or format_values(values)


def _format_colour(colour: tuple[int, int, int]) -> Text:
    from rich.text import Text

    red, green, blue = colour
    return Text.assemble(("   ", f"on rgb({red},{green},{blue})"), f" {red} {green} {blue}")


def _format_numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def main() -> None:
    """Run the command."""
    run(app, RESTARTS)
