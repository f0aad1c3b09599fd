"""Bad input of each kind: exit code 3, one helpful line, nothing written, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from paragon_export.testing.tiny import (
    Tensors,
    save,
    tiny_checkpoint,
    tiny_hyperparameters,
    tiny_tensors,
)
from tests.checkpoints.test_load import hostile_pickles
from tests.conftest import Finished, RunCli, RunHere, run_started
from tests.networks.test_describe import other

pytestmark = pytest.mark.processes

TENSORS = tiny_tensors(tiny_hyperparameters("photo"))

PRECIOUS = b"an artifact of yesterday"


# --- checkpoints ---------------------------------------------------------------------------


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _truncated(path: Path) -> None:
    save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-100])


def _truncated_pickle(path: Path) -> None:
    save(TENSORS, path, fmt="pth")
    path.write_bytes(path.read_bytes()[:-100])


def _changed(change: Callable[[Tensors], object]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        tensors = {name: array.copy() for name, array in TENSORS.items()}
        change(tensors)
        save(tensors, path)

    return make


def _hostile(kind: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(hostile_pickles(path.parent / "canary")[kind])


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot read checkpoint"),
    "folder": (lambda path: path.mkdir(), "directory"),
    "empty": (_bytes(b""), "empty"),
    "not a checkpoint": (_bytes(b"GIF89a" + bytes(100)), "not a checkpoint"),
    "truncated": (_truncated, "complete safetensors file"),
    "truncated pickle": (_truncated_pickle, "complete PyTorch checkpoint"),
    "generation not served": (lambda path: save(other("v11atd"), path), "v11atd"),
    "another network": (
        lambda path: save({"conv_first.weight": np.ones(3, np.float32)}, path),
        "no supported network",
    ),
    "wrong shape": (
        _changed(lambda t: t.update({"conv_out.bias": np.ones(4, np.float32)})),
        "conv_out.bias is [4], expected [3]",
    ),
    "missing tensor": (_changed(lambda t: t.pop("conv_mid.bias")), "conv_mid.bias"),
    "not finite": (_changed(lambda t: t["conv_mid.bias"].fill(np.nan)), "conv_mid.bias"),
    "code in a zip": (_hostile("zip"), "run code"),
    "code in a legacy file": (_hostile("legacy"), "run code"),
    "code in a new pickle": (_hostile("raw 4"), "run code"),
}


def listing(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files and the files of folders in it included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def assert_one_helpful_line(done: Finished, word: str) -> None:
    assert done.code == 3, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    if done.stdout:  # with --json
        said = done.stderr.removeprefix("paragon-export: ").removesuffix("\n")
        assert json.loads(done.stdout) == {"error": said}
    assert done.stderr.startswith("paragon-export: ")
    assert done.stderr.endswith("\n")
    assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "kind", ["missing", "not a checkpoint", "truncated", "another network", "wrong shape",
             "code in a zip", "code in a new pickle"]
)  # fmt: skip
def test_a_process_refuses_a_bad_checkpoint(kind: str, tmp_path: Path, run_cli: RunCli) -> None:
    """Each kind of bad file ends in one line that names the file and the fault, and in nothing else.

    Warnings of libraries would reach a user's terminal here.
    """
    make, word = BAD_CHECKPOINTS[kind]
    path = tmp_path / "bad.pth"
    make(path)
    before = listing(tmp_path)

    done = run_cli("inspect", path, "--json")

    assert_one_helpful_line(done, word)
    assert done.stdout
    assert str(path) in done.stderr
    assert listing(tmp_path) == before


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
@pytest.mark.parametrize("command", ["inspect", "onnx", "trt"])
def test_a_bad_checkpoint_writes_nothing_and_harms_nothing(
    command: str, kind: str, tmp_path: Path, run_here: RunHere
) -> None:
    """Through every command each kind is one line; the good output of yesterday keeps its bytes."""
    make, word = BAD_CHECKPOINTS[kind]
    path = tmp_path / "bad.pth"
    make(path)
    output = tmp_path / ("out.onnx" if command == "onnx" else "out.engine")
    output.write_bytes(PRECIOUS)
    (tmp_path / "out.engine.json").write_text('{"manifest_sha256": "of yesterday"}')
    before = listing(tmp_path)

    done = run_here(command, path, *([] if command == "inspect" else ["-o", output]))

    assert_one_helpful_line(done, word)
    assert str(path) in done.stderr
    assert listing(tmp_path) == before


# --- requests ------------------------------------------------------------------------------


BAD_REQUESTS: dict[str, tuple[Sequence[str], str]] = {
    "unknown target": (["trt", "{c}", "--target", "sm99"], "unknown target 'sm99'"),
    "one unknown target": (["trt", "{c}", "--target", "sm86", "--target", "ada"], "'ada'"),
    "falling profile": (
        ["trt", "{c}", "--min", "9x9", "--opt", "5x5", "--max", "8x8"],
        "impossible profile",
    ),
    "falling width": (
        ["trt", "{c}", "--min", "1x9", "--opt", "5x5", "--max", "8x8"],
        "width must rise",
    ),
    "half a profile": (["trt", "{c}", "--min", "9x9"], "--min, --opt and --max together"),
    "two profiles": (["trt", "{c}", "--min", "9x9", "--recipe", "r.toml"], "not both"),
    "missing recipe": (["trt", "{c}", "--recipe", "absent.toml"], "cannot read recipe absent.toml"),
    "bad recipe": (["trt", "{c}", "--recipe", "train.yml"], "train.yml"),
    "bad size in a profile": (
        ["trt", "{c}", "--min", "1x1", "--opt", "big", "--max", "8x8"],
        "size 'big'",
    ),
    "target of full TensorRT": (
        ["trt", "{c}", "--backend", "tensorrt", "--target", "sm86"],
        "--target is for --backend rtx",
    ),
    "missing source": (["trt", "absent.onnx"], "absent.onnx"),
    "source that is no model": (["trt", "noise.onnx"], "noise.onnx"),
    "bad static size": (["onnx", "{c}", "--static", "64"], "size '64'"),
    "static size of nothing": (["onnx", "{c}", "--static", "0x64"], "size 0x64"),
    "unknown operator set": (["onnx", "{c}", "--opset", "99"], "--opset 99"),
    "ancient operator set": (["onnx", "{c}", "--opset", "11"], "--opset 11"),
    "operator set zero": (["onnx", "{c}", "--opset", "0"], "--opset 0"),
    "operator set without bfloat16": (["onnx", "{c}", "--bf16", "--opset", "20"], "--opset 20"),
    "half ports of a single model": (["onnx", "{c}", "--io", "fp16"], "--io fp16 with a fp32"),
    "ports of another half": (["onnx", "{c}", "--fp16", "--io", "bf16"], "--io bf16 with a fp16"),
    "impossible alpha": (["onnx", "{c}", "--upsampler-alpha", "nan"], "upsampler_alpha = nan"),
    "impossible window": (["inspect", "{c}", "--window-size", "0"], "window_size = 0"),
    "unknown attention": (["inspect", "{c}", "--attention-mode", "flash"], "flash"),
    "missing option file": (["onnx", "{c}", "--config", "absent.yml"], "absent.yml"),
    "option file without network": (["onnx", "{c}", "--config", "train.yml"], "network_g"),
    "option file of another network": (["onnx", "{c}", "--config", "stream.yml"], "stream"),
    "candidate of no known kind": (["parity", "{c}", "train.yml"], "train.yml"),
    "missing candidate": (["parity", "{c}", "absent.onnx"], "absent.onnx"),
    "candidate that is no model": (["parity", "{c}", "noise.onnx"], "noise.onnx"),
    "bad size of parity": (["parity", "{c}", "noise.onnx", "--sizes", "8x8,"], "size ''"),
    "unwritable report": (["parity", "{c}", "noise.onnx", "--junit", "no/j.xml"], "no/j.xml"),
    "bad size of bench": (["bench", "{c}", "--size", "8"], "size '8'"),
    "missing artifact": (["bench", "absent.pth"], "absent.pth"),
    "unwritable bench": (["bench", "{c}", "--report", "no/bench.md"], "no/bench"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_an_impossible_request_is_one_line(
    name: str, tmp_path: Path, tiny_photo: Path, run_here: RunHere
) -> None:
    """What contradicts itself, the checkpoint or the disk is refused before anything is written."""
    args, word = BAD_REQUESTS[name]
    (tmp_path / "train.yml").write_text("scale: 2\n")
    (tmp_path / "stream.yml").write_text("network_g: {type: paragonsr2_stream}\n")
    (tmp_path / "r.toml").write_text('[profile]\nmin = "1x1"\nopt = "2x2"\nmax = "3x3"\n')
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    before = listing(tmp_path)

    done = run_here(*(arg.format(c=tiny_photo) for arg in args))

    assert_one_helpful_line(done, word)
    assert listing(tmp_path) == before


# --- outputs -------------------------------------------------------------------------------


def _missing_folder(folder: Path) -> Path:
    return folder / "no" / "such" / "out.x"


def _folder(folder: Path) -> Path:
    (folder / "out.x").mkdir()
    return folder / "out.x"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(PRECIOUS)
    return folder / "file" / "out.x"


@pytest.mark.parametrize("make", [_missing_folder, _folder, _below_a_file])
@pytest.mark.parametrize("command", ["onnx", "trt"])
def test_an_output_that_cannot_be_written_is_refused(
    command: str,
    make: Callable[[Path], Path],
    tmp_path: Path,
    tiny_realtime: Path,
    run_here: RunHere,
) -> None:
    """An output that is a folder, or lies in one that is none, is refused before the work."""
    output = make(tmp_path)
    before = listing(tmp_path)

    done = run_here(command, tiny_realtime, "-o", output)

    assert_one_helpful_line(done, str(output))
    assert listing(tmp_path) == before


def test_a_read_only_folder_is_refused(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """A folder in which nobody can make a file is refused by the system's own word."""
    output = Path("/proc/self/out.onnx") if os.path.isdir("/proc/self") else tmp_path / "no" / "o"

    assert_one_helpful_line(run_here("onnx", tiny_realtime, "-o", output), str(output))


@pytest.mark.parametrize("name", ["c.safetensors", "c.onnx"])
def test_the_checkpoint_is_never_the_output(name: str, tmp_path: Path, run_here: RunHere) -> None:
    """Writing over the very file that is read would lose it; that is refused."""
    path = tiny_checkpoint(tmp_path / name)
    before = listing(tmp_path)

    done = run_here("onnx", path, "-o", path)

    assert_one_helpful_line(done, f"{path} ")
    assert listing(tmp_path) == before


def test_a_written_file_is_named_as_it_is(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """Brackets in a file name are part of it, not formatting: what was written can be found."""
    done = run_here("onnx", tiny_realtime, "-o", "net[v2].onnx", "--static", "8x8")

    assert done.code == 0
    assert (tmp_path / "net[v2].onnx").is_file()
    assert "wrote net[v2].onnx" in done.stdout


def test_an_onnx_source_is_never_overwritten(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere, run_cli: RunCli
) -> None:
    """The half-precision model that is compiled does not take the place of its own source."""
    source = tmp_path / "model.onnx"
    assert run_here("onnx", tiny_realtime, "-o", source, "--static", "8x8").code == 0
    before = source.read_bytes()

    run_cli("trt", source, "--fp16", "-o", tmp_path / "model", "--checkpoint", tiny_realtime)

    assert source.read_bytes() == before


def test_an_export_that_fails_its_verdict_leaves_the_old_file(
    tmp_path: Path, run_here: RunHere
) -> None:
    """A network that overflows in half precision fails with code 1; yesterday's file stands."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["conv_in.weight"] = tensors["conv_in.weight"] * np.float32(3e4)
    path = save(tensors, tmp_path / "c.safetensors")
    output = tmp_path / "out.onnx"
    output.write_bytes(PRECIOUS)
    before = listing(tmp_path)

    done = run_here("onnx", path, "-o", output, "--fp16", "--json")

    assert done.code == 1
    assert json.loads(done.stdout)["passed"] is False
    assert listing(tmp_path) == before


# --- usage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "{c}", "--unknown"],
        ["onnx", "{c}", "--fp16", "--bf16"],
        ["trt", "{c}", "--fp16", "--bf16"],
        ["onnx"],
        ["nonsense"],
        ["onnx", "{c}", "--io", "fp8"],
        ["onnx", "{c}", "--opset", "twenty"],
        ["trt", "{c}", "--backend", "cuda"],
        ["inspect", "{c}", "--window-size", "8.5"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    args: Sequence[str], tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """Options that do not exist, exclude each other or do not parse are errors of usage."""
    done = run_here(*(arg.format(c=tiny_realtime) for arg in args))

    assert done.code == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert listing(tmp_path) == {}


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    """A process that refuses really ends in 3, and one used wrongly in 2."""
    assert run_started(tmp_path, "trt", tmp_path / "absent.pth", "--target", "sm99").code == 3
    assert run_started(tmp_path, "trt").code == 2
