"""Hostile option files, recipes, label maps, manifests, arrays and pictures."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.engines.manifest import (
    digest_of,
    manifest_bytes,
    manifest_path,
    read,
    read_manifest,
    sealed,
)
from paragon_export.engines.open import classifier_ports, open_engine
from paragon_export.engines.reuse import read_existing, why_judge_again, why_rebuild
from paragon_export.errors import OutOfMemoryError, ParagonExportError, PlanError
from paragon_export.inputs.probes import folder_probes
from paragon_export.media.images import MAX_PIXELS
from paragon_export.networks.options import read_option_file
from paragon_export.networks.registry import architecture_of
from paragon_export.pipeline.glyph_chain import read_raster
from paragon_export.pipeline.quantize import Calibration, read_grids
from paragon_export.specs.network import Port
from paragon_export.specs.plans import EnginePlan, NetworkOptions
from paragon_export.specs.profiles import read_recipe
from paragon_export.system.reading import parse_json
from paragon_export.system.strict_yaml import MAX_OPTION_FILE_BYTES, parse_yaml
from paragon_export.system.text import MAX_LINE_CHARACTERS, all_printable, one_line, printable
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.mutate import VALUES, YAML_TRICKS, mutate_tree, mutate_yaml
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import RunHere

SLOWEST_S = 10
"""Bombs take minutes or memory without end; everything here takes less."""


@pytest.fixture(autouse=True)
def quick() -> Any:
    """Fail a test that took as long as a bomb."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SLOWEST_S


# --- option files -------------------------------------------------------------------------


def _laughs(levels: int, form: str) -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} " + form.format(", ".join([f"*a{i - 1}"] * 9)))
    return "\n".join(lines) + "\nnetwork_g: {type: x}\n"


YAML_BOMBS = {
    "a billion laughs": (_laughs(12, "[{}]"), "expands"),
    "laughs in tables": (_laughs(12, "{{k: [{}]}}"), "expands"),
    "merges": (_laughs(12, "{{<<: [{}]}}"), "expands"),
    "itself": ("network_g: &x {a: *x}\n", "deep"),
    "itself in a list": ("network_g: &x [*x]\n", "deep"),
    "base sixty": ("network_g: {x: " + "1:" * 50_000 + "1}\n", "number of"),
    "base sixty, after the point": ("network_g: {x: " + "1:" * 50_000 + "1.5}\n", "number of"),
    "many digits": ("network_g: {x: " + "9" * 100_000 + "}\n", "number of"),
    "deep lists": ("x: " + "[" * 5_000 + "\n", "nested too deeply"),
    "deep tables": ("x: " + "{a: " * 3_000 + "\n", "nested too deeply"),
    "deep enough": ("x: " + "[" * 60 + "]" * 60 + "\n", "deep"),
    "many values": ("x: [" + "1," * 21_000 + "]\n", "expands"),
    "large": ("#" * (MAX_OPTION_FILE_BYTES + 1), "at most"),
    "runs a program": ("x: !!python/object/apply:os.system ['touch canary']\n", "not YAML"),
    "makes an object": ("x: !!python/object/new:subprocess.Popen [[touch, canary]]\n", "not YAML"),
    "names a function": ("x: !!python/name:os.system\n", "not YAML"),
    "names a module": ("x: !!python/module:antigravity\n", "not YAML"),
    "a tuple": ("x: !!python/tuple [1]\n", "not YAML"),
    "a list for a name": ("? [a]\n: b\n", "not YAML"),
    "an impossible day": ("x: 9999-99-99\n", "not YAML"),
    "two documents": ("--- {}\n--- {}\n", "not YAML"),
    "nul": ("network_g: {}\0\n", "not YAML"),
    "escape": ("network_g: {}\x1b[2J\n", "not YAML"),
    "nothing": ("", "no network_g"),
    "a text": ("network_g", "no network_g"),
    "a network that is a list": ("network_g: [1]\n", "no network_g"),
}


@pytest.mark.parametrize("kind", YAML_BOMBS)
def test_option_files_that_explode_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anchors, merges, depths and numbers that would take for ever are told by their text."""
    monkeypatch.chdir(tmp_path)
    text, word = YAML_BOMBS[kind]
    Path("o.yml").write_text(text, encoding="utf-8")

    with pytest.raises(PlanError, match=word) as caught:
        read_option_file(Path("o.yml"))

    assert len(one_line(str(caught.value))) <= MAX_LINE_CHARACTERS
    assert [path.name for path in tmp_path.iterdir()] == ["o.yml"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp1252"])
def test_other_encodings_are_refused(encoding: str, tmp_path: Path) -> None:
    """Option files are UTF-8."""
    path = tmp_path / "o.yml"
    path.write_bytes("network_g: {type: é}\n".encode(encoding))

    with pytest.raises(PlanError, match="not YAML"):
        read_option_file(path)


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    """What option files use of them still works, as does a byte order mark."""
    path = tmp_path / "o.yml"
    text = "\ufeffbase: &b {scale: 2, n: 1}\nnetwork_g: {<<: *b, n: 3, l: [*b, *b]}\n"
    path.write_text(text, encoding="utf-8")

    assert read_option_file(path) == {"scale": 2, "n": 3, "l": [{"scale": 2, "n": 1}] * 2}


WRONG: dict[str, tuple[Any, ...]] = {
    "upsampler_alpha": ("1e-1", "0.1", True, math.nan, math.inf, -1, [0.1], {"a": 1}, None),
    "window_size": ("8", 8.0, True, 0, -8, 257, 10**9, 10**400, [8], None, math.nan),
    "attention_mode": (1, True, "flash", ["sdpa"], {"a": 1}, 1.5),
    "export_safe": ("yes", "true", 1, 0, None, [True], 0.5),
    "scale": (0, 3, "2", -2, 2.5, [2], 10**9, math.inf),
    "type": (1, ["x"], {"a": 1}, "munet", True),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_switches_of_a_wrong_type_are_refused(
    name: str, value: Any, tmp_path: Path, tiny_photo: Path
) -> None:
    """Each switch is checked; a wrong value never becomes another one."""
    (tmp_path / "o.yml").write_text(json.dumps({"network_g": {name: value}}), encoding="utf-8")
    checkpoint = load_checkpoint(tiny_photo)

    with pytest.raises(PlanError):
        architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=tmp_path / "o.yml"))


def test_a_number_that_yaml_reads_as_text_gets_a_hint(
    tmp_path: Path, tiny_photo: Path, run_here: RunHere
) -> None:
    """``1e-1`` is text in YAML."""
    (tmp_path / "o.yml").write_text("network_g: {upsampler_alpha: 1e-1}\n", encoding="utf-8")

    done = run_here("inspect", tiny_photo, "--config", "o.yml")

    assert_one_helpful_line(done, "as in 1.0e-1")


GLYPH_WRONG: dict[str, tuple[Any, ...]] = {
    "stages": ("x" * 1000, {"a": 1}, [1, "2"], [[1]], [10**400], 7),
    "blocks_per_stage": ({}, 1, ["1"], [-1], [10**9]),
    "kernel_size": ("3", 4, [3], -1, 10**400),
    "downsample": (1, [], {"a": [1]}, "x"),
    "activation": (1, [], "tanh"),
    "bn_eps": (0, -1, "x", math.inf, math.nan, []),
    "stem_stride": (0, "1", 257, 1.0),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in GLYPH_WRONG.items() for value in values]
)
@pytest.mark.parametrize("where", ["file", "checkpoint"])
def test_glyph_configs_of_a_wrong_type_are_refused(
    name: str, value: Any, where: str, tmp_path: Path
) -> None:
    """The same of the classifier's config, given or embedded."""
    config = {"input": {}, "model": {"cnn": {name: value}}}
    beside = {"config": config} if where == "checkpoint" else {}
    path = small_checkpoint(tmp_path / "c.pt", **beside)
    (tmp_path / "o.yml").write_text(json.dumps(config), encoding="utf-8")
    given = tmp_path / "o.yml" if where == "file" else None
    checkpoint = load_checkpoint(path)

    with pytest.raises(PlanError):
        architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=given))


def test_a_config_that_unfolds_is_quoted_briefly(tmp_path: Path) -> None:
    """A pickle may hold lists that share themselves; a refusal must not write them out."""
    laugh: list[Any] = [1]
    for _ in range(40):
        laugh = [laugh, laugh]
    for name in ("stages", "kernel_size", "activation", "downsample", "bn_eps"):
        config = {"input": {}, "model": {"cnn": {name: laugh}}}
        checkpoint = load_checkpoint(small_checkpoint(tmp_path / "c.pt", config=config))
        with pytest.raises(PlanError) as caught:
            architecture_of(checkpoint).describe(checkpoint, NetworkOptions())
        assert len(str(caught.value)) < 1000


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_mutated_option_files_are_read_or_refused(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory, tiny_photo: Path
) -> None:
    """Whatever is changed, the file is read or refused in a line."""
    options = {"scale": 2, "network_g": {"type": "paragonsr2_photo", "window_size": 16}}
    path = tmp_path_factory.getbasetemp() / "o.yml"
    path.write_bytes(mutate_yaml(rng, options))
    checkpoint = load_checkpoint(tiny_photo)
    with suppress(ParagonExportError):
        architecture_of(checkpoint).describe(checkpoint, NetworkOptions(config=path))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60) | st.sampled_from([t for t in YAML_TRICKS if len(t) < 5000]))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    """YAML from a command line ends in a value or in ValueError."""
    with suppress(ValueError):
        parse_yaml(text)


# --- recipes ------------------------------------------------------------------------------

RECIPES = {
    "more than TensorRT holds": (
        '[profile]\nmin = "1x1"\nopt = "1x1"\nmax = "16384x16384"\nbatch = 9\n'
    ),
    "deep": "[profile]\nx = " + "[" * 20_000 + "\n",
    "large": "#" * 100_000,
    "twice": '[profile]\nmin = "1x1"\nmin = "1x1"\n',
    "digits": "[profile]\nmin = " + "9" * 10_000 + "\n",
    "nan": '[profile]\nmin = nan\nopt = "1x1"\nmax = "1x1"\n',
    "nul": "[profile]\nmin = 'a\0b'\n",
    "gigantic batch": '[profile]\nmin = "1x1"\nopt = "1x1"\nmax = "1x1"\nbatch = 99999999999\n',
    "text batch": '[profile]\nmin = "1x1"\nopt = "1x1"\nmax = "1x1"\nbatch = "1"\n',
    "tables": '[profile]\nmin = {a = 1}\nopt = "1x1"\nmax = "1x1"\n',
    "escape": '[profile]\n"\\u001b[2J" = 1\n',
    "a list": "profile = [1]\n",
    "long text": '[profile]\nmin = "' + "x" * 50_000 + '"\nopt = "1x1"\nmax = "1x1"\n',
}


@pytest.mark.parametrize("kind", RECIPES)
def test_hostile_recipes_are_refused(kind: str, tmp_path: Path) -> None:
    """A recipe is small, flat and means one thing."""
    path = tmp_path / "r.toml"
    path.write_text(RECIPES[kind], encoding="utf-8")

    with pytest.raises(PlanError) as caught:
        read_recipe(path)
    assert len(one_line(str(caught.value))) < 1000


# --- JSON ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, '{"a": 1, "a": 1}', '[{"a": {"b": 1, "b": 2}}]', "NaN",
     "-Infinity", "1" * 5000, '"\\ud800', "\xff", "", "{", '{"a": 1}x', b"\xff\xfe", b"\x80"],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_json_that_means_nothing_or_two_things_is_refused(text: str | bytes) -> None:
    """Depth, duplicates, numbers that are none and noise all end in one kind of error."""
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do
        parse_json(text)


@pytest.mark.usefixtures("foreign_files_here")
@pytest.mark.parametrize(
    "labels",
    ['{"a": 1, "a": 2}', "[" * 50_000, '{"a": NaN}', '{"a": 1e400}', '{"a": "1"}', '{"a": true}',
     '{"a": -1}', '{"a": 23}', '{"a": 1, "b": 1}', "[]", "1", '{"a": 99999999999999999999}'],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_hostile_label_maps_are_refused(
    labels: str, tmp_path: Path, chain: tuple[Path, Path], run_here: RunHere
) -> None:
    """Labels that are given twice, are no numbers or are out of range name nothing."""
    (tmp_path / "l.json").write_text(labels, encoding="utf-8")
    Image.new("L", (128, 128)).save(tmp_path / "r.png")

    done = run_here("glyphs", *chain, "r.png", "--label-map", "l.json")

    assert_one_helpful_line(done, "label map l.json")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return both phases of a small classifier as ONNX files."""
    from paragon_export.pipeline.export import export
    from paragon_export.specs.plans import ExportPlan
    from paragon_export.testing.glyph import SMALL, SMALL_CELLS

    folder = tmp_path_factory.mktemp("chain")
    for name, h in (("1", SMALL_CELLS), ("2", SMALL)):
        checkpoint = small_checkpoint(folder / f"{name}.pt", h)
        export(ExportPlan(checkpoint=checkpoint, output=folder / f"{name}.onnx"))
    return folder / "1.onnx", folder / "2.onnx"


def test_labels_do_not_reach_the_terminal_raw(
    tmp_path: Path, chain: tuple[Path, Path], run_here: RunHere
) -> None:
    """A label is shown as text that a terminal does not obey."""
    labels = {f"\x1b[2J[/red]\x07{i}": i for i in range(23)}
    (tmp_path / "l.json").write_text(json.dumps(labels), encoding="utf-8")
    Image.linear_gradient("L").resize((128, 128)).save(tmp_path / "r.png")

    done = run_here("glyphs", *chain, "r.png", "--label-map", "l.json")

    assert done.code == 0
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "\\x1b[2J[/red]" in done.stdout


# --- manifests ----------------------------------------------------------------------------

MANIFEST: dict[str, Any] = {
    "backend": "rtx", "precision": "fp32", "onnx": "m.onnx", "parity": {"passed": True},
    "profile": {"min": "1x1", "opt": "2x2", "max": "3x3", "batch": 1},
    "onnx_metadata": {"classes": 3, "vocabulary": 4},
}  # fmt: skip


def _seal(engine: Path, document: dict[str, Any]) -> None:
    """Write a manifest with right digests."""
    manifest_path(engine).write_bytes(manifest_bytes(sealed(document, engine.read_bytes())))


def _beside(tmp_path: Path, manifest: str) -> Path:
    engine = tmp_path / "e.engine"
    engine.write_bytes(b"engine")
    manifest_path(engine).write_text(manifest, encoding="utf-8")
    return engine


@pytest.mark.parametrize(
    "text", ["[" * 50_000, '{"a": 1, "a": 2}', "[]", "NaN", "\0", "", '{"a": NaN}', "{" * 9]
)
def test_a_damaged_manifest_counts_as_none(text: str, tmp_path: Path) -> None:
    """An engine whose manifest cannot be read is built again, not trusted."""
    engine = _beside(tmp_path, text)

    assert read(engine) is None
    assert why_rebuild(read_existing(engine), {}) == "the engine there has no readable manifest"
    with pytest.raises(PlanError, match="no manifest"):
        open_engine(engine)


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "a verdict of text": {"parity": {"passed": "yes"}},
    "a verdict of 1": {"parity": {"passed": 1}},
    "a verdict that is a list": {"parity": [True]},
    "rows of a verdict": {"parity": {"passed": True, "rows": [1]}},
    "another backend": {"backend": "cuda"},
    "a backend that is a list": {"backend": ["rtx"]},
    "another precision": {"precision": "fp8"},
    "a profile of text": {"profile": "1x1"},
    "a profile without sizes": {"profile": {"batch": 1}},
    "a profile that falls": {"profile": {"min": "3x3", "opt": "2x2", "max": "1x1", "batch": 1}},
    "a profile of floats": {"profile": {"min": 1.5, "opt": 2, "max": 3}},
    "a batch of true": {"profile": {"min": "1x1", "opt": "2x2", "max": "3x3", "batch": True}},
    "a gigantic batch": {"profile": {"min": 1, "opt": 2, "max": 10**9}},
    "gigantic pictures": {
        "profile": {"min": "1x1", "opt": "1x1", "max": "16384x16384", "batch": 16384}
    },
    "one entry more": {"profile": {"min": 1, "opt": 2, "max": 3, "best": 2}},
    "a gigantic vocabulary": {"onnx_metadata": {"classes": 3, "vocabulary": 10**30}},
    "a vocabulary of text": {"onnx_metadata": {"classes": 3, "vocabulary": "4"}},
    "classes of true": {"onnx_metadata": {"classes": True}},
    "metadata that is a list": {"onnx_metadata": []},
    "switches without a value": {"onnx_metadata": {"switches": {"scale": {"source": "flag"}}}},
    "a digest of metadata": {"onnx_metadata": {"checkpoint_sha256": 7}},
    "warnings of numbers": {"tensorrt_warnings": [1]},
    "warnings that are text": {"tensorrt_warnings": "none"},
    "memory of text": {"planned_device_memory_bytes": "much"},
    "an ONNX file that is a list": {"onnx": ["m.onnx"]},
    "switches that are a list": {"switches": [1]},
    "nested": {"parity": {"passed": True, "worst": json.loads("[" * 200 + "]" * 200)}},
}
"""Entries of which each spoils a manifest."""


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_a_manifest_with_a_right_digest_and_wrong_entries_counts_as_none(
    kind: str, tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """A digest can be made by anybody: the engine is built again, and refused in one line."""
    document = {**MANIFEST, "engine_sha256": hashlib.sha256(b"engine").hexdigest()}
    engine = _beside(tmp_path, "{}")
    _seal(engine, dict(document))
    assert read(engine)
    _seal(engine, {**document, **IMPOSSIBLE[kind]})

    assert read(engine) is None
    assert why_rebuild(read_existing(engine), {}) == "the engine there has no readable manifest"
    for command in (["parity"], ["parity", tiny_realtime], ["bench"]):
        assert_one_helpful_line(run_here(*command, "e.engine"), "e.engine has no manifest")


def test_an_onnx_file_that_cannot_be_named_is_gone(tmp_path: Path) -> None:
    """Where a manifest says that the engine's ONNX file is, there may be no file."""
    engine = _beside(tmp_path, "{}")
    digest = hashlib.sha256(b"engine").hexdigest()
    for name in ("a\0b", "n" * 5000, "\ud800", "..", "/proc/self/mem", "e.engine/x", ""):
        _seal(engine, {**MANIFEST, "engine_sha256": digest, "onnx": name})
        assert why_rebuild(read_existing(engine), {}).startswith(
            "the ONNX file it was compiled from"
        )


def test_a_manifest_that_is_no_file_counts_as_none(tmp_path: Path) -> None:
    """A pipe beside an engine is not waited for, nor is one in its place."""
    engine = _beside(tmp_path, "{}")
    manifest_path(engine).unlink()
    os.mkfifo(manifest_path(engine))
    os.mkfifo(tmp_path / "p.engine")

    assert read(engine) is None
    assert why_rebuild(read_existing(tmp_path / "p.engine"), {}) == "no engine was there"


def test_mutations_leave_each_other_alone() -> None:
    """One tree's change is not the next one's: a value that all share once ended up in itself."""
    before = repr(VALUES)
    for seed in range(3000):
        with suppress(RecursionError):
            json.dumps(mutate_tree(random.Random(seed), MANIFEST))
    assert repr(VALUES) == before


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_mutated_manifests_are_read_or_refused(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a manifest says, the engine is judged by its bytes and refused in a line."""
    folder = tmp_path_factory.mktemp("manifests")
    tree = mutate_tree(rng, {**MANIFEST, "engine_sha256": hashlib.sha256(b"engine").hexdigest()})
    try:
        if isinstance(tree, dict):
            tree["manifest_sha256"] = digest_of(tree)
        engine = _beside(folder, json.dumps(tree))
    except RecursionError:  # of the writer in this test
        return
    read(engine)
    assert why_rebuild(read_existing(engine), {"switches": {"a": {"value": 1}}})
    why_judge_again(read_existing(engine), EnginePlan(source=folder / "c", output=engine))
    for refuses in (lambda path: classifier_ports(read_manifest(path)), open_engine):
        with suppress(ParagonExportError):
            refuses(engine)


# --- pictures -----------------------------------------------------------------------------


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG that claims an extent, whatever its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d))
             for k, d in chunks)  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _good(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def _write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


PICTURES: dict[str, Callable[[Path], object]] = {
    "truncated": _write(_good()[:300]),
    "truncated jpeg": _write(_good("JPEG")[:400]),
    "truncated tiff": _write(_good("TIFF")[:5000]),
    "empty": _write(b""),
    "noise": _write(bytes(range(256)) * 4),
    "of no extent": _write(_png(0, 0)),
    "of no width": _write(_png(0, 5)),
    "a bomb": _write(_png(60_000, 60_000)),
    "a small bomb": _write(_png(10_000, 10_000)),
    "just too large": _write(_png(MAX_PIXELS // 4096 + 1, 4096)),
    "no pixels": _write(_png(100, 100)),
    "another format": _write(_good("PPM")),
    "PostScript": _write(_good("EPS")),
    "a GIF": _write(_good("GIF")),
    "a pipe": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a hole": lambda path: os.truncate(path, 2**40) if path.touch() is None else None,
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.filterwarnings("error")
def test_hostile_pictures_are_refused(kind: str, tmp_path: Path) -> None:
    """A picture that is none, is too large or is a pipe is refused by name, without a warning."""
    PICTURES[kind](tmp_path / "a.png")

    for read_it in (lambda: folder_probes(3, tmp_path), lambda: read_raster(tmp_path / "a.png")):
        with pytest.raises(PlanError, match=r"a\.png"):
            read_it()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_usual_formats_are_read(kind: str, tmp_path: Path) -> None:
    """What cameras and editors write is read."""
    (tmp_path / "a.png").write_bytes(_good(kind))

    assert folder_probes(3, tmp_path)[0].frames[0].shape == (1, 3, 256, 256)


# --- arrays -------------------------------------------------------------------------------


def _npy(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _npz(data: bytes, compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as zipped:
        zipped.writestr("grids.npy", data, compresslevel=1)
    return buffer.getvalue()


ARRAYS: dict[str, Callable[[Path], object]] = {
    "gigantic": _write(
        _npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }")
    ),
    "overflowing": _write(
        _npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1 << 62, 16), }")
    ),
    "negative": _write(_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-5, 16, 16), }")),
    "objects": _write(_npy("{'descr': '|O', 'fortran_order': False, 'shape': (64, 16, 16), }")),
    "code": _write(_npy("__import__('os').system('touch canary')")),
    "a bomb": lambda path: path.write_bytes(_npz(bytes(2**29), zipfile.ZIP_DEFLATED)),
    "damaged": _write(_npz(bytes(99), zipfile.ZIP_STORED)[:60]),
    "no array": _write(_npz(bytes(99), zipfile.ZIP_STORED)),
    "an empty archive": _write(b"PK\x05\x06" + bytes(18)),
    "a pickle": _write(b"\x80\x04\x95cos\nsystem\n."),
    "empty": _write(b""),
    "a pipe": os.mkfifo,
    "a loop": lambda path: path.symlink_to(path),
    "a scalar": lambda path: np.save(path.open("wb"), np.int64(3)),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_hostile_arrays_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grids to calibrate on are plain numbers of a bounded size."""
    monkeypatch.chdir(tmp_path)
    ARRAYS[kind](tmp_path / "g.npz")
    port = Port("input", ("batch", 16, 16), "int64", span=(0, 39))

    with pytest.raises(PlanError):
        read_grids(Calibration(path=tmp_path / "g.npz"), port)
    assert list(listing(tmp_path)) == ["g.npz"] if not (tmp_path / "g.npz").is_fifo() else True


# --- words --------------------------------------------------------------------------------


@given(st.text())
def test_a_line_is_a_printable_line(text: str) -> None:
    """Whatever is said, it is one line that a terminal does not obey."""
    assert one_line(text).isprintable()
    assert len(one_line(text * 100)) <= MAX_LINE_CHARACTERS
    assert all(c.isprintable() or c == "\n" for c in printable(text))


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=9,
    )
)
def test_a_document_is_printable(document: Any) -> None:
    """Of nested values every text is, and nothing else is changed."""
    told = all_printable(document)

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [t for pair in value.items() for part in pair for t in texts(part)]
        if isinstance(value, list):
            return [t for part in value for t in texts(part)]
        return [value] if isinstance(value, str) else []

    assert all(c.isprintable() or c == "\n" for text in texts(told) for c in text)
    assert not texts(document) or json.dumps(told)
    if all(text.isprintable() for text in texts(document)):
        assert told == document


def test_a_network_that_finds_no_memory_is_an_error(tiny_realtime: Path) -> None:
    """PyTorch's own refusal to allocate ends in one line, not in a traceback."""
    from paragon_export.networks.describe import read_network
    from paragon_export.parity.reference import build_reference
    from paragon_export.system.limits import limited_memory

    runner = build_reference(read_network(tiny_realtime, NetworkOptions())).runner("float64")
    picture = np.zeros((1, 3, 1500, 1500), np.float32)
    with limited_memory(2**27), pytest.raises(OutOfMemoryError, match="finds no memory"):
        runner.infer({"input": picture})
