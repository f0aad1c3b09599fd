"""Reproducible: the same checkpoint, switches and versions give the same bytes, wherever."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import paragon_export
from paragon_export.graph.onnx_io import CONTENT_DIGEST, read_onnx, read_onnx_file, write_onnx
from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from tests.architecture.reproduce import KINDS, make
from tests.conftest import LONGEST_RUN_S, shell_environment

ROOT = Path(paragon_export.__file__).parents[1]

QUICK = ("realtime", "stream fp16")


def hashes(folder: Path, kinds: Sequence[str], seed: int, threads: int) -> dict[str, str]:
    """Export in a process of its own; its order of exports, too, is its own."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.architecture.reproduce", folder, str(threads), *kinds],
        cwd=ROOT,
        env=shell_environment(
            PYTHONHASHSEED=str(seed),
            OMP_NUM_THREADS=str(threads),
            PYTHONPATH=str(ROOT),
            OMP_WAIT_POLICY="PASSIVE",  # threads that wait would keep both cores busy
        ),
        capture_output=True,
        encoding="utf-8",
        timeout=LONGEST_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same_everywhere(kinds: Sequence[str], folder: Path) -> None:
    (folder / "a").mkdir()
    here = {kind: make(kind, folder / "a") for kind in kinds}
    there = hashes(folder / "b" / "deeper", kinds[::-1], seed=4711, threads=4)
    assert {kind for kind in kinds if here[kind] != there[kind]} == set()
    assert len(set(here.values())) == len(kinds)  # the comparison can fail


@pytest.mark.processes
def test_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """Another process, hash seed, folder, number of threads and order change no byte."""
    assert_same_everywhere(QUICK, tmp_path)


@pytest.mark.slow
def test_every_kind_has_the_same_bytes_everywhere(tmp_path: Path) -> None:
    """So do all families, precisions, runtimes, static and video models and INT8."""
    assert_same_everywhere([kind for kind in KINDS if kind not in QUICK], tmp_path)


# --- what the file says of its making ------------------------------------------------------


@pytest.fixture(scope="module")
def original(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("original") / "model.onnx"
    plan = ExportPlan(checkpoint=tiny_realtime, output=output)
    assert export(plan).parity.passed
    return plan.output


@pytest.fixture
def exported(original: Path, tmp_path: Path) -> Path:
    """Return a copy of an export, which tests may change."""
    return Path(shutil.copy(original, tmp_path))


def test_metadata_is_ours_alone(exported: Path, original: Path) -> None:
    """What libraries leave there goes; the versions that decide the bytes are told."""
    told = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert not [key for key in told if "." in key]
    made_with = json.loads(told["made_with"])
    assert made_with["paragon-export"] == paragon_export.__version__
    assert made_with["numpy"] == np.__version__
    assert {"torch", "onnx", "onnx-ir", "onnxsim"} <= set(made_with)
    assert "python" not in made_with
    assert str(original.parent) not in json.dumps(told)


def test_an_untouched_file_is_known(exported: Path) -> None:
    """Neither reading nor saving it again with onnx makes a file another."""
    assert not read_onnx_file(exported).was_changed
    onnx.save(onnx.load(exported), exported)
    assert not read_onnx_file(exported).was_changed


@pytest.mark.parametrize("what", ["a weight", "metadata", "a name", "the digest"])
def test_a_changed_file_is_known(exported: Path, what: str) -> None:
    """One bit of a weight is enough, and so is one letter of the metadata."""
    model = onnx.load(exported)
    if what == "a weight":
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    elif what == "a name":
        model.graph.node[0].name += "x"
    else:
        wanted = CONTENT_DIGEST if what == "the digest" else "variant"
        (entry,) = [e for e in model.metadata_props if e.key == wanted]
        entry.value = entry.value[::-1]
    onnx.save(model, exported)
    assert read_onnx_file(exported).was_changed


def test_our_own_changes_are_none(exported: Path) -> None:
    """A file that this tool converts and writes again gets a digest of its own."""
    model = read_onnx(exported)
    model.metadata_props["precision"] = "fp16"
    write_onnx(model, exported)
    assert not read_onnx_file(exported).was_changed


def test_a_file_without_a_digest_was_not_changed(exported: Path) -> None:
    """Of what other tools wrote nothing is said."""
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, exported)
    assert not read_onnx_file(exported).was_changed
