"""Hostile files: pickles that want to run code, claims that nothing backs, bombs."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

STATE = {"conv.weight": torch.ones(2, 2), "conv.bias": torch.zeros(2)}

# --- writing pickles by hand --------------------------------------------------------------


def text(value: str) -> bytes:
    """Return the opcodes that push a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    """Return the opcodes that push a whole number."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def call(function: str, *arguments: bytes) -> bytes:
    """Return the opcodes that call ``module.name``; arguments are opcodes themselves."""
    module, _, name = function.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str, key: str, elements: int) -> bytes:
    """Return the opcodes that ask for a storage."""
    what = f"ctorch\n{kind}\n".encode()
    return b"(" + text("storage") + what + text(key) + text("cpu") + whole(elements) + b"tQ"


def numbers(*values: int) -> bytes:
    """Return the opcodes that push a tuple of whole numbers."""
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(
    claimed: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0"
) -> bytes:
    """Return the opcodes that rebuild a tensor on a storage that claims so many elements."""
    hooks = call("collections.OrderedDict")
    parts = storage("FloatStorage", key, claimed), whole(offset), numbers(*size), numbers(*stride)
    return call("torch._utils._rebuild_tensor_v2", *parts, b"\x89", hooks)


def state_of(value: bytes, name: str = "conv.weight") -> bytes:
    """Return a whole pickle of a state dict with one entry."""
    return b"\x80\x02}(" + text(name) + value + b"u."


def archive(
    data_pkl: bytes,
    records: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return a ``.pth`` file around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        contents = {"data.pkl": data_pkl, "version": b"3\n", "byteorder": b"little"}
        for name, data in {**contents, "data/0": bytes(16), **(records or {})}.items():
            zipped.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def legacy(state: bytes, storages: bytes = b"") -> bytes:
    """Return a file as PyTorch wrote it before 1.6, around a pickle."""
    first = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    return b"".join(pickle.dumps(part, 2) for part in first) + state + storages


# --- what wants to run --------------------------------------------------------------------


def code_values(canary: Path) -> dict[str, bytes]:
    """Return opcodes of values that make ``canary``, or would lead to it, where they are built."""
    shell, python = text(f"touch '{canary}'"), text(f"open({str(canary)!r}, 'w')")
    inner = pickle.dumps(0, 2)[:-2] + call("os.system", shell) + b"."
    blob = b"B" + struct.pack("<I", len(inner)) + inner
    opened = text(str(canary)), text("w")
    names = {
        "os.system": [shell],
        "posix.system": [shell],
        "nt.system": [shell],
        "os.popen": [shell],
        "os.execvp": [text("sh"), b"](" + text("-c") + shell + b"e"],
        "subprocess.Popen": [b"](" + text("touch") + text(str(canary)) + b"e"],
        "subprocess.check_output": [b"](" + text("touch") + text(str(canary)) + b"e"],
        "pty.spawn": [b"](" + text("touch") + text(str(canary)) + b"e"],
        "builtins.eval": [python],
        "__builtin__.eval": [python],
        "builtins.exec": [python],
        "builtins.compile": [python, text("x"), text("exec")],
        "builtins.open": list(opened),
        "io.open": list(opened),
        "builtins.__import__": [text("antigravity")],
        "builtins.getattr": [b"cos\nsystem\n", text("__call__")],
        "builtins.breakpoint": [],
        "importlib.import_module": [text("antigravity")],
        "runpy.run_path": [text(str(canary))],
        "timeit.timeit": [python],
        "operator.attrgetter": [text("system")],
        "functools.partial": [b"cos\nsystem\n", shell],
        "types.FunctionType": [python],
        "ctypes.CDLL": [text(str(canary))],
        "shutil.rmtree": [text(str(canary.parent))],
        "socket.create_connection": [text("localhost"), whole(9)],
        "webbrowser.open": [text("http://localhost:9")],
        "pickle.loads": [blob],
        "_pickle.loads": [blob],
        "marshal.loads": [blob],
        "torch.load": [text(str(canary))],
        "torch.storage._load_from_bytes": [blob],
        "torch.jit.load": [text(str(canary))],
        "torch.hub.load": [text(str(canary)), text("x")],
        "torch.ops.load_library": [text(str(canary))],
        "torch.serialization.os.system": [shell],
        "torch._utils._rebuild_wrapper_subclass": [b"cos\nsystem\n", shell],
        "torch._tensor._rebuild_from_type_v2": [b"cos\nsystem\n", b"N", b"(" + shell + b"t", b"}"],
        "torch._utils._rebuild_parameter_with_state": [shell, b"\x88", b"}", b"}"],
        "torch._utils._rebuild_device_tensor_from_numpy": [shell, shell, shell, b"\x88"],
        "torch._utils._rebuild_sparse_tensor": [shell, b")"],
        "torch._utils._rebuild_meta_tensor_no_storage": [shell, b")", b")", b"\x88"],
        "torch.utils.cpp_extension.load_inline": [text("x"), python],
        "torch._dynamo.optimize": [],
        "numpy.core.multiarray._reconstruct": [b"cnumpy\nndarray\n", numbers(0), shell],
        "numpy.load": [text(str(canary))],
        "joblib.load": [text(str(canary))],
        "dill._dill._create_function": [python],
        "cloudpickle.loads": [blob],
        "_codecs.encode": [shell, text("rot13")],
        "builtins.bytearray": [whole(2**40)],
        "torch.Tensor": [whole(2**40)],
    }
    values = {name: call(name, *arguments) for name, arguments in names.items()}
    values |= _in_numpy_values(call("os.system", shell))
    build = b"(" + text("touch") + text(str(canary)) + b"l"
    return values | {
        "INST": b"(" + shell + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + shell + b"o",
        "NEWOBJ": b"ccollections\nCounter\n)\x81",
        "NEWOBJ_EX": b"csubprocess\nPopen\n(" + build + b"t}\x92",
        "STACK_GLOBAL": text("os") + text("system") + b"\x93" + shell + b"\x85R",
        "EXT1": b"\x82\x01",
        "BUILD": tensor(4, (2, 2), (2, 1)) + b"}(" + text("__class__") + shell + b"ub",
        "BUILD of nothing": call("torch._utils._rebuild_parameter", shell) + b"}b",
        "a name called without arguments": b"cos\ngetcwd\nNR",
        "persistent module": b"(" + text("module") + b"cos\nsystem\n" + shell + b"tQ",
        "reduce of a result": call("collections.OrderedDict") + b"(" + shell + b"tR",
    }


DOUBLE = call("numpy.dtype", text("f8"), b"\x89", b"\x88")
"""NumPy's type of float64 without its state."""

EIGHT_BYTES = call("_codecs.encode", text("\0" * 8), text("latin1"))


def numpy_array(kind: bytes, content: bytes, owner: bytes = b"cnumpy\nndarray\n") -> bytes:
    """Return the opcodes of a NumPy array of one value."""
    letter = call("_codecs.encode", text("b"), text("latin1"))
    made = call("numpy._core.multiarray._reconstruct", owner, numbers(0), letter)
    return made + b"(" + whole(1) + numbers(1) + kind + b"\x89" + content + b"tb"


def _in_numpy_values(code: bytes) -> dict[str, bytes]:
    """Return numbers, types and arrays of NumPy with code in each place."""
    scalars = "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"
    objects = call("numpy.dtype", text("O8"), b"\x89", b"\x88")
    order = b"(" + whole(3) + code + b"NNN" + whole(-1) + whole(-1) + whole(0) + b"tb"
    return {
        **{f"bytes of {name}": call(name, DOUBLE, code) for name in scalars},
        **{f"type of {name}": call(name, code, EIGHT_BYTES) for name in scalars},
        "object of numpy.scalar": call(scalars[0], objects, code),
        "numpy.dtype": call("numpy.dtype", code),
        "state of numpy.dtype": DOUBLE + order,
        "objects in a NumPy array": numpy_array(objects, b"](" + code + b"e"),
        "NumPy array of another class": numpy_array(DOUBLE, EIGHT_BYTES, b"cos\nsystem\n"),
    }


def code_files(canary: Path) -> dict[str, bytes]:
    """Return files that want to run something: every value in an archive, and some as they are."""
    values = code_values(canary)
    files = {f"zip {name}": archive(state_of(value)) for name, value in values.items()}
    for name in ("os.system", "builtins.eval", "pickle.loads", "torch.hub.load", "INST"):
        files[f"legacy {name}"] = legacy(state_of(values[name]))
        files[f"bare {name}"] = b"\x80\x02" + values[name] + b"."
    inner = files["zip os.system"]
    files["archive in an archive"] = archive(inner, {"archive/data.pkl": inner})
    files["TorchScript"] = torch_script()
    for record in ("constants.pkl", "attributes.pkl"):
        files[f"pickled {record}"] = archive(state_of(values["os.system"]), {record: inner})
    return files


def torch_script() -> bytes:
    """Return a TorchScript archive, which holds code."""
    return archive(b"\x80\x02}.", {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"op = 1"})


# --- claims and bombs ---------------------------------------------------------------------


def _nested_tuples(depth: int) -> bytes:
    return b")" + b"".join(b"q" + bytes([i % 256]) + b"h" + bytes([i % 256]) + b"\x86"
                           for i in range(depth))  # fmt: skip


def bombs() -> dict[str, bytes]:
    """Return files that would eat memory or time, or read what is not theirs."""
    one = tensor(4, (2, 2), (2, 1))
    zeros = {"data/0": bytes(2**24)}
    values = {
        "expanded without end": tensor(1, (10**6, 10**6), (0, 0)),
        "expanded to gigabytes": tensor(1, (2**29,), (0,)),
        "claims a large storage": tensor(10**15, (2, 2), (2, 1)),
        "claims more than its record": tensor(1000, (10, 10), (10, 1)),
        "reaches beyond its storage": tensor(4, (100, 100), (100, 1)),
        "begins beyond its storage": tensor(4, (2, 2), (2, 1), offset=10**12),
        "negative stride": tensor(4, (2, 2), (-2, -1)),
        "negative offset": tensor(4, (2, 2), (2, 1), offset=-(2**40)),
        "negative size": tensor(4, (-2, -2), (2, 1)),
        "overflowing size": tensor(4, (2**63, 2**63), (0, 0)),
        "gigantic number": tensor(4, (1 << 1900,), (1,)),
        "many dimensions": tensor(4, (1,) * 200, (1,) * 200),
        "no such record": tensor(4, (2, 2), (2, 1), key="7"),
        "record outside": tensor(4, (2, 2), (2, 1), key="../../etc/passwd"),
        "long key": tensor(4, (2, 2), (2, 1), key="k" * 10**6),
        "tuples that double": _nested_tuples(60),
        "deep tuple": b")" + b"\x85" * 200_000,
        "deep list": b"]" * 20_000 + b"a" * 19_999,
    }
    files = {name: archive(state_of(value)) for name, value in values.items()}
    key = b"\x80\x02}" + _nested_tuples(60) + one + b"s."
    return files | {
        "a key that doubles": archive(key),
        "legacy claims a large storage": legacy(state_of(values["claims a large storage"]), b"]."),
        "legacy expanded": legacy(state_of(values["expanded without end"]), b"]."),
        "a compressed record": archive(state_of(one), zeros, zipfile.ZIP_DEFLATED),
        "memo without end": archive(b"\x80\x02N" + b"r\xff\xff\xff\xff" * 1000 + b"."),
        "only marks": archive(b"\x80\x02" + b"(" * 100_000 + b"."),
        "a long pickle": archive(b"\x80\x02" + text("x" * 2**23) + b"."),
        "an empty pickle": archive(b""),
        "no pickle": archive(b"\x80\x02}.").replace(b"data.pkl", b"data.pki"),
        "lying sizes": _lying(archive(state_of(one))),
        "a local header that lies": _shifted(archive(state_of(one))),
        "the same record twice": _twice(),
        "quantised": archive(state_of(call("torch._utils._rebuild_qtensor", one))),
        "nested": archive(state_of(call("torch._utils._rebuild_nested_tensor", one))),
    }


def _lying(data: bytes) -> bytes:
    """Claim that a record is of 3 GiB, in the directory."""
    at = data.rindex(b"PK\1\2")
    return data[: at + 20] + struct.pack("<II", 3 * 2**30, 3 * 2**30) + data[at + 28 :]


def _shifted(data: bytes) -> bytes:
    """Let a local header claim a long name, so that its record begins beyond the end."""
    at = data.index(b"PK\3\4", 4)
    return data[: at + 26] + b"\xff\xff" + data[at + 28 :]


def _twice() -> bytes:
    """Return an archive with two pickles."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as zipped:
        warnings.simplefilter("ignore")
        for _ in range(2):
            zipped.writestr("archive/data.pkl", b"\x80\x02}.")
    return buffer.getvalue()


def control_names() -> list[str]:
    """Return tensor names that a terminal or a file system would take amiss."""
    return ["../../etc/passwd", "/etc/passwd", "a\0b", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07",
            "line\nbreak", "carriage\rreturn", "back\x08space", "‮txt.gnp", "[bold]x[/]",
            "[/nonsense]", "\x9b31m", "a" * 900]  # fmt: skip


def saved(document: Any, *, zipped: bool = True) -> bytes:
    """Return a file as PyTorch writes it."""
    buffer = io.BytesIO()
    torch.save(document, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()
