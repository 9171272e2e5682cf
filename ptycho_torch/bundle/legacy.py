"""Parameters kept as pickles: `params.dill`, written for older tools, read without running anything that it names.

A pickle is a little program that may call any function. Here every class or function that it names becomes a
stand-in which keeps what it is given and does nothing; afterwards the few that mean plain data (numpy arrays and
numbers, paths, ordered dictionaries) are turned into that data, and all others are reported by name.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ptycho_torch.errors import one_line

PICKLE_BYTES = 16 * 2**20
OPCODES = 20_000
VALUES = 100_000
DEPTH = 32
INTEGER_BITS = 1024

PRIMITIVES = (type(None), bool, int, float, str)
FOREIGN = {
    "model.pth": "the reference PtychoPINN torch backend",
    "model.keras": "the reference PtychoPINN TensorFlow backend",
}


def foreign_writer(names: Collection[str]) -> str | None:
    """Who else wrote an archive with these members under the name of a bundle, None when nobody known."""
    files = {PurePosixPath(name).name for name in names}
    if "params.dill" not in files:
        return None
    known = (f"{writer} (params.dill, {file})" for file, writer in FOREIGN.items() if file in files)
    return next(known, "another PtychoPINN (params.dill)")


def dump_parameters(parameters: Mapping[str, Any]) -> bytes:
    """A flat dictionary of primitives as a pickle of protocol 4, its keys sorted; equal content gives equal bytes.

    Raises ValueError when a value is more than a number, text, None, or a list or tuple of these.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # no memo: bytes must not depend on which equal strings happen to be one object
    pickler.dump({name: _primitive(name, parameters[name]) for name in sorted(parameters)})
    return buffer.getvalue()


def load_flat_parameters(data: bytes) -> dict[str, Any]:
    """What `dump_parameters` wrote; ValueError when the pickle names anything or holds more than primitives."""
    return {name: _primitive(name, value) for name, value in _load_dictionary(data).items()}


def load_parameters(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of a pickled dictionary that are plain data, and for each of the others what it would need.

    Nothing that the pickle names is imported or called. Raises ValueError when it is no dictionary, damaged, or
    larger than parameters can be.
    """
    plain: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    reader = _Reader()
    for name, value in _load_dictionary(data).items():
        try:
            plain[name] = reader.plain(value)
        except _NotPlain as refused:
            unreadable[name] = str(refused)
    return plain, unreadable


def _primitive(name: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    items = value if type(value) in (list, tuple) else (value,)
    if type(name) is not str or not all(type(item) in PRIMITIVES for item in items):
        kind = value.name if isinstance(value, _Inert) else type(value).__name__
        raise ValueError(f"{name!a} holds a {kind}, numbers and text are allowed")
    return value


class _Inert(type):
    """What stands for a named class or function: to call, build or fill it only keeps what was given.

    It is a type because the pickle opcode that makes an instance accepts nothing else.
    """

    name: str
    arguments: tuple[Any, ...] | None  # None: named, never called
    state: Any
    entries: list[tuple[Any, Any]]

    def __call__(cls, *arguments: Any, **_: Any) -> _Inert:
        return _stand_in(cls.name, arguments)

    def __setstate__(cls, state: Any) -> None:
        cls.state = state

    def __setitem__(cls, key: Any, value: Any) -> None:
        cls.entries.append((key, value))

    def append(cls, item: Any) -> None:
        cls.entries.append((None, item))

    add = extend = append


def _stand_in(name: str, arguments: tuple[Any, ...] | None = None) -> _Inert:
    def __new__(cls: _Inert, *arguments: Any, **_: Any) -> _Inert:
        return cls(*arguments)

    members: dict[str, Any] = {"name": name, "arguments": arguments, "state": None, "entries": [], "__new__": __new__}
    return _Inert("Unreadable", (), members)


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> _Inert:
        return _stand_in(f"{module}.{name}")


def _load_inert(data: bytes) -> Any:
    """The tree of a pickle with stand-ins for everything that it names."""
    if len(data) > PICKLE_BYTES:
        raise ValueError(f"{len(data)} bytes, parameters take at most {PICKLE_BYTES}")
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            # A store far away makes the unpickler allocate everything in between.
            if count > OPCODES or (opcode.name.endswith("PUT") and (argument or 0) > OPCODES):
                raise ValueError("larger than parameters can be")
        return _InertUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise ValueError(f"damaged pickle: {one_line(error)}") from None


def _load_dictionary(data: bytes) -> dict[str, Any]:
    tree = _load_inert(data)
    if type(tree) is not dict or not all(type(name) is str for name in tree):
        raise ValueError("not a dictionary of named parameters")
    return tree


class _NotPlain(Exception):
    """A value that only code of its writer could make; the text names what it asked for."""


class _Reader:
    """Turns a tree with stand-ins into plain data, within a budget of values and of depth."""

    def __init__(self) -> None:
        self.left = VALUES

    def plain(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > DEPTH:
            raise _NotPlain("more values than parameters can have")
        if isinstance(value, _Inert):
            return self._named(value, depth)
        if type(value) is dict:
            return {self._key(key): self.plain(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple, set, frozenset):
            items = [self.plain(item, depth + 1) for item in value]
            return tuple(items) if type(value) is tuple else items
        if type(value) is int and value.bit_length() > INTEGER_BITS:
            raise _NotPlain(f"an integer of {value.bit_length()} bits")
        return value

    def _key(self, key: Any) -> Any:
        if type(key) not in PRIMITIVES:
            raise _NotPlain(f"a key of type {type(key).__name__}")
        return self.plain(key)

    def _named(self, value: _Inert, depth: int) -> Any:
        rule = _RULES.get(value.name)
        if rule is None or value.arguments is None:
            raise _NotPlain(value.name)
        try:
            return rule(self, value, depth + 1)
        except (TypeError, ValueError, IndexError, AttributeError, MemoryError):
            raise _NotPlain(f"{value.name} with arguments that make no sense") from None


def _ordered(reader: _Reader, value: _Inert, depth: int) -> dict[Any, Any]:
    pairs, *_ = value.arguments or ([],)
    return reader.plain(dict([*pairs, *value.entries]), depth)


def _path(reader: _Reader, value: _Inert, depth: int) -> str:
    return str(PurePosixPath(*reader.plain(value.arguments, depth)))


def _complex(reader: _Reader, value: _Inert, depth: int) -> complex:
    real, imaginary = reader.plain(value.arguments, depth)
    return complex(float(real), float(imaginary))


def _collection(reader: _Reader, value: _Inert, depth: int) -> list[Any]:
    items, *_ = reader.plain(value.arguments, depth) or ([],)
    return list(items)


def _encoded(reader: _Reader, value: _Inert, depth: int) -> bytes:
    """_codecs.encode(text, 'latin1'): how bytes travel in pickles of protocol 2 and below."""
    text, encoding = reader.plain(value.arguments, depth)
    if encoding != "latin1":
        raise _NotPlain(f"text encoded as {encoding!a}")
    return _require(text, str).encode("latin1")


def _reconstructed(reader: _Reader, value: _Inert, depth: int) -> np.ndarray:
    """numpy.core.multiarray._reconstruct(ndarray, (0,), b'b'), then the state (version, shape, dtype, order, bytes)."""
    kind, *_ = value.arguments or ()
    return _array_of_state(reader, kind, value.state)


def _created(reader: _Reader, value: _Inert, depth: int) -> np.ndarray:
    """dill._dill._create_array(_reconstruct, its arguments, the state, …), dill's wrapping of the same."""
    function, (kind, *_), state, *_ = value.arguments or ()
    if _RULES.get(function.name) is not _reconstructed:
        raise _NotPlain(str(function.name))
    return _array_of_state(reader, kind, state)


def _from_buffer(reader: _Reader, value: _Inert, depth: int) -> np.ndarray:
    """numpy._core.numeric._frombuffer(bytes, dtype, shape, order), the form of protocol 5."""
    data, dtype, shape, order = value.arguments or ()
    return _array(reader.plain(data), dtype, shape, order == "F")


def _scalar(reader: _Reader, value: _Inert, depth: int) -> Any:
    dtype, data = value.arguments or ()
    return _array(reader.plain(data), dtype, (), False).item()


def _array_of_state(reader: _Reader, kind: _Inert, state: Any) -> np.ndarray:
    if kind.name != "numpy.ndarray":
        raise _NotPlain(kind.name)
    _, shape, dtype, fortran, data = state
    return _array(reader.plain(data), dtype, shape, bool(fortran))


def _array(data: Any, dtype: _Inert, shape: Any, fortran: bool) -> np.ndarray:
    """A plain array from bytes that match its shape and type exactly."""
    code, *_ = dtype.arguments or ()
    order = dtype.state[1] if dtype.state else "="
    if not re.fullmatch(r"[biufcSU]\d{1,5}", code) or order not in ("<", ">", "=", "|"):
        raise _NotPlain(f"a numpy array of type {code!a}, plain numbers or text are read")
    kind = np.dtype(order + code)
    sides = [_require(side, int) for side in shape]
    if min(sides, default=0) < 0 or math.prod(sides) * kind.itemsize != len(_require(data, bytes, bytearray)):
        raise _NotPlain("a numpy array whose shape and bytes disagree")
    return np.ndarray(tuple(sides), kind, buffer=data, order="F" if fortran else "C").copy()


def _require(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{type(value).__name__} is not plain")
    return value


_Rule = Callable[[_Reader, _Inert, int], Any]
_RULES: dict[str, _Rule] = {
    "collections.OrderedDict": _ordered,
    "builtins.complex": _complex,
    "builtins.set": _collection,
    "builtins.frozenset": _collection,
    "_codecs.encode": _encoded,
    "dill._dill._create_array": _created,
}
for _package in ("numpy.core", "numpy._core"):
    _RULES[f"{_package}.multiarray._reconstruct"] = _reconstructed
    _RULES[f"{_package}.multiarray.scalar"] = _scalar
    _RULES[f"{_package}.numeric._frombuffer"] = _from_buffer
for _class in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
    _RULES[f"pathlib.{_class}"] = _RULES[f"pathlib._local.{_class}"] = _path
