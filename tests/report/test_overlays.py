"""Picture of labelled images."""

import numpy as np
import pytest

from lgc.models.palettes import distinct_palette
from lgc.profiler.inference.painting import Legend
from lgc.report.overlays import CELL, INK, Overlay, draw_overlays

LEGEND = Legend(("road", "sky"), ((200, 0, 0), (0, 0, 200)))

PAINTED = [160, 39, 39]
"""Grey 100 under 60 % of road."""


def fit(height, width, label=0, legend=LEGEND):
    pixels = np.full((height, width, 3), 100, np.uint8)
    return Overlay.fit("a.png", pixels, np.full((height, width), label, np.uint8), legend).picture


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((480, 640), (240, 320)), ((2000, 100), (240, 12)), ((1, 9000), (1, 320)), ((50, 60), (240, 288))],
)
def test_image_is_fitted_into_a_cell(size, fitted):
    assert fit(*size).shape == (*fitted, 3)


def test_classes_are_blended_over_the_image():
    assert fit(50, 60, 0)[0, 0].tolist() == PAINTED
    assert fit(50, 60, 1)[0, 0].tolist() == PAINTED[::-1]


def test_ignored_pixels_are_hatched():
    values, counts = np.unique(fit(48, 64, 255), return_counts=True)
    assert values.tolist() == [0, 100, 255]
    assert counts.argmax() == 1


def test_borders_of_classes_are_outlined():
    legend = Legend(("wall", "fog"), ((100, 100, 100), (100, 100, 100)))
    labels = np.array([[0, 1]], np.uint8)
    picture = Overlay.fit("a", np.full((1, 2, 3), 100, np.uint8), labels, legend).picture
    assert (picture != 100).any(-1).sum(1).tolist() == [1] * len(picture)
    assert (picture[:, picture.shape[1] // 2 - 1] == INK).all()


def test_page_has_pictures_and_legend():
    overlay = Overlay("a.png", fit(50, 60))
    page = draw_overlays([overlay] * 5, LEGEND, ["50 %", "25 %", "25 %"])
    colours = {tuple(colour) for colour in page.reshape(-1, 3).tolist()}
    assert {*LEGEND.palette, tuple(PAINTED), (255, 255, 255)} <= colours
    painted = (page == PAINTED).all(-1)
    assert painted.sum() == 5 * 240 * 288
    assert page.shape[1] > 4 * CELL[0]


def test_many_classes_and_long_names_fit():
    legend = Legend(tuple(f"a very long name of class {index}" for index in range(255)), distinct_palette(255))
    page = draw_overlays([Overlay("folder/" * 40, fit(50, 60, 254, legend))], legend, ["1 %"] * 256)
    visible = {tuple(colour) for colour in page.reshape(-1, 3).tolist()}
    assert set(legend.palette) <= visible


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("道路", "class 7"),
        ("Straße", "class 7: Stra?e"),
        ("Łąka", "class 7: ?aka"),
        ("road \u2013 wet", "class 7: road ? wet"),
        ("Vélo", "class 7: Velo"),
        ("Ve\u0301lo", "class 7: Velo"),
        ("the farthest Straße", "class 7: ...t Stra?e"),
        ("tram", "tram"),
    ],
)
def test_name_without_glyphs_has_its_id(name, drawn):
    pages = [draw_overlays([], Legend((text,), LEGEND.palette), [""], [7]) for text in (name, drawn)]
    assert np.array_equal(*pages)
    assert not np.array_equal(pages[0], draw_overlays([], Legend(("class 8",), LEGEND.palette), [""], [7]))


def test_titles_in_any_script_are_drawn():
    picture = fit(50, 60)
    pages = [draw_overlays([Overlay(title, picture)], LEGEND, ["", ""]) for title in ("写é.png", "?e.png")]
    assert np.array_equal(*pages)


def test_page_without_pictures_has_a_legend():
    assert draw_overlays([], LEGEND, ["", "", ""]).size


def test_rows_are_as_high_as_their_pictures():
    wide = Overlay("a.png", fit(100, 200))
    assert len(draw_overlays([wide] * 5, LEGEND, ["", ""])) < len(
        draw_overlays([wide, Overlay("b", fit(50, 60))] * 3, LEGEND, ["", ""])
    )


def test_legend_lists_ignored_pixels_with_a_note():
    with_ignored, without = (draw_overlays([], LEGEND, [""] * count) for count in (3, 2))
    assert (with_ignored == 150).all(-1).any()
    assert not (without == 150).all(-1).any()
