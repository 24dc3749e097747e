"""Tables in terminals of any width: no cell, number or header is cut."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lgc.report.terminal import format_quantity
from lgc.tools.cli.console import grid, print_tables

NUMBERS = st.floats(0, 1e6).map("{:.3f}".format) | st.floats(0, 100).map("{:.1f} %".format)
WORDS = st.from_regex(r"[a-z0-9_./-]{1,40}", fullmatch=True)


@st.composite
def tables(draw):
    """Draw columns of names and numbers, the last name of which may wrap, and rows."""
    num_texts, num_numbers, num_rows = draw(st.integers(1, 4)), draw(st.integers(0, 10)), draw(st.integers(1, 4))
    headers = [f"column{index}" for index in range(num_texts + num_numbers)]
    texts = [WORDS] * (num_texts - 1) + [st.lists(WORDS, min_size=1, max_size=6).map(" ".join)]
    rows = [tuple(draw(each) for each in [*texts, *[NUMBERS] * num_numbers]) for _ in range(num_rows)]
    return headers, rows, num_numbers, draw(st.booleans())


def render(parts, width):
    stream = StringIO()
    print_tables(Console(file=stream, width=width, highlight=False, markup=False), parts)
    return stream.getvalue()


@settings(max_examples=50)
@given(tables(), st.sampled_from([20, 40, 80, 100, 132]))
def test_every_word_is_printed_whole(drawn, width):
    headers, rows, num_numbers, wraps = drawn
    last = headers[len(headers) - num_numbers - 1]
    table = grid("title", *headers, numbers=num_numbers, wrap=[last] if wraps else [])
    for row in rows:
        table.add_row(*row)
    out = render([table], width)
    words = out.split()
    for word in (*headers, *(word for row in rows for cell in row for word in cell.split())):
        assert word in words
    too_long = [line for line in out.splitlines() if len(line) > width]
    assert not too_long or "───" not in out, "only blocks of lines may be wider"


def make_table(num_numbers, names=("a", "b")):
    table = grid("", "network", *(f"n{index}" for index in range(num_numbers)), numbers=num_numbers)
    for name in names:
        table.add_row(name, *(f"{index}.125" for index in range(num_numbers)))
    return table


def test_groups_of_columns_repeat_the_name():
    lines = render([make_table(5)], 24).splitlines()
    assert lines[0].split() == ["network", "n0", "n1"]
    assert lines[2].split() == ["a", "0.125", "1.125"]
    assert lines[5].split() == ["network", "n2", "n3"]
    assert lines[12].split() == ["a", "4.125"]


def test_equal_names_repeat_a_second_column():
    table = grid("", "network", "backend", "ms", "FPS", numbers=2)
    table.add_row("net", "torch", "1.5", "666")
    table.add_row("net", "onnxruntime", "1.0", "1000")
    lines = render([table], 28).splitlines()
    assert [line.split()[:2] for line in lines if "torch" in line] == [["net", "torch"]] * 2


def test_long_name_makes_blocks():
    out = render([make_table(2, names=("x" * 50, "y" * 50))], 40)
    values = "n0       0.125\nn1       1.125\n"
    assert out == f"network  {'x' * 50}\n{values}\nnetwork  {'y' * 50}\n{values}"


def test_lines_wrap_at_words():
    line = "engine  a/long/path-of-a-file/that-has-no-space.onnx and a number 3.14159 behind"
    assert render([line], 40).split() == line.split()


def test_markup_in_names_is_text():
    table = grid("[bold]", "network")
    table.add_row("net[red]:smile:")
    assert render([table, "[i]x[/i]"], 80).split()[0] == "[bold]"
    assert "net[red]:smile:" in render([table], 80)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1.00k"), (7012, "7.01k"), (39_600_000, "39.6M"), (9.995e6, "9.99M"),
     (279e6, "279M"), (28.34e9, "28.3G"), (1.234e12, "1.23T")],
)  # fmt: skip
def test_quantities_have_three_digits(count, text):
    assert format_quantity(count) == text
