"""Tensors out of PyTorch's legacy .pth files (before the zip format of release 1.6), with NumPy.

Such a file is a pickle, which is a program for a small stack machine, and the usual machine can be
told to import and call anything. The machine here has no such power: it knows the instructions
that a file of tensors needs, and a name in the file stands for nothing but itself. Four names have
a meaning, see `_call`; every other name, and every other instruction, ends the reading.
"""

import math
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vlm_jax.weights.folder import Arrays, WeightsError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What such files begin with."""

STORAGES: Mapping[str, Any] = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
"""The kinds of buffers, and what they hold."""

ORDERED, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
ALLOWED = (ORDERED, TENSOR, *STORAGES)
"""All names that a file may mention."""


class Name(NamedTuple):
    """A name of ALLOWED."""

    text: str


class View(NamedTuple):
    """A tensor before its buffer is read: shape and strides count elements."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Storage(NamedTuple):
    """A buffer of `size` numbers. dtype: see STORAGES."""

    key: str
    dtype: Any
    size: int


class Mark:
    """Where a group of values begins on the stack."""


def read_pth(path: str | Path) -> Arrays:
    """The tensors of a legacy .pth file that holds a state dict: name to array.

    WeightsError for another kind of file, a damaged one, and for one that holds, or would do,
    anything but tensors; it names what was refused.
    """
    try:
        with open(path, "rb") as file:
            if _run(file, {}) != MAGIC or _run(file, {}) != PROTOCOL:
                raise WeightsError(f"{path} is no legacy .pth file")
            _run(file, {})  # the machine that wrote it
            storages: dict[str, Storage] = {}
            content, keys = _run(file, storages), _run(file, {})
            buffers = {key: _buffer(file, storages[key]) for key in keys}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no readable state dict of tensors: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(x, View) for x in content.values()):
        raise WeightsError(f"{path} holds something other than a dict of tensors")
    return Arrays({str(name): _array(view, buffers, path) for name, view in content.items()})


def _buffer(file: BinaryIO, storage: Storage) -> np.ndarray:
    """The next buffer of the file: its size, then its numbers, little-endian."""
    size = int(np.frombuffer(file.read(8), "<i8")[0])
    if size != storage.size:
        raise ValueError(f"buffer {storage.key} has {size} numbers, not {storage.size}")
    kind = np.dtype(storage.dtype).newbyteorder("<")
    content = file.read(size * kind.itemsize)
    if len(content) != size * kind.itemsize:
        raise ValueError(f"buffer {storage.key} ends early: download the file again")
    return np.frombuffer(content, kind)


def _array(view: View, buffers: Mapping[str, np.ndarray], path: Any) -> np.ndarray:
    """A tensor as an array of its own. WeightsError if it reaches outside its buffer."""
    buffer = buffers[view.storage]
    steps = zip(view.shape, view.strides, strict=True)
    last = view.offset + sum((size - 1) * stride for size, stride in steps)
    sound = view.offset >= 0 and all(x >= 0 for x in (*view.shape, *view.strides))
    if math.prod(view.shape) and not (sound and last < buffer.size):
        raise WeightsError(f"{path}: a tensor reaches outside its buffer {view.storage}")
    strides = tuple(stride * buffer.itemsize for stride in view.strides)
    rows = np.lib.stride_tricks.as_strided(buffer[view.offset :], view.shape, strides)
    return np.array(rows, buffer.dtype.newbyteorder("="), order="C")


def _call(function: Any, arguments: Any) -> Any:
    """The two calls that there are: an empty ordered dict, and a tensor of a buffer."""
    if function == Name(ORDERED) and arguments == ():
        return {}
    if function == Name(TENSOR):
        storage, offset, shape, strides, *_ = arguments
        if isinstance(storage, Storage):
            return View(storage.key, offset, tuple(shape), tuple(strides))
    raise ValueError(f"it calls {function!r}, which is refused")


def _storage(identity: Any, storages: dict[str, Storage]) -> Storage:
    """A buffer by its description ("storage", kind, key, device, size, view of another)."""
    word, kind, key, _, size, view = identity
    if word != "storage" or not isinstance(kind, Name) or view is not None:
        raise ValueError(f"it refers to {identity!r}, which is refused")
    return storages.setdefault(key, Storage(key, STORAGES[kind.text], size))


def _name(text: str) -> Name:
    if text not in ALLOWED:
        raise ValueError(f"it names {text.replace(' ', '.')}, which is refused")
    return Name(text)


def _group(stack: list) -> list:
    """Take the values above the last mark off the stack."""
    start = max(i for i, value in enumerate(stack) if isinstance(value, Mark))
    group = stack[start + 1 :]
    del stack[start:]
    return group


def _pairs(stack: list, values: list) -> None:
    stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _reduce(stack: list) -> Any:
    arguments, function = stack.pop(), stack.pop()
    return _call(function, arguments)


def _build(stack: list) -> None:
    """What an object is told about itself (a state dict's versions) changes no tensor."""
    stack.pop()
    if not isinstance(stack[-1], dict):
        raise ValueError(f"it sets attributes of {stack[-1]!r}, which is refused")


def _several(count: int) -> Callable[[list], tuple]:
    def take(stack: list) -> tuple:
        values = tuple(stack[-count:])
        del stack[-count:]
        return values

    return take


CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": Mark,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "NONE": lambda: None,
}
VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "BINFLOAT")
PUSHES: Mapping[str, Callable[[list], Any]] = {
    "TUPLE": lambda stack: tuple(_group(stack)),
    "TUPLE1": _several(1),
    "TUPLE2": _several(2),
    "TUPLE3": _several(3),
    "REDUCE": _reduce,
}
CHANGES: Mapping[str, Callable[[list], Any]] = {
    "SETITEM": lambda stack: _pairs(stack, list(_several(2)(stack))),
    "SETITEMS": lambda stack: _pairs(stack, _group(stack)),
    "APPENDS": lambda stack: (group := _group(stack)) and stack[-1].extend(group),
    "APPEND": lambda stack: stack[-2].append(stack.pop()),
    "BUILD": _build,
}
STORES, LOADS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


def _run(file: BinaryIO, storages: dict[str, Storage]) -> Any:
    """The value of the next pickle in the file. ValueError for what the machine does not know."""
    stack: list[Any] = []
    memory: dict[Any, Any] = {}
    for instruction, argument, _ in pickletools.genops(file):
        name: str = instruction.name
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in PUSHES:
            stack.append(PUSHES[name](stack))
        elif name in CHANGES:
            CHANGES[name](stack)
        elif name in STORES:
            memory[argument] = stack[-1]
        elif name in LOADS:
            stack.append(memory[argument])
        elif name == "GLOBAL":
            stack.append(_name(str(argument)))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), storages))
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"it holds the instruction {name}, which is refused")
    return stack.pop()
