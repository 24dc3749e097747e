"""`lgc-data` from the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from lgc.search.data.synthetic.writers import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Return a sound dataset; read-only."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "camvid-segnet", {"train": 3, "val": 2, "test": 1}, (32, 48), 0)
    return folder


@pytest.fixture
def own(tmp_path):
    """Return a dataset of 4 classes with a leak, a missing label and an unknown value."""
    root, rng = tmp_path / "own", np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / f"images/{split}/{index}.png")
            Image.fromarray(np.full((8, 8), index, np.uint8)).save(root / f"labels/{split}/{index}.png")
    (root / "images/val/0.png").write_bytes((root / "images/train/0.png").read_bytes())
    (root / "labels/val/1.png").unlink()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(root / "labels/val/2.png")
    names = "{'[b]road': [9, 9, 9], sky: [0, 0, 200], tree: [0, 99, 0], car: [1, 2, 3]}"
    (root / "dataset.yaml").write_text(
        f"name: own\nimages: images/{{split}}\nlabels: labels/{{split}}\nsplits: [train, val]\nclasses: {names}\n"
    )
    return root


def test_folder_alone_is_shown(call, scenes):
    done = call("lgc-data", scenes)
    assert (done.code, done.err) == (0, "")
    assert done.out == call("lgc-data", "show", scenes).out
    assert f"camvid-segnet: 11 classes, files in {scenes}" in done.out
    assert ["3", "road", "128", "64", "128", "3"] in [line.split() for line in done.out.splitlines()]
    assert "train 3, val 2, test 1" in done.out
    assert "mean 0.485 0.456 0.406, standard deviation 0.229 0.224 0.225" in done.out


def test_show_prints_json(call, own):
    content = json.loads(call("lgc-data", "show", own, "--json").out)
    ignored = ["ignored_label_values", "ignored_label_colours"]
    rest = ["other_label_values", "splits", "normalisation", "remarks"]
    assert list(content) == ["name", "root", "classes", *ignored, *rest]
    road = {"name": "[b]road", "colour": [9, 9, 9], "label_values": [0], "label_colours": []}
    assert content["classes"][0] == road
    assert [content[key] for key in ignored] == [[255], []]
    assert content["splits"] == {"train": 3, "val": 3}
    assert call("lgc-data", own / "dataset.yaml", "--json").out == call("lgc-data", own, "--json").out


def test_label_values_of_classes_are_shown(call, tmp_path):
    write_scenes(tmp_path / "four", "four-classes", {"train": 1}, (32, 32), 0)
    rows = [line.split() for line in call("lgc-data", tmp_path / "four").out.splitlines()]
    assert ["1", "construction", "70", "70", "70", "2-7"] in rows
    assert ["ignored", "255"] in rows


def test_values_of_other_labels_are_shown(call, own):
    splits = "{train: {labels: {files: labels/train, values: 1-4}}, val: , test: {labels: {files: none, values: 5-8}}}"
    path = own / "dataset.yaml"
    path.write_text(path.read_text().replace("splits: [train, val]", f"splits: {splits}"))
    done = call("lgc-data", own)
    rows = [line.split() for line in done.out.splitlines()]
    assert ["2", "tree", "0", "99", "0", "3", "2"] in rows
    assert "in labels/val/" in done.out
    content = json.loads(call("lgc-data", own, "--json").out)
    assert content["classes"][2]["label_values"] == [3]
    assert content["other_label_values"] == [
        {
            "files": "labels/val/",
            "classes": {"[b]road": [0], "sky": [1], "tree": [2], "car": [3]},
            "ignored": [255],
        }
    ]


@pytest.mark.parametrize("kind", ["", "kind: palette\n"])
def test_label_colours_of_classes_are_shown(call, own, kind):
    for path in own.glob("labels/*/*.png"):
        label = Image.fromarray(np.zeros((8, 8), np.uint8))
        label.putpalette([0, 0, 200])
        label.save(path)
    description = (own / "dataset.yaml").read_text()
    (own / "dataset.yaml").write_text(f"{description}ignore: [255, '1 1 1']\n{kind}")
    rows = [line.split() for line in call("lgc-data", own).out.splitlines()]
    assert ["1", "sky", "0", "0", "200", "#0000c8"] in rows
    assert ["ignored", "#010101"] in rows
    content = json.loads(call("lgc-data", own, "--json").out)
    assert content["classes"][1]["label_values"] == []
    assert content["classes"][1]["label_colours"] == [[0, 0, 200]]
    assert content["ignored_label_colours"] == [[1, 1, 1]]


def test_names_are_printed_as_they_are(call, own):
    for command in ("show", "check"):
        assert "[b]road" in call("lgc-data", command, own).out


def test_sound_data_pass(call, scenes):
    done = call("lgc-data", "check", scenes)
    assert done.code == 0, done.err
    assert "no problem" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert any(row[:5] == ["train", "32x48", "3", "3", "3"] for row in rows)


def test_warnings_are_counted(call, tmp_path):
    write_scenes(tmp_path / "four", "four-classes", {"train": 1, "val": 1}, (32, 32), 0)
    for label in tmp_path.rglob("labels/**/*.png"):
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(label)
    done = call("lgc-data", "check", tmp_path / "four")
    assert done.code == 0, done.out
    assert "no problem, but 2 warnings" in done.out.splitlines()
    assert [line.split(": ")[0] for line in done.out.splitlines() if "100 % of the pixels" in line] == ["warning"] * 2


@pytest.mark.parametrize("command", ["show", "check"])
def test_empty_split_is_reported(call, own, command):
    (own / "images/val").rename(own / "images/other")
    assert "val has no images: images/val/ is missing or empty" in call("lgc-data", command, own).out


def test_labels_without_a_match_are_reported(call, own):
    (own / "dataset.yaml").write_text((own / "dataset.yaml").read_text().replace("labels/{split}", "labels/*/*/*.png"))
    assert "train cannot be used: pattern labels/*/*/*.png has 3 wildcards" in call("lgc-data", "show", own).out


def test_problems_exit_with_1(call, own):
    done = call("lgc-data", "check", own)
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    assert "images without a label: 1" in lines
    assert f"  {own}/images/val/1.png: no such file: {own}/labels/val/1.png" in lines
    assert "labels with unknown values: 1" in lines
    assert f"  {own}/labels/val/2.png: unknown values: 77 (100 % of its pixels)" in lines
    assert "images in several splits: 1" in lines
    assert "remark: classes in no label: car" in lines


def test_many_problems_are_shortened(call, own):
    for index in range(3, 12):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(own / f"images/train/{index}.png")
    done = call("lgc-data", "check", own)
    assert "images without a label: 10" in done.out
    assert "  and 5 more: see --json" in done.out.splitlines()
    assert len(json.loads(call("lgc-data", "check", own, "--json").out)["problems"]["missing_labels"]) == 10


def test_check_prints_json(call, own):
    done = call("lgc-data", "check", own, "--json")
    content = json.loads(done.out)
    assert list(content) == ["name", "root", "splits", "problems", "remarks", "overlays"]
    assert {kind: len(problems) for kind, problems in content["problems"].items()} == {
        "unusable_splits": 0,
        "missing_labels": 1,
        "damaged_images": 0,
        "damaged_labels": 0,
        "size_mismatches": 0,
        "unknown_values": 1,
        "leaks": 1,
    }
    assert content["problems"]["leaks"][0]["splits"] == ["train", "val"]
    train, val = content["splits"]["train"], content["splits"]["val"]
    assert (train["images"], train["checked"], train["labelled"], train["sizes"]) == (3, 3, 3, {"8x8": 3})
    assert train["classes"]["sky"] == {"pixels_pct": pytest.approx(100 / 3), "images": 1}
    assert (train["ignored_pct"], val["unknown_pct"]) == (0, 50)


def test_sample_and_quick_are_options(call, own):
    content = json.loads(call("lgc-data", "check", own, "--sample", 1, "--quick", "--json").out)
    assert [split["checked"] for split in content["splits"].values()] == [1, 1]
    assert len(content["problems"]["leaks"]) == 1


def test_overlays_are_written(call, own, tmp_path):
    picture = tmp_path / "deep" / "own.png"
    done = call("lgc-data", "check", own, "--overlays", picture, "--json")
    assert json.loads(done.out)["overlays"] == str(picture)
    with Image.open(picture) as image:
        colours = set(image.get_flattened_data() if hasattr(image, "get_flattened_data") else image.getdata())
    assert {(9, 9, 9), (0, 0, 200), (0, 99, 0), (1, 2, 3)} <= colours


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "the dataset folder missing does not exist"),
        (["check", "missing"], "the dataset folder missing does not exist"),
        (["check"], "Missing argument 'FILE|DIR'"),
        (["chek", "{own}"], "unexpected extra argument"),
        (["check", "{own}", "--sample", "0"], "Invalid value for '--sample'"),
        (["check", "{own}", "--overlays", "{own}.jpg"], "its name must end in .png"),
        (["check", "{own}", "--overlays", "{own}/a.png"], "is inside the dataset"),
    ],
    ids=str,
)
def test_wrong_use_exits_with_one_line(call, own, arguments, message):
    line = call("lgc-data", *(argument.format(own=own) for argument in arguments)).refusal("lgc-data")
    assert message in line
    assert not list(own.glob("*.png"))
