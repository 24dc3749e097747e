"""Ids, indices, colours and palettes of Cityscapes and CamVid are consistent."""

from __future__ import annotations

import numpy as np
import pytest

from lgc.search.data.labels import (
    CAMVID_32,
    CITYSCAPES_REGULAR_IDS,
    IGNORE,
    TRAIN_ID_TO_CAMVID,
    TRAIN_ID_TO_ID,
    TrainId,
    train_id_to_camvid_rgb,
)
from lgc.search.data.layouts import load_layout


def test_camvid_colours_are_distinct_and_complete() -> None:
    assert len(CAMVID_32) == 32
    assert len({colour for colour, _ in CAMVID_32.values()}) == 32
    assert {index for _, index in CAMVID_32.values()} == {*range(11), IGNORE}


@pytest.mark.parametrize(
    ("name", "reduced"),
    [
        ("Wall", "building"),
        ("LaneMkgsDriv", "road"),
        ("ParkingBlock", "pavement"),
        ("TrafficLight", "sign symbol"),
        ("TrafficCone", "pole"),
        ("Truck_Bus", "car"),
        ("MotorcycleScooter", "bicyclist"),
        ("Child", "pedestrian"),
        ("VegetationMisc", "tree"),
    ],
)
def test_camvid_classes_are_reduced_as_published(name: str, reduced: str) -> None:
    assert [*load_layout("camvid").classes][CAMVID_32[name][1]] == reduced


def test_colours_and_indices_agree() -> None:
    label, index = np.array([[*TrainId]], dtype=np.uint8), dict(CAMVID_32.values())
    colours = train_id_to_camvid_rgb(label)[0].tolist()
    assert [index[red, green, blue] for red, green, blue in colours] == TRAIN_ID_TO_CAMVID[label][0].tolist()


def test_generated_scenes_share_facts_with_layouts() -> None:
    """The generator's classes, ids and colours are those of the layouts' files."""
    city, camvid = load_layout("cityscapes"), load_layout("camvid")
    assert [*city.classes] == [c.name.lower().replace("_", " ") for c in TrainId if c is not TrainId.VOID]
    assert [value for key in city.values for value in key.values] == [*CITYSCAPES_REGULAR_IDS]
    assert TRAIN_ID_TO_ID.tolist() == [*CITYSCAPES_REGULAR_IDS, *[0] * 237]
    names = [*camvid.classes, *["ignore"] * 245]
    assert {**{colour: name for name, colour in camvid.classes.items()}, **dict(camvid.map)} == {
        colour: names[index] for colour, index in CAMVID_32.values()
    }
