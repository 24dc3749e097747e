"""Pickles read as data: their instructions are looked at one by one, and nothing that a pickle names is called.

A pickle is a program for a stack machine, and `pickle.load` calls whatever functions it names. Here the standard
library's disassembler lists the instructions, and those that build data are carried out: numbers, texts, lists,
tuples, dicts, and NumPy's way of storing an array of objects and a scalar. Everything else is refused.
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
"""What a pickle may name, and what is made of it here. NumPy 2 moved `core`; Python 3 writes old pickles' bytes so."""

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Instructions that carry a value with them."""
_STRUCT_CODES = {"f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}


T = TypeVar("T")


class _Mark:
    """Where a run of items begins on the stack."""


@dataclass
class ObjectArray:
    """An array of objects; `items` in order of memory."""

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
"""Instructions that stand for a new value."""


def load_pickle(data: bytes) -> Any:
    """The object that a pickle holds, an array of objects as `ObjectArray`.

    Raises:
        ValueError: it breaks off, is none, or holds anything but plain data; the message says what.
    """
    machine = _StackMachine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (found,) = machine.stack
    except (IndexError, KeyError, AttributeError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"its instructions make no sense ({error or type(error).__name__})") from error
    return found


class _StackMachine:
    """The stack, and what is kept for later use."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.kept: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction, by its name in `pickletools`."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTRUCTORS:
                stack.append(_CONSTRUCTORS[name]())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _expect(list, stack[-1]).append(item)
            case "APPENDS":
                items = self._marked()
                _expect(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _expect(dict, stack[-1])[_expect(str, key)] = value
            case "SETITEMS":
                items = self._marked()
                pairs = zip(items[::2], items[1::2], strict=True)
                _expect(dict, stack[-1]).update({_expect(str, key): value for key, value in pairs})
            case "MEMOIZE":
                self.kept[len(self.kept)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.kept[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.kept[argument])
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
                raise ValueError(f"it holds an instruction that is no plain data ({name})")

    def _marked(self) -> list[Any]:
        """What lies above the last mark, taken off together with it."""
        at = max(index for index, value in enumerate(self.stack) if isinstance(value, _Mark))
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def _resolve_name(module: str, name: str) -> _Name:
    if (module, name) not in ALLOWED_NAMES:
        raise ValueError(f"it names {f'{module}.{name}'[:80]!r}, which is no plain data")
    return _Name(ALLOWED_NAMES[module, name])


def _set_state(state: tuple[Any, ...], made: Any) -> None:
    """Give an array its items, or a dtype its byte order."""
    if isinstance(made, ObjectArray):
        made.items = _expect(list, state[4])
    else:
        _expect(_Dtype, made).order = ">" if state[1] == ">" else "<"


def _evaluate_call(kind: str, arguments: tuple[Any, ...]) -> Any:
    """What a call in the pickle stands for."""
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
    raise ValueError(f"it calls {kind}, which is no plain data")


def _expect(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"it holds {type(value).__name__} in the place of {kind.__name__}")
    return value
