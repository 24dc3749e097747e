"""Strict YAML."""

import re

import pytest

from lgc.yaml_text import parse_yaml


def test_plain_values_are_read():
    text = "a: [1, -2, 0, 1.5, 1.0e+3, true, null, sky]\nb: {c: '010', d: \"no\"}\n<<: {e: 1}\n"
    assert parse_yaml(text) == {
        "a": [1, -2, 0, 1.5, 1000.0, True, None, "sky"],
        "b": {"c": "010", "d": "no"},
        "e": 1,
    }
    assert parse_yaml('{"json": [0.001, 2]}') == {"json": [0.001, 2]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: duplicate key 'a', first on line 1"),
        ("x:\n  a: 1\n  a: 1\n", "line 3: duplicate key 'a', first on line 2"),
        ("{a: 1, a: 2}", "line 1: duplicate key 'a'"),
        ("a: 010", "line 1: 010 is an octal number"),
        ("a: 0o17", "line 1: 0o17 is an octal number"),
        ("a: 0b11", "line 1: 0b11 is a binary number"),
        ("a: 1:30", "line 1: 1:30 is a number in base 60"),
        ("a: 1e1", "line 1: 1e1 is text or a number, depending on the parser, in YAML: write text in quotes"),
        ("a: [sky, no]", "line 1: no is true or false"),
        ("Off: 1", "line 1: Off is true or false"),
        ("a: 2020-01-01", "line 1: 2020-01-01 is a date"),
        ("a: 1_000", "line 1: 1_000 is a number with separators"),
        ("a: [1, 2", "line 1"),
        ("a: !!python/object:os.system {}", "line 1: could not determine a constructor"),
        ("a: \x00", "line|special characters|unacceptable"),
    ],
)
def test_guesses_are_refused(text, message):
    with pytest.raises(ValueError, match="|".join(re.escape(part) for part in message.split("|"))):
        parse_yaml(text)
