"""Labels in palette mode, with alpha, of one or 16 bits, and rotated images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lgc.errors import DataError
from lgc.models.images import read_pixels
from lgc.search.data.check import check_dataset
from lgc.search.data.datasets import load_dataset
from lgc.search.data.description import read_dataset
from lgc.search.data.labels import TRAIN_ID_TO_ID
from lgc.search.data.reading import read_label
from lgc.search.data.synthetic.writers import write_scenes

CLASSES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
COLOURS = np.array([(128, 64, 128), (0, 0, 142), (70, 130, 180)], np.uint8)
COLOURED = "{road: [128, 64, 128], car: [0, 0, 142], sky: [70, 130, 180]}"
PERMUTED = np.array([2, 0, 1])
"""Position of each class's colour in a palette of another order."""


def decode(folder: Path, file: Image.Image, classes: str = COLOURED, fields: str = "") -> list[list[int]]:
    """Save a label, and read it in a dataset with these classes; labels in the folder get images."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    file.save(folder / "labels/a.png")
    for path in (folder / "labels").iterdir():
        with Image.open(path) as label:
            Image.new("RGB", label.size).save(folder / f"images/{path.stem}.png")
    text = f"name: d\nimages: images/*\nlabels: labels/*\nsplits: [train]\nclasses: {classes}\n{fields}"
    (folder / "dataset.yaml").write_text(text)
    (pair,) = (pair for pair in read_dataset(folder).pairs("train") if pair.image.stem == "a")
    return read_label(pair.label, pair.coding).tolist()


def in_palette_mode(values: np.ndarray, palette: np.ndarray) -> Image.Image:
    file = Image.fromarray(values.astype(np.uint8))
    file.putpalette(palette.astype(np.uint8).tobytes())
    return file


GREY = np.repeat(np.arange(256)[:, None], 3, 1)
SAME_ORDER = in_palette_mode(CLASSES, COLOURS)
OTHER_ORDER = in_palette_mode(PERMUTED[CLASSES], COLOURS[np.argsort(PERMUTED)])
FOREIGN = in_palette_mode(CLASSES, COLOURS[::-1] // 2 + 1)


@pytest.mark.parametrize("classes", [COLOURED, "[road, car, sky]"])
@pytest.mark.parametrize("palette", [GREY, np.zeros((3, 3))])
def test_palette_without_meaning_is_read_by_index(tmp_path: Path, classes: str, palette: np.ndarray) -> None:
    assert decode(tmp_path, in_palette_mode(CLASSES, palette), classes) == CLASSES.tolist()


@pytest.mark.parametrize("file", [SAME_ORDER, OTHER_ORDER], ids=["same order", "other order"])
@pytest.mark.parametrize("kind", ["", "kind: palette\n", "kind: colours\n"])
def test_palette_of_classes_is_read_by_colour(tmp_path: Path, file: Image.Image, kind: str) -> None:
    assert decode(tmp_path, file, fields=kind) == CLASSES.tolist()


def test_foreign_palette_is_refused_with_both_readings(tmp_path: Path) -> None:
    message = r"its values are 0, 1, 2, their colours \(36, 66, 91\), .*write `kind: indices` or `kind: colours`"
    with pytest.raises(DataError, match=message) as caught:
        decode(tmp_path, FOREIGN)
    assert str(tmp_path / "labels/a.png") in str(caught.value)
    assert decode(tmp_path, FOREIGN, fields="kind: indices\n") == CLASSES.tolist()


def test_palette_without_class_colours_has_indices(tmp_path: Path) -> None:
    black_first = np.concatenate([[(0, 0, 0)], COLOURS])
    assert decode(tmp_path, in_palette_mode(np.zeros((1, 2)), black_first), "[road, car, sky]") == [[0, 0]]
    assert decode(tmp_path, FOREIGN, "[road, car, sky]") == CLASSES.tolist()
    (remark,) = read_dataset(tmp_path).remarks
    assert remark.endswith("a.png: read by index, since `classes` has no colours for those of its palette")
    with pytest.raises(DataError, match=r"is ambiguous \(mode P\)"):
        decode(tmp_path, FOREIGN, "[road, car, sky]", "ignore: 0 0 0\n")
    OTHER_ORDER.save(tmp_path / "labels/A.png")
    with pytest.raises(
        DataError, match=r"a\.png has the colour .* for the value 0, other labels have .*: give each of"
    ):
        decode(tmp_path, FOREIGN, "[road, car, sky]")


@pytest.mark.parametrize("colours", ["adaptive", "quantised"])
def test_camvid_colours_in_palette_mode(tmp_path: Path, colours: str) -> None:
    """A copy of CamVid's original whose labels were converted to palette mode."""
    write_scenes(tmp_path, "camvid", {"train": 2}, (32, 48))
    spec = read_dataset(tmp_path)
    pairs = spec.pairs("train")
    before = [read_label(pair.label, pair.coding) for pair in pairs]
    table = np.array([*spec.palette, *[(0, 0, 0)] * 245], np.uint8)
    for pair, classes in zip(pairs, before, strict=True):
        file = Image.fromarray(table[classes])
        small = file.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
        (small if colours == "adaptive" else file.quantize(colors=32, dither=Image.Dither.NONE)).save(pair.label)
    with Image.open(pairs[0].label) as file:
        assert file.mode == "P"
    for pair, classes in zip(pairs, before, strict=True):
        assert np.array_equal(read_label(pair.label, pair.coding), classes)


def test_ignored_value_keeps_any_colour(tmp_path: Path) -> None:
    values = np.where(CLASSES == 2, 255, CLASSES)
    file = in_palette_mode(values, np.concatenate([COLOURS, np.full((253, 3), 77)]))
    assert decode(tmp_path, file) == values.tolist()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_colours_of_ignored_values_are_refused(tmp_path: Path, mode: str) -> None:
    file = Image.fromarray((CLASSES > 0).astype(np.uint8) * 255)
    if mode == "P":
        file.putpalette(GREY.astype(np.uint8).tobytes())
    black_and_white = "{bare: [0, 0, 0], plant: [255, 255, 255]}"
    with pytest.raises(DataError, match=rf"is ambiguous \(mode {mode}\): its values are 0, 255"):
        decode(tmp_path, file, black_and_white)
    fields = "kind: indices\nvalues: [0, 255]\nignore: []\n"
    assert decode(tmp_path, file, black_and_white, fields) == (CLASSES > 0).astype(int).tolist()


ROAD_FIRST, BLACK_IGNORED = "{road: [255, 0, 0], tree: [0, 255, 0], bare: [0, 0, 0]}", "ignore: 0 0 0\n"
ONE_CHANNEL = {
    "one bit": lambda black: black.convert("1"),
    "L": lambda black: black.convert("L"),
    "LA": lambda black: black.convert("LA"),
    "16 bits": lambda black: Image.fromarray(np.zeros((2, 3), np.uint16)),
    "black palette": lambda black: in_palette_mode(np.zeros((2, 3)), np.zeros((256, 3))),
    "web palette": lambda black: black.convert("P"),
}
"""Ways to save a black label with one channel."""


@pytest.mark.parametrize("form", ONE_CHANNEL.values(), ids=ONE_CHANNEL)
@pytest.mark.parametrize("fields", ["", BLACK_IGNORED])
def test_black_label_is_never_the_first_class(
    tmp_path: Path, form: Callable[[Image.Image], Image.Image], fields: str
) -> None:
    classes = "{road: [255, 0, 0], tree: [0, 255, 0]}" if fields else ROAD_FIRST
    black = form(Image.new("RGB", (3, 2)))
    with pytest.raises(DataError, match="is ambiguous"):
        decode(tmp_path, black, classes, fields)
    Image.fromarray(np.array([[(255, 0, 0), (0, 0, 0), (0, 255, 0)]], np.uint8)).save(tmp_path / "labels/b.png")
    assert decode(tmp_path, black, classes, fields) == [[255 if fields else 2] * 3] * 2
    (remark,) = (text for text in read_dataset(tmp_path).remarks if "by colour" in text)
    assert remark.endswith(
        "a.png: greys have another class by colour than by index: read as colours, like the other labels"
    )


@pytest.mark.parametrize("mode", ["1", "L"])
def test_white_label_of_colours_is_first_class(tmp_path: Path, mode: str) -> None:
    white, classes = Image.new("RGB", (3, 2), "white").convert(mode), "{paved: [255, 255, 255], house: [0, 0, 255]}"
    with pytest.raises(DataError, match="is ambiguous"):
        decode(tmp_path, white, classes)
    Image.fromarray(np.array([[(255, 255, 255), (0, 0, 255)]], np.uint8)).save(tmp_path / "labels/b.png")
    assert decode(tmp_path, white, classes) == [[0] * 3] * 2


def test_black_label_of_indices_is_first_class(tmp_path: Path) -> None:
    black = Image.new("L", (3, 2))
    with pytest.raises(DataError, match="is ambiguous"):
        decode(tmp_path, black, ROAD_FIRST)
    Image.fromarray(CLASSES).save(tmp_path / "labels/b.png")
    assert decode(tmp_path, black, ROAD_FIRST) == [[0] * 3] * 2
    Image.fromarray(np.array([[(255, 0, 0), (0, 0, 0)]], np.uint8)).save(tmp_path / "labels/c.png")
    with pytest.raises(DataError, match="is ambiguous"):
        decode(tmp_path, black, ROAD_FIRST)


def test_black_frame_of_camvid_is_void(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid", {"train": 2}, (32, 48))
    pair = read_dataset(tmp_path).pairs("train")[0]
    Image.new("L", (48, 32)).save(pair.label)
    assert np.unique(read_label(pair.label, pair.coding)).tolist() == [255]


def test_masks_of_0_and_255_are_said(tmp_path: Path) -> None:
    file = Image.fromarray((CLASSES > 0).astype(np.uint8) * 255)
    assert decode(tmp_path, file, "[bare, plant]") == np.where(CLASSES > 0, 255, 0).tolist()
    (remark,) = read_dataset(tmp_path).remarks
    assert "its labels hold 0 and 255 only, and 255 is ignored; if it is a class, write `values: [0, 255]`" in remark


@pytest.mark.parametrize(("void", "is_said"), [(False, True), (True, False)])
def test_masks_of_two_sources_are_said(tmp_path: Path, void: bool, is_said: bool) -> None:
    """Half of the files have 0 and 255, the others 0 and 1; a dataset with void has it beside 1, too."""
    plant = (CLASSES > 0).astype(np.uint8)
    decode(tmp_path, Image.fromarray(plant * 255), "[bare, plant]")
    other = plant.copy()
    other[0, 0] = 255 if void else other[0, 0]
    Image.fromarray(other).save(tmp_path / "labels/b.png")
    Image.fromarray(COLOURS[CLASSES]).save(tmp_path / "images/b.png")
    remarks = read_dataset(tmp_path).remarks
    said = "1 of 2 labels, e.g. "
    assert [said in remark and "hold 0 and 255, the others 0 and 1" in remark for remark in remarks] == [True] * is_said


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_opaque_alpha_is_ignored(tmp_path: Path, mode: str) -> None:
    file = Image.fromarray(CLASSES if mode == "LA" else COLOURS[CLASSES]).convert(mode)
    assert decode(tmp_path, file) == CLASSES.tolist()
    file.putpixel((1, 1), (*file.getpixel((1, 1))[:-1], 254))
    with pytest.raises(DataError, match=rf"a\.png: it has transparent pixels \(mode {mode}\)"):
        decode(tmp_path, file)


def test_one_bit_labels_are_two_classes(tmp_path: Path) -> None:
    file = Image.fromarray(CLASSES > 0)
    assert file.mode == "1"
    assert decode(tmp_path, file, "[road, car]") == (CLASSES > 0).astype(int).tolist()


def save_bits(path: Path, values: np.ndarray, bits: int) -> None:
    """Save label values with few bits per pixel."""
    size = -(-values.shape[1] * bits // 8)
    rows = b"".join(
        b"\0" + int("".join(f"{value:0{bits}b}" for value in row).ljust(8 * size, "0"), 2).to_bytes(size, "big")
        for row in values
    )
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [2, 4])
def test_values_of_few_bits_are_not_spread(tmp_path: Path, bits: int) -> None:
    decode(tmp_path, Image.fromarray(CLASSES))
    save_bits(tmp_path / "labels/a.png", CLASSES, bits)
    (pair,) = read_dataset(tmp_path).pairs("train")
    assert read_label(pair.label, pair.coding).tolist() == CLASSES.tolist()


MASK = np.array([[0, 1, 1]], np.uint8)
MIXED = r"and .*b\.png differ in bits per pixel, and nothing shows whether value 1 of the first or grey 255 is meant"


@pytest.mark.parametrize(
    ("other", "fields", "expected"),
    [
        ([0, 255], "values: [0, 255]\nignore: []\n", MASK),
        ([0, 255], "ignore: 7\n", MASK),
        ([0, 1], "", MASK),
        ([0, 0], "", MASK),
        ([0, 255], "", None),
        ([0, 1, 255], "", None),
    ],
)
def test_one_bit_labels_next_to_8_bits(
    tmp_path: Path, other: list[int], fields: str, expected: np.ndarray | None
) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.array([other], np.uint8)).save(tmp_path / "labels/b.png")
    file = Image.fromarray(MASK > 0)
    if expected is None:
        with pytest.raises(DataError, match=MIXED):
            decode(tmp_path, file, "[bare, plant]", fields)
    else:
        assert decode(tmp_path, file, "[bare, plant]", fields) == expected.tolist()


def test_16_bit_masks_next_to_8_bits(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    Image.fromarray(MASK * 255).save(tmp_path / "labels/b.png")
    deep = Image.fromarray(MASK.astype(np.uint16) * 65535)
    assert decode(tmp_path, deep, "[bare, plant]", "values: [0, 255]\nignore: []\n") == MASK.tolist()
    with pytest.raises(DataError, match="nothing shows whether value 65535 of the first or grey 255 is meant"):
        decode(tmp_path, deep, "[bare, plant]", "values: [0, 65535]\n")
    deep = Image.fromarray(MASK.astype(np.uint16) * 300)
    assert decode(tmp_path, deep, "[bare, plant]", "values: [0, 300]\n") == MASK.tolist()


@pytest.mark.parametrize("fields", ["", "ignore: []\n"])
def test_one_and_two_bits_are_refused(tmp_path: Path, fields: str) -> None:
    (tmp_path / "labels").mkdir()
    save_bits(tmp_path / "labels/b.png", CLASSES, 2)
    with pytest.raises(DataError, match=MIXED):
        decode(tmp_path, Image.fromarray(MASK > 0), "[a, b, c, d]", fields)


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("JPEG", {}, "JPEG"),
        ("WEBP", {"quality": 80}, "lossy WebP"),
        ("TIFF", {"compression": "jpeg"}, "JPEG-compressed TIFF"),
    ],
)
def test_lossy_labels_need_ranges(tmp_path: Path, form: str, options: dict[str, object], name: str) -> None:
    content = BytesIO()
    Image.fromarray(MASK * 255).convert("RGB" if form == "WEBP" else "L").save(content, form, **options)
    decode(tmp_path, Image.fromarray(MASK), "[bare, plant]")
    (tmp_path / "labels/a.png").write_bytes(content.getvalue())
    ranges = {"map": {"0-127": "bare", "128-255": "plant"}, "ignore": []}
    content = {"name": "d", "images": "images/*", "labels": "labels/*", "splits": ["train"]}
    for fields in ({"values": [0, 255], "ignore": []}, ranges):
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump({**content, "classes": ["bare", "plant"], **fields}))
        spec = read_dataset(tmp_path)
        (pair,) = spec.pairs("train")
        if fields is ranges:
            assert read_label(pair.label, pair.coding).tolist() == MASK.tolist()
            assert spec.remarks[0].endswith(f"a.png: {name}, whose values the ranges of `map` join")
        else:
            with pytest.raises(DataError, match=rf"a\.png is a {name} file, whose compression alters label values"):
                read_label(pair.label, pair.coding)
            assert [problem.kind for problem in check_dataset(spec).problems] == ["damaged_labels"]


def test_grey_rgb_jpeg_is_read_by_ranges(tmp_path: Path) -> None:
    content = BytesIO()
    Image.fromarray(MASK * 255).convert("RGB").save(content, "JPEG")
    decode(tmp_path, Image.fromarray(MASK), "[bare, plant]")
    (tmp_path / "labels/a.png").write_bytes(content.getvalue())
    fields = {"classes": ["bare", "plant"], "map": {"0-127": "bare", "128-255": "plant"}, "ignore": []}
    text = yaml.safe_dump({"name": "d", "images": "images/*", "labels": "labels/*", "splits": ["train"], **fields})
    (tmp_path / "dataset.yaml").write_text(text)
    (pair,) = read_dataset(tmp_path).pairs("train")
    assert read_label(pair.label, pair.coding).tolist() == MASK.tolist()


def test_16_bit_values_are_mapped_or_refused(tmp_path: Path) -> None:
    file = Image.fromarray(np.array([[0, 300, 65535]], np.uint16))
    assert decode(tmp_path, file, "[road, car]", "values: [0, 65535]\nignore: 300\n") == [[0, 255, 1]]
    with pytest.raises(DataError, match="contains the value 300, expected label values 0-1, 255"):
        decode(tmp_path, file, "[road, car]")


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("RGB", "indices", "is an image of mode RGB, expected label values 0-2, 255"),
        ("L", "colours", "is an image of mode L, expected the colours of the classes"),
        ("F", "indices", "mode F is neither of indices nor of colours"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path: Path, mode: str, kind: str, message: str) -> None:
    file = Image.new(mode, (3, 2))
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", file.size).save(tmp_path / "images/a.png")
    name = "a.tif" if mode == "F" else "a.png"
    file.save(tmp_path / "labels" / name)
    text = f"name: d\nimages: images/*\nlabels: labels/*\nsplits: [train]\nkind: {kind}\nclasses: {COLOURED}\n"
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path, "train")[0]


def rotate_image(path: Path) -> np.ndarray:
    """Store an image lying on its side, with the EXIF orientation that turns it upright; return it upright."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    file = Image.fromarray(np.rot90(pixels, 1))
    exif = file.getexif()
    exif[0x0112] = 6
    file.save(path, exif=exif)
    return pixels


def test_images_are_rotated_as_in_prediction(tmp_path: Path) -> None:
    decode(tmp_path, Image.new("L", (12, 8)))
    pixels = rotate_image(tmp_path / "images/a.png")
    image, label = load_dataset(tmp_path, "train")[0]
    data = load_dataset(tmp_path, "train")
    expected = (pixels / 255 - data.normalisation.mean) / data.normalisation.std
    assert np.allclose(image.numpy().transpose(1, 2, 0), expected, atol=1e-5)
    assert np.array_equal(read_pixels(tmp_path / "images/a.png"), pixels)
    assert label.shape == (8, 12)


def test_label_of_an_unrotated_image_is_refused(tmp_path: Path) -> None:
    decode(tmp_path, Image.new("L", (8, 12)))
    rotate_image(tmp_path / "images/a.png")
    message = r"is 12x8 pixels, its image a\.png 8x12 after its EXIF rotation: rotate the label too"
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path, "train")[0]


def orient(path: Path, orientation: int) -> None:
    """Set the EXIF orientation of an image, whose stored pixels stay."""
    with Image.open(path) as file:
        exif = file.getexif()
        exif[0x0112] = orientation
        file.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_labels_turn_only_with_their_images(tmp_path: Path, orientation: int) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    upright = {2: np.fliplr(values), 3: np.rot90(values, 2), 4: np.flipud(values), 6: np.rot90(values, -1)}
    assert decode(tmp_path, Image.fromarray(values)) == values.tolist()
    orient(tmp_path / "labels/a.png", orientation)
    with pytest.raises(DataError, match=rf"labels/a\.png: it has the EXIF orientation {orientation}, a\.png another"):
        load_dataset(tmp_path, "train")[0]
    orient(tmp_path / "images/a.png", orientation)
    assert read_dataset(tmp_path).remarks == ()
    assert load_dataset(tmp_path, "train")[0][1].tolist() == upright[orientation].tolist()


@pytest.mark.parametrize(
    ("orientation", "size", "doubtful"), [(3, (4, 3), True), (6, (4, 3), False), (6, (3, 3), True)]
)
def test_rotated_images_of_equal_shape_are_reported(
    tmp_path: Path, orientation: int, size: tuple[int, int], doubtful: bool
) -> None:
    decode(tmp_path, Image.new("L", size))
    assert read_dataset(tmp_path).remarks == ()
    orient(tmp_path / "images/a.png", orientation)
    spec = read_dataset(tmp_path)
    says = "1 of 1 images are rotated or mirrored by their EXIF orientation, e.g. "
    assert [says in remark for remark in spec.remarks] == [True] * doubtful
    assert [says in remark for remark in check_dataset(spec).remarks if "EXIF" in remark] == [True] * doubtful


def test_16_bit_image_is_refused(tmp_path: Path) -> None:
    decode(tmp_path, Image.new("L", (3, 2)))
    Image.fromarray(np.zeros((2, 3), np.uint16)).save(tmp_path / "images/a.png")
    with pytest.raises(DataError, match="convert it to 8 bits per channel"):
        load_dataset(tmp_path, "train")[0]


def test_train_ids_instead_of_ids_are_said(tmp_path: Path) -> None:
    write_scenes(tmp_path, "cityscapes", {"train": 3}, (32, 48))
    assert read_dataset(tmp_path).remarks == ()
    inverse = np.full(256, 255, np.uint8)
    inverse[TRAIN_ID_TO_ID[:19]] = np.arange(19)
    for pair in read_dataset(tmp_path).pairs("train"):
        Image.fromarray(inverse[np.asarray(Image.open(pair.label))]).save(pair.label)
    (remark,) = read_dataset(tmp_path).remarks
    share = np.mean([(load_dataset(tmp_path, "train")[index][1] == 255).float().mean() for index in range(3)])
    assert remark.startswith(
        "warning: cityscapes: train: its labels hold 0-18 and 255 only, as train ids do, but are read as"
    )
    assert f"{100 * share:.0f} % of the pixels are ignored" in remark


@pytest.mark.parametrize("values", [[1, 3], [0, 1, 3]])
def test_dummy_labels_are_no_train_ids(tmp_path: Path, values: list[int]) -> None:
    """Cityscapes' test labels hold void ids only, such as ego vehicle (1) and out of ROI (3)."""
    write_scenes(tmp_path, "cityscapes", {"train": 2}, (32, 48))
    for pair in read_dataset(tmp_path).pairs("train"):
        Image.fromarray(np.sort(np.resize(np.array(values, np.uint8), (32, 48)))).save(pair.label)
    (remark,) = read_dataset(tmp_path).remarks
    assert "100 % of the pixels of its labels are ignored" in remark
    assert "labels of test images may be placeholders, which give no score" in remark
    assert "train ids do" not in remark


def test_labels_without_a_class_are_said(tmp_path: Path) -> None:
    write_scenes(tmp_path, "camvid-segnet", {"train": 2}, (32, 48))
    for pair in read_dataset(tmp_path).pairs("train"):
        Image.new("L", (48, 32), 11).save(pair.label)
    assert read_dataset(tmp_path).remarks[0].startswith("warning: camvid-segnet: train: 100 % of the pixels")
