"""Pixels of predictions: those of the label files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgc.search.data.datasets import load_dataset
from lgc.search.data.predictions import PredictionWriter
from lgc.search.data.reading import read_label

PALETTE = (0, 0, 0, 250, 50, 83, 51, 221, 255)
"""Background, cat and dog, in another order than the classes."""
INDICES = np.array([[2, 1, 0, 0], [2, 2, 1, 1]], np.uint8)
CLASSES = 2 - INDICES
COLOURS = np.reshape(PALETTE, (3, 3)).astype(np.uint8)[INDICES]


def write_data(folder: Path, labels: dict[str, Image.Image], classes: str = "") -> Path:
    for name, label in labels.items():
        for kind, image in (("images", Image.new("RGB", label.size)), ("labels", label)):
            image_path = folder / f"data/{kind}/{name}.png"
            image_path.parent.mkdir(parents=True, exist_ok=True)
            image.save(image_path)
    path = folder / "pets.yaml"
    classes = classes or "classes: {dog: [51, 221, 255], cat: [250, 50, 83], background: [0, 0, 0]}"
    path.write_text(
        f"name: pets\nroot: data\nimages: images/{{split}}\nlabels: labels/{{split}}\nsplits: [train, val]\n{classes}\n"
    )
    return path


def write_prediction(data: Path, classes: np.ndarray = CLASSES) -> Image.Image:
    dataset = load_dataset(data, "val")
    writer = PredictionWriter(data.parent / "predictions", dataset)
    writer.write(0, classes)
    assert np.array_equal(read_label(writer.paths[0], dataset.pairs[0].coding), classes)
    with Image.open(writer.paths[0]) as file:
        file.load()
        return file


def make_label(palette: tuple[int, ...], indices: np.ndarray = INDICES) -> Image.Image:
    label = Image.fromarray(indices)
    label.putpalette(palette)
    return label


@pytest.mark.parametrize("padding", [0, 200])
def test_predictions_have_the_labels_palette(tmp_path: Path, padding: int) -> None:
    label = make_label(PALETTE + (0, 0, 0) * padding)
    data = write_data(tmp_path, {"train/a": label, "train/b": label, "val/c": label})
    file = write_prediction(data)
    assert file.mode == "P"
    assert np.array_equal(np.asarray(file), INDICES)
    assert np.array_equal(np.asarray(file.convert("RGB")), COLOURS)
    assert np.array_equal(np.asarray(write_prediction(data, np.full((2, 4), 2, np.uint8))), np.zeros((2, 4)))


def test_unequal_palettes_give_colours(tmp_path: Path) -> None:
    other = make_label((*PALETTE[6:], *PALETTE[3:6], *PALETTE[:3]), 2 - INDICES)
    file = write_prediction(write_data(tmp_path, {"train/a": other, "val/c": make_label(PALETTE)}))
    assert file.mode == "RGB"
    assert np.array_equal(np.asarray(file), COLOURS)


def test_grey_label_does_not_decide(tmp_path: Path) -> None:
    """A black mask of an image without objects, among those in colours."""
    empty = Image.new("L", (4, 2))
    labels = {"train/b": Image.fromarray(COLOURS), "train/c": empty, "val/a": empty}
    classes = "classes: {background: [0, 0, 0], cat: [250, 50, 83], dog: [51, 221, 255]}"
    file = write_prediction(write_data(tmp_path, labels, classes), INDICES)
    assert file.mode == "RGB"
    assert np.array_equal(np.asarray(file), COLOURS)


def test_classes_without_colours_have_map_colours(tmp_path: Path) -> None:
    classes = "classes: [dog, cat, background]\nmap: {'#33ddff': dog, '#fa3253': cat, '0 0 0': background}"
    label = Image.fromarray(COLOURS)
    file = write_prediction(write_data(tmp_path, {"train/a": label, "val/c": label}, classes))
    assert np.array_equal(np.asarray(file), COLOURS)
