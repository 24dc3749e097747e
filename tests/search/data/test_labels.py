"""Ids, indices, colours and palettes of Cityscapes and CamVid are consistent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgc.models.palettes import colourise_labels
from lgc.search.data.labels import (
    CAMVID_32,
    CAMVID_CLASSES,
    CAMVID_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    ID_TO_TRAIN_ID,
    IGNORE,
    TRAIN_ID_TO_CAMVID,
    TRAIN_ID_TO_ID,
    TrainId,
    camvid_rgb_to_index,
    train_id_to_camvid_rgb,
)
from lgc.search.data.layouts import load_layout


def test_regular_ids_map_to_official_train_ids() -> None:
    expected = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
    }
    expected |= {28: 15, 31: 16, 32: 17, 33: 18}
    assert {i: int(t) for i, t in enumerate(ID_TO_TRAIN_ID) if t != IGNORE} == expected


def test_train_ids_round_trip() -> None:
    train = np.arange(19)
    assert np.array_equal(ID_TO_TRAIN_ID[TRAIN_ID_TO_ID[train]], train)
    assert ID_TO_TRAIN_ID[TRAIN_ID_TO_ID[IGNORE]] == IGNORE


def test_names_and_palettes_match_the_classes() -> None:
    assert len(CITYSCAPES_CLASSES) == len(CITYSCAPES_PALETTE) == 19
    assert len(CAMVID_CLASSES) == len(CAMVID_PALETTE) == 11
    assert (CITYSCAPES_CLASSES[6], CITYSCAPES_CLASSES[18]) == ("traffic light", "bicycle")
    assert len(set(CITYSCAPES_PALETTE)) == 19
    assert len(set(CAMVID_PALETTE)) == 11


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
    assert CAMVID_CLASSES[CAMVID_32[name][1]] == reduced


def test_palette_colours_map_to_their_classes() -> None:
    rgb = np.array([CAMVID_PALETTE], dtype=np.uint8)
    assert camvid_rgb_to_index(rgb)[0].tolist() == list(range(11))


@given(st.lists(st.sampled_from([*TrainId]), min_size=1, max_size=30))
def test_colours_and_indices_agree(train: list[TrainId]) -> None:
    label = np.array([train], dtype=np.uint8)
    assert np.array_equal(camvid_rgb_to_index(train_id_to_camvid_rgb(label)), TRAIN_ID_TO_CAMVID[label])


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_unknown_colours_are_rejected(colour: tuple[int, int, int]) -> None:
    known = dict(CAMVID_32.values())
    pixels = np.array([[(0, 0, 0), colour]], dtype=np.uint8)
    if colour in known:
        assert camvid_rgb_to_index(pixels)[0, 1] == known[colour]
    else:
        with pytest.raises(ValueError, match=rf"colour \({colour[0]}, {colour[1]}, {colour[2]}\)"):
            camvid_rgb_to_index(pixels)


def test_void_is_black() -> None:
    shown = colourise_labels(np.array([[0, 10, 255]]), CAMVID_PALETTE)
    assert shown.tolist() == [[[128, 128, 128], [0, 128, 192], [0, 0, 0]]]


def test_generated_scenes_share_facts_with_layouts() -> None:
    """The generator's classes, ids and colours are those of the layouts' files."""
    city, camvid = load_layout("cityscapes"), load_layout("camvid")
    assert city.classes == dict(zip(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, strict=True))
    assert [value for key in city.values for value in key.values] == TRAIN_ID_TO_ID[:19].tolist()
    assert camvid.classes == dict(zip(CAMVID_CLASSES, CAMVID_PALETTE, strict=True))
    names = [*CAMVID_CLASSES, *["ignore"] * 245]
    assert {**{colour: name for name, colour in camvid.classes.items()}, **dict(camvid.map)} == {
        colour: names[index] for colour, index in CAMVID_32.values()
    }
