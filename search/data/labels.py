"""Classes and ids of Cityscapes, colours of CamVid, and conversions between them, for generated scenes.

Sources: `labels.py` of cityscapesScripts (ids, train ids, colours); `label_colors.txt` of CamVid (32 colours, Brostow
et al. 2009) and the common reduction of its classes to 11 (Sturgess et al. 2009; SegNet, Badrinarayanan et al. 2017).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

LabelMap = npt.NDArray[np.uint8]

IGNORE = 255
CAMVID_VOID = 11


class TrainId(IntEnum):
    """The 19 classes of the Cityscapes benchmark; `VOID` is every other class."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18
    VOID = IGNORE


# Regular id of each train id.
CITYSCAPES_REGULAR_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# The 32 classes of the original labels: colour, and index of the reduced class.
CAMVID_32: dict[str, tuple[tuple[int, int, int], int]] = {
    "Animal": ((64, 128, 64), 9),
    "Archway": ((192, 0, 128), 1),
    "Bicyclist": ((0, 128, 192), 10),
    "Bridge": ((0, 128, 64), 1),
    "Building": ((128, 0, 0), 1),
    "Car": ((64, 0, 128), 8),
    "CartLuggagePram": ((64, 0, 192), 9),
    "Child": ((192, 128, 64), 9),
    "Column_Pole": ((192, 192, 128), 2),
    "Fence": ((64, 64, 128), 7),
    "LaneMkgsDriv": ((128, 0, 192), 3),
    "LaneMkgsNonDriv": ((192, 0, 64), 3),
    "Misc_Text": ((128, 128, 64), 6),
    "MotorcycleScooter": ((192, 0, 192), 10),
    "OtherMoving": ((128, 64, 64), 8),
    "ParkingBlock": ((64, 192, 128), 4),
    "Pedestrian": ((64, 64, 0), 9),
    "Road": ((128, 64, 128), 3),
    "RoadShoulder": ((128, 128, 192), 4),
    "Sidewalk": ((0, 0, 192), 4),
    "SignSymbol": ((192, 128, 128), 6),
    "Sky": ((128, 128, 128), 0),
    "SUVPickupTruck": ((64, 128, 192), 8),
    "TrafficCone": ((0, 0, 64), 2),
    "TrafficLight": ((0, 64, 64), 6),
    "Train": ((192, 64, 128), 8),
    "Tree": ((128, 128, 0), 5),
    "Truck_Bus": ((192, 128, 192), 8),
    "Tunnel": ((64, 0, 64), 1),
    "VegetationMisc": ((192, 192, 0), 5),
    "Void": ((0, 0, 0), IGNORE),
    "Wall": ((64, 192, 0), 1),
}

# CamVid class of each Cityscapes class.
_CAMVID_NAMES = (
    "Road",
    "Sidewalk",
    "Building",
    "Wall",
    "Fence",
    "Column_Pole",
    "TrafficLight",
    "SignSymbol",
    "Tree",
    "VegetationMisc",
    "Sky",
    "Pedestrian",
    "Bicyclist",
    "Car",
    "Truck_Bus",
    "Truck_Bus",
    "Train",
    "MotorcycleScooter",
    "Bicyclist",
)


def _lookup(pairs: list[tuple[int, int]], default: int) -> LabelMap:
    """Return a lookup table, uint8 [256], with (source, target) of `pairs` and `default` elsewhere."""
    table = np.full(256, default, dtype=np.uint8)
    for source, target in pairs:
        table[source] = target
    return table


# Lookup tables, uint8 [256]; apply them as `table[label]`.
TRAIN_ID_TO_ID = _lookup(list(enumerate(CITYSCAPES_REGULAR_IDS)), 0)
TRAIN_ID_TO_CAMVID = _lookup([(train, CAMVID_32[name][1]) for train, name in enumerate(_CAMVID_NAMES)], IGNORE)


def train_id_to_camvid_rgb(label: LabelMap) -> npt.NDArray[np.uint8]:
    """Convert train ids [H, W] to colours of the original CamVid labels: uint8 [H, W, 3], void black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    for train, name in enumerate(_CAMVID_NAMES):
        table[train] = CAMVID_32[name][0]
    coloured: npt.NDArray[np.uint8] = table[label]
    return coloured


def train_id_to_id(label: LabelMap) -> LabelMap:
    """Convert train ids [H, W] to regular Cityscapes ids [H, W]; void becomes 0."""
    ids: LabelMap = TRAIN_ID_TO_ID[label]
    return ids
