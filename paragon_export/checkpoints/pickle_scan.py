"""Check a pickled checkpoint, opcode by opcode, before PyTorch unpickles it.

``torch.load`` with ``weights_only=True`` runs no code that a file names. But it trusts the sizes in
the file, builds objects of a list of classes, and hashes dictionary keys that may expand without
limit. This module rejects everything that a state dict does not need.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pickle import UnpicklingError
from typing import Any

from paragon_export.checkpoints.archive import records_of
from paragon_export.checkpoints.numpy_values import ARRAY, ARRAYS, DTYPE, ORDERS, SCALARS, is_plain

MAX_PICKLE_BYTES = 2**23
"""Length of the pickle alone: it holds names, shapes and settings of the trainer, but no weights."""

MAX_OPCODES = 2**20

MAX_TUPLE_ITEMS = 250
"""Values in a tuple, including those of nested tuples. A tuple may be a key, which is hashed."""

ALLOWED_OPCODES = frozenset(
    ["PROTO", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "MARK", "APPEND", "APPENDS",
     "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST",
     "EMPTY_DICT", "EMPTY_SET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
     "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINGET", "LONG_BINGET", "BINPUT",
     "LONG_BINPUT"]
)  # fmt: skip
"""Opcodes of pickles that ``torch.save`` writes."""

STORAGES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QInt8", "QUInt8", "Untyped"), 1),
    "ComplexDouble": 16,
}
"""Bytes per element by the kind of storage: ``Float`` stands for ``torch.FloatStorage``."""

SAFE_FUNCTIONS = {"collections.OrderedDict", "collections.Counter", "builtins.set",
                  "__builtin__.set", "torch.Size", "torch.device",
                  "torch._utils._rebuild_parameter"}  # fmt: skip
"""Functions that may be called with any arguments: their result is no larger than the arguments."""

REBUILD_FUNCTIONS = {"torch._utils._rebuild_tensor": 4, "torch._utils._rebuild_tensor_v2": 6,
                     "torch._utils._rebuild_tensor_v3": 7}  # fmt: skip
"""Functions that create dense tensors, and their least number of arguments."""


BYTES = "_codecs.encode"
"""The function that makes bytes of a text in pickles of protocol 2."""


@dataclass(frozen=True)
class _Global:
    """A function or class by its full name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A storage of this many elements."""

    elements: int


@dataclass(frozen=True)
class _Opaque:
    """A value whose content does not matter. ``function`` is the name of what returned it."""

    function: str = ""


class _Tuple(tuple[Any, ...]):
    """A tuple and its expanded size."""

    expanded: int
    """Number of values in it, including those of nested tuples."""


_MARK = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def scan(data: bytes) -> None:
    """Check the bytes of a ``.pth`` file: a zip archive, or the format before PyTorch 1.6.

    Raises:
        UnpicklingError: If it names a function or builds an object that no state dict needs.
        ValueError: If it is compressed, is TorchScript, is damaged, exceeds a limit, or declares
            more data than it holds.
        LookupError: If it is damaged.
    """
    if data[:2] == b"PK":
        _scan_zip(data)
    else:
        _scan_legacy(data)


def _scan_zip(data: bytes) -> None:
    """Check a zip archive, as ``torch.save`` writes it."""
    records = records_of(data)
    if len(records["data.pkl"]) > MAX_PICKLE_BYTES:
        raise ValueError(f"its data.pkl is longer than {MAX_PICKLE_BYTES} bytes")

    def check(key: str, size: int) -> None:
        if size > len(records.get(f"data/{key}", b"")):
            raise ValueError(f"storage {key[:20]} declares {size} bytes, which are not there")

    _Scanner(check).run(io.BytesIO(records["data.pkl"]))


def _scan_legacy(data: bytes) -> None:
    """Check a file of five consecutive pickles, the fourth the state dict, and the storages."""
    stream = io.BytesIO(data[:MAX_PICKLE_BYTES])
    sizes: dict[str, int] = {}

    def check(key: str, size: int) -> None:
        sizes[key] = max(size, sizes.get(key, 0))

    for _ in range(5):
        _Scanner(check).run(stream)
    if sum(sizes.values()) > len(data) - stream.tell():
        raise ValueError("its storages declare more bytes than the file has")


# --- opcodes ------------------------------------------------------------------------------


class _Scanner:
    """Executes the opcodes of a pickle with placeholders instead of the objects themselves."""

    def __init__(self, check: Callable[[str, int], None]) -> None:
        """Take a function that gets the key and the bytes of each storage.

        It may raise ValueError.
        """
        self._check = check
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> None:
        """Check one pickle and leave the stream at its end. Errors are those of :func:`scan`."""
        opcodes = pickletools.genops(stream)
        for opcode, argument, _ in islice(opcodes, MAX_OPCODES):
            if opcode.name not in ALLOWED_OPCODES:
                raise UnpicklingError(f"Unsupported opcode {opcode.name}")
            self._step(opcode, argument)
        if next(opcodes, None):
            raise ValueError(f"a pickle of more than {MAX_OPCODES} opcodes")

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = opcode.name, self._stack
        if name.endswith("BINPUT"):
            self._memo[argument] = stack[-1]
        elif name.endswith("BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        else:
            operands = self._pop_operands(opcode)
            if opcode.stack_after:
                stack.append(self._result(name, operands, argument))

    def _pop_operands(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        """Pop the operands of an opcode from the stack, down to the mark if it uses one."""
        stack, before = self._stack, opcode.stack_before
        values: list[Any] = []
        if pickletools.markobject in before:
            while (value := stack.pop()) is not _MARK:
                values.append(value)
            before = before[: before.index(pickletools.markobject)]
        values += [stack.pop() for _ in before]
        if _MARK in values:
            raise ValueError("a pickle whose marks do not match")
        return values[::-1]

    def _result(self, name: str, operands: list[Any], argument: Any) -> Any:
        """Return the placeholder that an opcode pushes onto the stack."""
        if name.startswith("TUPLE"):
            return _tuple(operands)
        if name == "REDUCE":
            return _call(*operands)
        if name == "BINPERSID":
            return self._storage(operands[0])
        if name == "BUILD" and not _is_state(*operands):
            raise UnpicklingError("Unsupported: it sets the state of an object")
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        return operands[0] if operands else _Opaque() if argument is None else argument

    def _storage(self, persistent_id: Any) -> _Storage:
        """Return the storage of ``("storage", class, key, device, elements)``."""
        if not isinstance(persistent_id, tuple) or persistent_id[0] not in ("storage", b"storage"):
            raise UnpicklingError("Unsupported: a persistent object that is no storage")
        _, kind, key, _, elements, *view = persistent_id
        kind = kind.name.rpartition(".")[2].removesuffix("Storage") if _is_storage(kind) else ""
        if kind not in STORAGES or any(part is not None for part in view):
            raise ValueError("a storage of an unknown kind")
        if not _is_count(elements):
            raise ValueError("a storage of an invalid size")
        self._check(str(key), elements * STORAGES[kind])
        return _Storage(elements)


def _is_storage(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("torch.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tuple(values: list[Any]) -> _Tuple:
    result = _Tuple(values)
    result.expanded = sum(getattr(value, "expanded", 1) for value in values) + 1
    if result.expanded > MAX_TUPLE_ITEMS:
        raise ValueError(f"a tuple of more than {MAX_TUPLE_ITEMS} values")
    return result


def _call(function: Any, arguments: Any) -> _Opaque:
    """Return the placeholder for the result of an allowed call.

    Raises:
        UnpicklingError: If the function is not allowed.
        ValueError: If the call builds an unsupported or invalid tensor.
    """
    name = function.name if isinstance(function, _Global) else "a value that is no function"
    if not isinstance(arguments, tuple):
        raise UnpicklingError(f"Unsupported: GLOBAL {name} called without arguments")
    if name in REBUILD_FUNCTIONS:
        _check_tensor(name, arguments)
    elif name == BYTES and arguments[1:] == ("latin1",):
        return _Opaque(name)  # protocol 2 stores bytes this way
    elif _is_numpy_call(name, arguments):
        return _Opaque(ARRAY if name in ARRAYS else name)
    elif name.startswith("torch._utils._rebuild") and name not in SAFE_FUNCTIONS:
        raise ValueError(f"{name}: a tensor that is sparse, quantized or without data")
    elif name not in SAFE_FUNCTIONS:
        raise UnpicklingError(f"Unsupported: GLOBAL {name}")
    return _Opaque(name)


def _is_numpy_call(name: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether NumPy makes a plain type, a value of it or an array in this way."""
    if name == DTYPE:
        return bool(arguments) and is_plain(arguments[0])
    if name in SCALARS:
        return arguments == (_Opaque(DTYPE), _Opaque(BYTES))
    return name in ARRAYS and arguments == (_Global(ARRAY), (0,), _Opaque(BYTES))


def _is_state(value: Any, state: Any) -> bool:
    """Return whether an object is one whose state may be set, and to this."""
    if value == _Opaque("collections.OrderedDict"):
        return True
    if not isinstance(state, tuple):
        return False
    if value == _Opaque(DTYPE):  # its version, byte order, and none of parts, names and fields
        return state[1:2] != () and state[1] in ORDERS and state[2:5] == (None, None, None)
    is_array = value == _Opaque(ARRAY) and len(state) == 5  # its version, shape, type, order, bytes
    return is_array and (state[2], state[4]) == (_Opaque(DTYPE), _Opaque(BYTES))


def _check_tensor(name: str, arguments: tuple[Any, ...]) -> None:
    """Raise ValueError for a tensor that is incomplete or reaches beyond its storage.

    The size of the tensor itself is checked after it is read.
    """
    if len(arguments) < REBUILD_FUNCTIONS[name]:
        raise ValueError("a tensor with missing arguments")
    storage, offset, size, stride = arguments[:4]
    lists = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not isinstance(storage, _Storage) or not lists:
        raise ValueError("a tensor of an unknown kind")
    if not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError("a tensor of invalid extents")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.elements:
        raise ValueError("a tensor that reaches beyond its storage")
