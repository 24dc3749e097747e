"""Strict YAML: duplicate keys and ambiguous scalars are errors, not guesses."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
_AMBIGUOUS = (
    (re.compile(r"[+-]?0o?[0-9_]+"), "an octal number"),
    (re.compile(r"[+-]?0b[01_]+"), "a binary number"),
    (re.compile(r"[+-]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "a number in base 60"),
    (re.compile(r"(?i:yes|no|on|off)"), "true or false"),
    (re.compile(r"[+-]?[0-9]+[eE][+-]?[0-9]+"), "text or a number, depending on the parser,"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"), "a date"),
    (re.compile(r"[+-]?[0-9]+(_[0-9]+)+"), "a number with separators"),
)
"""Plain scalars with another meaning in YAML 1.1 than in YAML 1.2 or in plain text, and that meaning."""


def parse_yaml(text: str) -> object:
    """Parse YAML or JSON text.

    Raises:
        ValueError: The text is not YAML, has a duplicate key, or an ambiguous plain scalar such as `010` or `no`; the
            message has the line.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}{error.problem or error.context}") from error
    except _ERRORS as error:  # the loader's own errors of other types, e.g. of a date that does not exist
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from error


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that refuses what it would have to guess."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; refuse a key that stands twice."""
        marks: dict[Hashable, yaml.Mark] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and marks.setdefault(key, key_node.start_mark) is not key_node.start_mark:
                problem = f"duplicate key {key_node.value!r}, first on line {marks[key].line + 1}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode) -> str:  # type: ignore[override]
        """Return the text of a scalar; refuse an ambiguous plain one."""
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            for pattern, reading in _AMBIGUOUS:
                if pattern.fullmatch(node.value):
                    problem = f"{node.value} is {reading} in YAML: write text in quotes, numbers in decimal digits"
                    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return str(super().construct_scalar(node))
