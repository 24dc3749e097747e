"""Read pickles as data, without calling anything that they name.

A pickle is a program for a stack machine, and `pickle.load` calls every function in it. This module disassembles the
program with the standard library and executes only instructions that build data: numbers, strings, lists, tuples,
dicts, and NumPy's object arrays and scalars. All others are rejected.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

ALLOWED_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    ("_codecs", "encode"): "bytes",
}
"""Allowed names -> their kind. NumPy 2 renamed `core`; protocols 0 to 2 of Python 3 encode bytes by `_codecs`."""

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Instructions with a literal value."""
_STRUCT_CODES = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}

T = TypeVar("T")


class _Mark:
    """Start of a sequence of items on the stack."""


@dataclass
class ObjectArray:
    """Array of objects, with `items` in memory order."""

    items: list[Any] = field(default_factory=list)


@dataclass
class _Dtype:
    code: str
    order: str = "<"


@dataclass(frozen=True)
class _Name:
    kind: str


_CONSTRUCTORS: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
"""Instructions that create an empty or constant value."""


def load_pickle(data: bytes) -> Any:
    """Return the object in a pickle, with an array of objects as `ObjectArray`.

    Raises:
        ValueError: The data is truncated, not a pickle, or more than plain data.
    """
    machine = _StackMachine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    except (IndexError, KeyError, AttributeError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"invalid instructions ({error or type(error).__name__})") from error
    return result


class _StackMachine:
    """Stack and memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Execute an instruction, given by its name in `pickletools`."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTRUCTORS:
                stack.append(_CONSTRUCTORS[name]())
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _expect(list, stack[-1]).append(item)
            case "APPENDS":
                items = self._pop_to_mark()
                _expect(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(dict, stack[-1])[_expect(str, key)] = value
            case "SETITEMS":
                items = self._pop_to_mark()
                pairs = zip(items[::2], items[1::2], strict=True)
                _expect(dict, stack[-1]).update({_expect(str, key): value for key, value in pairs})
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_resolve_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                text, module = stack.pop(), stack.pop()
                stack.append(_resolve_name(_expect(str, module), _expect(str, text)))
            case "REDUCE":
                arguments, called = _expect(tuple, stack.pop()), _expect(_Name, stack.pop())
                stack.append(_evaluate_call(called.kind, arguments))
            case "BUILD":
                _set_state(_expect(tuple, stack.pop()), stack[-1])
            case _:
                raise ValueError(f"instruction {name} is not plain data")

    def _pop_to_mark(self) -> list[Any]:
        """Remove the items above the last mark, and the mark, from the stack; return the items."""
        mark = max(index for index, value in enumerate(self.stack) if isinstance(value, _Mark))
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items


def _resolve_name(module: str, name: str) -> _Name:
    if (module, name) not in ALLOWED_NAMES:
        raise ValueError(f"name {f'{module}.{name}'[:80]!r} is not plain data")
    return _Name(ALLOWED_NAMES[module, name])


def _set_state(state: tuple[Any, ...], target: Any) -> None:
    """Set the items of an array or the byte order of a dtype."""
    if isinstance(target, ObjectArray):
        target.items = _expect(list, state[4])
    else:
        _expect(_Dtype, target).order = ">" if state[1] == ">" else "<"


def _evaluate_call(kind: str, arguments: tuple[Any, ...]) -> Any:
    """Return the value of an allowed call."""
    if kind == "array":
        return ObjectArray()
    if kind == "dtype":
        return _Dtype(_expect(str, arguments[0]))
    if kind == "bytes":
        return _expect(str, arguments[0]).encode("latin-1")
    if kind == "scalar":
        dtype = _expect(_Dtype, arguments[0])
        (number,) = struct.unpack(dtype.order + _STRUCT_CODES[dtype.code], _expect(bytes, arguments[1]))
        return number
    raise ValueError(f"call of {kind} is not plain data")


def _expect(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
    return value
