"""Read a pickle of plain data and NumPy's arrays of objects, without running anything that it names.

A pickle is a program that can call any function of any module. This unpickler has no instructions but those that build
data, and resolves names to stand-ins of its own, so that no code of NumPy runs either. It derives from the standard
library's unpickler in Python, whose memo is a dict: the one in C allocates memory up to the largest index.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any, ClassVar

MAX_BYTES = 2**24
"""Maximum size of a pickle, whose objects take up to 100 times the memory. A table has about 100 kB."""

_NAMES = {"numpy": ("dtype", "ndarray"), "_codecs": ("encode",)}  # protocol 2 encodes bytes as text
_NAMES |= dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar"))
_INSTRUCTIONS = (  # those of numpy.save in protocols 2 to 5
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "BININT", "BININT1", "BININT2"),
    *("LONG1", "LONG4", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "BUILD"),
)
_STRUCT_CODES = {"O8": "", "f2": "e", "f4": "f", "f8": "d", "i4": "i", "i8": "q"}  # O8 has no scalars


class StandIn:
    """Function, class or object of NumPy, with the state that the pickle sets. It cannot be called."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _TextDict(dict[str, Any]):
    """Dict without keys but text: to hash a deep tuple overflows the stack, and a wide one takes forever."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise ValueError(f"{type(key).__name__} instead of str")
        key.encode()  # ValueError: half a surrogate pair cannot be written anywhere
        super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    stack: list[Any]

    def find_class(self, module: str, name: str) -> StandIn:
        if name not in _NAMES.get(module, ()):
            raise ValueError(f"name {f'{module}.{name}'[:80]!r} is not plain data")
        return StandIn(name)

    def load_empty_dictionary(self) -> None:
        self.stack.append(_TextDict())

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_evaluate_call(getattr(function, "name", type(function).__name__), arguments))

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for (code,) in (getattr(pickle, name) for name in _INSTRUCTIONS)
    }
    dispatch |= {pickle.EMPTY_DICT[0]: load_empty_dictionary, pickle.REDUCE[0]: load_reduce}


def _evaluate_call(function: str, arguments: Any) -> Any:
    """Return the value of a call, which is small, as a pickle can repeat a call with a long argument."""
    match function, arguments:
        case "_reconstruct", (StandIn(name="ndarray"), _, _):
            return StandIn("array")
        case "dtype", (str(code), _, _) if code in _STRUCT_CODES:
            return StandIn(code)
        case "encode", (str(text), _) if len(text) <= 8:
            return text.encode("latin-1")
        case "scalar", (StandIn(name=code, state=(_, order, *_)), bytes(data)) if code in _STRUCT_CODES:
            return struct.unpack((">" if order == ">" else "<") + _STRUCT_CODES[code], data)[0]
    raise ValueError(f"call of {function} is not plain data")


def load_pickle(data: bytes) -> Any:
    """Return the object in a pickle; an array is a `StandIn`, whose state ends with the list of its items.

    Raises:
        ValueError: The data is truncated, too large, not a pickle, or more than plain data.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes are too many for a table, the maximum is {MAX_BYTES}")
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except KeyError as error:  # of `dispatch`
        raise ValueError(f"instruction {bytes(error.args)!r} is not plain data") from error
    except (pickle.UnpicklingError, EOFError, IndexError, AttributeError, TypeError, struct.error) as error:
        raise ValueError(f"invalid instructions ({str(error) or 'they have no end'})") from error
