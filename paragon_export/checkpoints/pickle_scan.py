"""Scan: a pickled checkpoint looked through, opcode by opcode, before anything of it is built.

``torch.load`` with ``weights_only`` runs no code that a file names. It does believe what a file
says of sizes, makes whatever a short list of classes can make, and hashes keys that unfold without
end. What no state dict needs is refused here; the rest is left to PyTorch.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pickle import UnpicklingError
from typing import Any

MAX_PICKLE_BYTES = 2**23
"""Names and shapes of a state dict, and what trainers put beside them; weights are not in it."""

MAX_OPCODES = 2**20

MAX_RECORDS = 2**16

MAX_DIRECTORY_BYTES = 2**24
"""Of an archive's list of its records: 256 bytes for each."""

MAX_TUPLE_ITEMS = 250
"""Values in a tuple and in the tuples in it: it may be a key, and a key is hashed."""

OPCODES = frozenset(
    [
        "PROTO",
        "STOP",
        "GLOBAL",
        "REDUCE",
        "BUILD",
        "BINPERSID",
        "MARK",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINGET",
        "LONG_BINGET",
        "BINPUT",
        "LONG_BINPUT",
    ]
)

STORAGES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool", "QInt8", "QUInt8", "Untyped"), 1),
    "ComplexDouble": 16,
}
"""Bytes of an element of a storage of PyTorch's, as in ``torch.FloatStorage``."""

HARMLESS = {"collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set",
            "torch.Size", "torch.device", "torch._utils._rebuild_parameter"}  # fmt: skip
"""What may be called on anything: the result is no larger than what was given."""

REBUILD = {"torch._utils._rebuild_tensor": 4, "torch._utils._rebuild_tensor_v2": 6,
           "torch._utils._rebuild_tensor_v3": 7}  # fmt: skip
"""How plain tensors are made, and how many arguments that takes at least."""


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    elements: int


@dataclass(frozen=True)
class _Made:
    """A value that is not looked into; ``by`` names what made it."""

    by: str = ""


class _Tuple(tuple[Any, ...]):
    unfolded: int
    """Values in it and in the tuples in it."""


_MARK = object()

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def scan(data: bytes) -> None:
    """Look through the bytes of a ``.pth`` file, zipped or of before PyTorch 1.6.

    Raises:
        UnpicklingError: If it names a function or makes an object that no state dict needs.
        ValueError: If it is compressed, TorchScript, or claims more than is there.
        LookupError: If it is damaged, as with ValueError.
    """
    if data[:2] == b"PK":
        _scan_zip(data)
    else:
        _scan_legacy(data)


# --- archives -----------------------------------------------------------------------------


def check_directory(data: bytes) -> None:
    """Refuse an archive whose list of records is too long, before anything reads the list.

    What stands at its end says where the list is: what ``zipfile`` and PyTorch go by.

    Raises:
        ValueError: If it is too long, or not where the archive ends.
    """
    at = len(data) - 22
    if data[at : at + 4] != b"PK\5\6" or data[-2:] != b"\0\0":  # there is a comment
        at = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 2**16))
    if at < 0 or len(data) - at < 22:
        raise ValueError("an archive without an end")
    records, size = struct.unpack("<10xHL6x", data[at : at + 22])
    end = at
    if data[max(0, at - 20) : at][:4] == b"PK\6\7":  # numbers that need 64 bits
        end = at - 76
        (told,) = struct.unpack("<8xQ4x", data[at - 20 : at])
        if end < 0 or told != end or data[end : end + 4] != b"PK\6\6":
            raise ValueError("an archive with two ends that do not agree")
        records, size = struct.unpack("<32xQQ8x", data[end : end + 56])
    found = data.count(b"PK\1\2", max(0, end - size), end)
    if max(records, found) > MAX_RECORDS or size > MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"an archive of {max(records, found)} records, listed in {size} bytes; at most "
            f"{MAX_RECORDS} in {MAX_DIRECTORY_BYTES} bytes are read"
        )


def _scan_zip(data: bytes) -> None:
    check_directory(data)
    try:
        infos = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, OverflowError) as error:
        raise ValueError(f"a damaged zip archive: {error}") from error
    names = {info.filename.partition("/")[2] for info in infos}
    if "constants.pkl" in names:
        raise ValueError("a TorchScript archive; save the network's state dict")
    if len(names) != len(infos):
        raise ValueError("one of its records is there twice")
    if sum(info.file_size for info in infos) > len(data):
        raise ValueError(f"its {len(infos)} records claim more bytes than the file has")
    records = {info.filename.partition("/")[2]: _record(data, info) for info in infos}
    if len(records.get("data.pkl", b"")) > MAX_PICKLE_BYTES:
        raise ValueError(f"its data.pkl is longer than {MAX_PICKLE_BYTES} bytes")
    _check_sums(infos, list(records.values()))

    def check(key: str, size: int) -> None:
        if size > len(records.get(f"data/{key}", b"")):
            raise ValueError(f"storage {key[:20]} claims {size} bytes, which are not there")

    _Scan(check).run(io.BytesIO(records.get("data.pkl", b"")))


def _record(data: bytes, info: zipfile.ZipInfo) -> memoryview:
    """Return a record, found as PyTorch finds it."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError("its records are compressed or encrypted, which PyTorch never does")
    header = data[info.header_offset : info.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise ValueError(f"record {info.filename[:80]} is not where the archive says")
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    record = memoryview(data)[begin : begin + info.file_size]
    if len(record) != info.file_size or info.compress_size != info.file_size:
        raise ValueError(f"record {info.filename[:80]} is longer than what is there")
    return record


def _check_sums(infos: Sequence[zipfile.ZipInfo], records: Sequence[memoryview]) -> None:
    """Find damage by the checksums; where none is right, the writer left them out."""
    wrong = [i.filename for i, r in zip(infos, records, strict=True) if zlib.crc32(r) != i.CRC]
    if wrong and len(wrong) < len(infos):
        raise ValueError(f"record {wrong[0][:80]} is damaged: its checksum does not match")


# --- files of before PyTorch 1.6 ----------------------------------------------------------


def _scan_legacy(data: bytes) -> None:
    """Five pickles one after the other (the fourth is the state), then the storages."""
    stream = io.BytesIO(data[:MAX_PICKLE_BYTES])
    claimed: dict[str, int] = {}

    def check(key: str, size: int) -> None:
        claimed[key] = max(size, claimed.get(key, 0))

    for _ in range(5):
        _Scan(check).run(stream)
    if sum(claimed.values()) > len(data) - stream.tell():
        raise ValueError("its storages claim more bytes than are there")


# --- opcodes ------------------------------------------------------------------------------


class _Scan:
    """Runs a pickle on values that stand for what PyTorch would make."""

    def __init__(self, check: Callable[[str, int], None]) -> None:
        """``check`` is called with the key and the bytes of each storage, and raises ValueError."""
        self._check = check
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: io.BytesIO) -> None:
        opcodes = pickletools.genops(stream)
        for opcode, argument, _ in islice(opcodes, MAX_OPCODES):
            if opcode.name not in OPCODES:
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
            taken = self._take(opcode)
            if opcode.stack_after:
                stack.append(self._result(name, taken, argument))

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[Any]:
        """Take what an opcode takes off the stack, back to the mark if it wants one."""
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

    def _result(self, name: str, taken: list[Any], argument: Any) -> Any:
        if name.startswith("TUPLE"):
            return _tuple(taken)
        if name == "REDUCE":
            return _call(*taken)
        if name == "BINPERSID":
            return self._storage(taken[0])
        if name == "BUILD" and taken[0] != _Made("collections.OrderedDict"):
            raise UnpicklingError("Unsupported: it sets the state of an object")
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        return taken[0] if taken else _Made() if argument is None else argument

    def _storage(self, told: Any) -> _Storage:
        """Read ``("storage", class, key, device, elements)``."""
        if not isinstance(told, tuple) or told[0] not in ("storage", b"storage"):
            raise UnpicklingError("Unsupported: a persistent object that is no storage")
        _, kind, key, _, elements, *view = told
        kind = kind.name.rpartition(".")[2].removesuffix("Storage") if _is_storage(kind) else ""
        if kind not in STORAGES or any(part is not None for part in view):
            raise ValueError("a storage of an unknown kind")
        if not _is_count(elements):
            raise ValueError("a storage of an impossible size")
        self._check(str(key), elements * STORAGES[kind])
        return _Storage(elements)


def _is_storage(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("torch.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _tuple(values: list[Any]) -> _Tuple:
    found = _Tuple(values)
    found.unfolded = sum(getattr(value, "unfolded", 1) for value in values) + 1
    if found.unfolded > MAX_TUPLE_ITEMS:
        raise ValueError(f"a tuple of more than {MAX_TUPLE_ITEMS} values")
    return found


def _call(function: Any, arguments: Any) -> _Made:
    """Let through what makes state dicts and harmless values."""
    name = function.name if isinstance(function, _Global) else "something that is no name"
    if not isinstance(arguments, tuple):
        raise UnpicklingError(f"Unsupported: GLOBAL {name} called without arguments")
    if name in REBUILD:
        _check_tensor(name, arguments)
    elif name == "_codecs.encode" and arguments[1:] == ("latin1",):
        return _Made(name)  # how bytes are written
    elif name.startswith("torch._utils._rebuild") and name not in HARMLESS:
        raise ValueError(f"{name}: a tensor that is sparse, quantized or without data")
    elif name not in HARMLESS:
        raise UnpicklingError(f"Unsupported: GLOBAL {name}")
    return _Made(name)


def _check_tensor(name: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a tensor that reaches beyond its storage; how large it is counts once it is read."""
    if len(arguments) < REBUILD[name]:
        raise ValueError("a tensor of which something is not told")
    storage, offset, size, stride = arguments[:4]
    lists = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not isinstance(storage, _Storage) or not lists:
        raise ValueError("a tensor of an unknown kind")
    if not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError("a tensor of impossible extents")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.elements:
        raise ValueError("a tensor that reaches beyond its storage")
