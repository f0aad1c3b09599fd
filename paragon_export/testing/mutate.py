"""Mutations of good files: bytes, headers, opcodes, fields and trees. All are drawn from ``rng``."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from paragon_export.testing import hostile

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 16, 17, 255, 256, 257, 1000, 2**15, 2**16, 2**31 - 1, 2**31,
           2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63))  # fmt: skip

TEXTS = ("", "x", "F32", "BF16", "F99", "weight", "module.", "_orig_mod.", "model.", "params",
         "../../etc/passwd", "\x1b[31m", "\0", "[/bold]", "true", "1e-1", "nan", ".inf", "0x7fffffff",
         "é", "‮", "\ud800", "a" * 5000, "0" * 5000, "1:1:1")  # fmt: skip

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    float("nan"),
    float("inf"),
    -0.5,
    1e308,
    [],
    {},
    [[]],
    [None],
)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, insert or splice, once to a few times."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(BYTE_MUTATIONS)(rng, data)
    return data


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if changed:
            # Headers stand at the beginning and the end; the middle is weights.
            span = rng.choice((16, 64, 512, len(changed)))
            at = rng.randrange(min(span, len(changed)))
            changed[rng.choice((at, -1 - at))] ^= rng.choice((1, 2, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    at = rng.choice((rng.randrange(len(data) + 1), rng.randrange(min(len(data), 64) + 1)))
    return rng.choice((data[:at], data[at:], data[: len(data) - at]))


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 64, 1024))]
    return data[:start] + piece * rng.choice((2, 3, 100)) + data[start:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.choice((rng.randrange(len(data) + 1), rng.randrange(min(len(data), 128) + 1)))
    number = rng.choice(NUMBERS) % 2**64
    pieces = (rng.randbytes(rng.choice((1, 4, 8, 100))), struct.pack("<Q", number), b"\xff" * 9,
              b"[" * rng.choice((10, 5000)), b"\0" * 64)  # fmt: skip
    overwrite = rng.choice((0, 8))
    return data[:at] + rng.choice(pieces) + data[at + overwrite :]


def _splice(rng: random.Random, data: bytes) -> bytes:
    a, b = (rng.randrange(len(data) + 1) for _ in "ab")
    return data[:a] + data[b:]


BYTE_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _cut, _repeat, _insert, _splice,
)  # fmt: skip


# --- trees --------------------------------------------------------------------------------


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """Change a few places of nested dicts and lists."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 4))):
        tree = _mutated(rng, tree)
    return tree


def _mutated(rng: random.Random, value: Any) -> Any:
    deeper = isinstance(value, (dict, list)) and value and rng.random() < 0.8
    if not deeper:
        return another_value(rng, value)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        value[at : at + 1] = rng.choice(([], [value[at]] * 2, [_mutated(rng, value[at])],
                                         [_mutated(rng, value[at])]))  # fmt: skip
        return value
    key = rng.choice(list(value))
    kind = rng.randrange(6)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[rng.choice(TEXTS) + rng.choice(("", key))] = value[key]
    elif kind == 2:
        value[key] = value[rng.choice(list(value))]
    else:
        value[key] = _mutated(rng, value[key])
    return value


def another_value(rng: random.Random, value: Any) -> Any:
    """Return a value in place of another: of its type, or of any."""
    if isinstance(value, int) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, value * 2, -value, *NUMBERS))
    deep: Any = []
    for _ in range(rng.choice((5, 200, 3000)) if rng.random() < 0.1 else 0):
        deep = [deep]
    # A copy: what is put into a tree may be changed there, or end up inside itself.
    fresh = copy.deepcopy(rng.choice(VALUES))
    return rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), fresh, repr(value)[:99] if not isinstance(value, (list, dict)) else "x",
                       [value], {"a": value}, deep, 1.5))  # fmt: skip


# --- safetensors --------------------------------------------------------------------------


def mutate_header(rng: random.Random, data: bytes) -> bytes:
    """Change the JSON header of a safetensors file, mostly with a length that fits it."""
    (length,) = struct.unpack("<Q", data[:8])
    header = mutate_tree(rng, json.loads(data[8 : 8 + length]))
    try:
        text = json.dumps(header, ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        text = "[" * 10**5
    if rng.random() < 0.1:
        text = text[:-1] + "," + text[1:]  # every entry twice
    told = text.encode("utf-8", "surrogatepass")
    size = len(told) if rng.random() < 0.9 else rng.choice(NUMBERS) % 2**64
    return struct.pack("<Q", size) + told + data[8 + length :]


# --- pickles ------------------------------------------------------------------------------


def _spans(data_pkl: bytes) -> list[tuple[int, int]]:
    starts = [position or 0 for _, _, position in pickletools.genops(data_pkl)]
    return list(zip(starts, [*starts[1:], len(data_pkl)], strict=True))


def mutate_opcodes(rng: random.Random, data_pkl: bytes, snippets: list[bytes]) -> bytes:
    """Remove, repeat, swap or replace opcodes, or put hostile ones in between."""
    parts = [data_pkl[a:b] for a, b in _spans(data_pkl)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(1, max(2, len(parts) - 1))
        new = rng.choice((
            [], [parts[at]] * 2, [parts[rng.randrange(len(parts))]], [rng.choice(snippets)],
            [parts[at], rng.choice(snippets)], [hostile.whole(rng.choice(NUMBERS))],
            [hostile.text(rng.choice(TEXTS).encode("utf-8", "ignore").decode())],
            [bytes([rng.randrange(256)])], [parts[at]] * 500, [b"N", b"0"], [b"]", b"}"],
        ))  # fmt: skip
        parts[at : at + 1] = new
    return b"".join(parts)


def mutate_pickled(rng: random.Random, data: bytes, snippets: list[bytes]) -> bytes:
    """Change the pickle inside a zipped checkpoint, or the archive around it."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        records = {i.filename: zipped.read(i) for i in zipped.infolist()}
    if rng.random() < 0.8:
        name = next(n for n in records if n.endswith("data.pkl"))
        records[name] = mutate_opcodes(rng, records[name], snippets)
    else:
        name = rng.choice(list(records))
        kind = rng.randrange(4)
        if kind == 0:
            del records[name]
        elif kind == 1:
            records[rng.choice(("archive/", "x/", "../", "/")) + rng.choice(TEXTS[:10])] = records[
                name
            ]
        else:
            records[name] = mutate_bytes(rng, records[name])
    buffer = io.BytesIO()
    method = rng.choice((0, 0, 0, 0, 0, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", method) as zipped:
        for name, record in records.items():
            zipped.writestr(name, record)
    return buffer.getvalue()


# --- YAML ---------------------------------------------------------------------------------


def mutate_yaml(rng: random.Random, document: Any) -> bytes:
    """Change an option file as a tree, then now and then as text."""
    import yaml

    try:
        text = yaml.safe_dump(mutate_tree(rng, document), allow_unicode=rng.random() < 0.5)
    except (RecursionError, yaml.YAMLError):
        text = "[" * 3000
    if rng.random() < 0.3:
        text = rng.choice((text + rng.choice(YAML_TRICKS), rng.choice(YAML_TRICKS) + text))
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(rng, data) if rng.random() < 0.3 else data


def _laughs(levels: int, merged: bool = False) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for i in range(1, levels):
        inner = ", ".join([f"*a{i - 1}"] * 9)
        lines.append(f"a{i}: &a{i} {{<<: [{inner}]}}" if merged else f"a{i}: &a{i} [{inner}]")
    return "\n".join(lines) + "\n"


YAML_TRICKS = (
    "x: !!python/object/apply:os.system [touch canary]\n",
    "x: !!python/name:os.system\n", "x: !!python/module:os\n", "x: !!binary 'AAAA'\n",
    "x: !!python/object/new:subprocess.Popen [[touch, canary]]\n", "x: &x [*x]\n",
    "x: !!timestamp 9999-99-99\n", "x: !!int nine\n", "x: !!float nine\n", "x: !!set {a, b}\n",
    "? [a, b]\n: c\n", "x: " + "1:" * 40_000 + "1\n", "x: " + "9" * 100_000 + "\n", "\t\n",
    "x: !!omap [a: 1]\n", "--- a\n--- b\n", "network_g: {}\n", "x: 'unfinished\n", "\x00", "\ufeff",
    "%YAML 9.9\n---\n", "x: " + "[" * 40_000 + "\n", "x: " + "{a: " * 3000 + "\n",
    _laughs(30), _laughs(12, merged=True), "x: |\n" + "  y\n" * 10_000,
    "network_g: {type: paragonsr2_photo, window_size: 1000000000}\n", "scale: 1e9\n",
    "network_g: {upsampler_alpha: 1e-1}\n", "network_g: {upsampler_alpha: .nan}\n",
)  # fmt: skip
