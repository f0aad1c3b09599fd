"""The command line from checkpoint to engine, run as a user runs it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch

import paragon_export
from paragon_export.cli.app import main
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.system.atomic_write import sha256_of
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import Finished, RunIn, run_started

ROW_KEYS = {
    "candidate", "size", "batch", "max_abs", "psnr_db", "border_max_abs", "reference_max_abs",
}  # fmt: skip


RunHere = Callable[..., Finished]


@pytest.fixture
def run_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[RunHere]:
    """Return a function that runs the command line in this process, which is quicker."""

    def run_main(*args: str | Path) -> Finished:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["paragon-export", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        stdout, stderr = capsys.readouterr()
        code = caught.value.code
        return Finished(code if isinstance(code, int) else 0, stdout, stderr)

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run_main
    torch.set_num_threads(threads)


def document(finished: Finished) -> Any:
    """Return the one JSON object that stdout holds, parsed as the standard has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(finished.stdout, parse_constant=refuse)


def metadata(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working folder of this module, with a tiny checkpoint in it."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_checkpoint(folder / "tiny.safetensors")
    return folder


# --- onnx ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(folder: Path) -> Finished:
    """Export with defaults: the file is named after the checkpoint."""
    return run_started(folder, "onnx", "tiny.safetensors", "--json")


@pytest.mark.processes
def test_onnx_by_default(exported: Finished, folder: Path) -> None:
    """A checkpoint becomes one ONNX file in the working folder, with a verdict in JSON."""
    assert exported.code == 0, exported.stderr
    result = document(exported)
    assert result["artifacts"] == ["tiny.onnx"]
    assert result["passed"] is True
    assert result["rows"]
    for row in (*result["rows"], result["worst"]):
        assert set(row) >= ROW_KEYS
        assert row["candidate"] == "tiny.onnx"
    assert "1x1" in {row["size"] for row in result["rows"]}
    assert {"tiny.onnx", "tiny.safetensors"} == {
        name for name in names_in(folder) if name.startswith("tiny.") and "engine" not in name
    }


@pytest.mark.processes
def test_notes_go_to_stderr(exported: Finished) -> None:
    """What was assumed is said on stderr, and names the flag that settles it."""
    assert exported.stderr.startswith("note: ")
    assert "--upsampler-alpha" in exported.stderr
    assert exported.stdout.startswith("{")
    assert exported.stdout.rstrip().endswith("}")


@pytest.mark.processes
def test_metadata(exported: Finished, folder: Path) -> None:
    """The file tells a consumer what it is, what goes in, and what it was made from."""
    told = metadata(folder / "tiny.onnx")
    assert told["family"] == "ParagonSR2"
    assert told["generation"] == "v11"
    assert told["variant"] == "realtime"
    assert json.loads(told["scale"]) == 2
    assert json.loads(told["value_range"]) == [0, 1]
    assert told["colour_order"] == "RGB"
    assert told["precision"] == "fp32"
    assert told["checkpoint_sha256"] == sha256_of(folder / "tiny.safetensors")
    assert told["tool"] == f"paragon-export {paragon_export.__version__}"
    assert told["torch"][0].isdigit()
    switches = json.loads(told["switches"])
    assert switches["upsampler_alpha"] == {"value": 0.3, "source": "default"}
    assert switches["detail_gain"]["source"] == "tensors"


@pytest.mark.processes
def test_file_is_self_contained(exported: Finished, folder: Path) -> None:
    """The file has its weights inside, dynamic sizes, and runs wherever it is moved to."""
    model = onnx.load(folder / "tiny.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    moved = folder / "elsewhere"
    moved.mkdir(exist_ok=True)
    runner = OnnxRunner(Path(shutil.copy(folder / "tiny.onnx", moved)))
    for shape in [(1, 3, 1, 1), (2, 3, 7, 19)]:
        output = runner.infer({"input": np.full(shape, 0.5, np.float32)})["output"]
        assert output.shape == (shape[0], 3, 2 * shape[2], 2 * shape[3])


@pytest.mark.processes
def test_second_run_is_byte_identical(exported: Finished, folder: Path, run_in: RunIn) -> None:
    """The same command gives the same bytes, under the name that -o gives; people get a table."""
    again = run_in(folder, "onnx", "tiny.safetensors", "-o", "elsewhere_2x.onnx")
    assert again.code == 0, again.stderr
    assert "PASSED" in again.stdout
    assert "wrote elsewhere_2x.onnx" in again.stdout
    assert (folder / "elsewhere_2x.onnx").read_bytes() == (folder / "tiny.onnx").read_bytes()


def test_half_precision_video(folder: Path, run_here: RunHere) -> None:
    """--fp16 --video writes a typed video model with float32 ports, named after both."""
    done = run_here("onnx", "tiny.safetensors", "--fp16", "--video", "--json")
    assert done.code == 0, done.stderr
    (name,) = document(done)["artifacts"]
    assert name == "tiny_video_fp16.onnx"
    model = onnx.load(folder / name)
    ports = (*model.graph.input, *model.graph.output)
    assert [port.name for port in ports] == [
        "input", "prev_feat", "alpha", "output", "feature_map",
    ]  # fmt: skip
    assert {p.type.tensor_type.elem_type for p in ports} == {onnx.TensorProto.FLOAT}
    halves = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 10
    told = metadata(folder / name)
    assert (told["precision"], told["io"], json.loads(told["video"])) == ("fp16", "fp32", True)


def test_bfloat16_at_one_size(folder: Path, run_here: RunHere) -> None:
    """--bf16 --static writes a model for one size, named after both."""
    options = ("--bf16", "--io", "bf16", "--static", "16x24")
    done = run_here("onnx", "tiny.safetensors", *options, "--json")
    assert done.code == 0, done.stderr
    result = document(done)
    assert result["artifacts"] == ["tiny_bf16_16x24.onnx"]
    assert {row["size"] for row in result["rows"]} == {"16x24"}
    model = onnx.load(folder / "tiny_bf16_16x24.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,), (output,) = model.graph.input, model.graph.output
    for port, shape in ((image, [1, 3, 16, 24]), (output, [1, 3, 32, 48])):
        assert port.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
        assert [dim.dim_value for dim in port.type.tensor_type.shape.dim] == shape
    assert metadata(folder / "tiny_bf16_16x24.onnx")["precision"] == "bf16"


def test_dropped_tensors_are_told(folder: Path, tiny_photo: Path, run_here: RunHere) -> None:
    """--export-safe names the trained tensors that it drops and by how much the picture moves."""
    done = run_here("onnx", tiny_photo, "--export-safe", "-o", "safe.onnx", "--json")
    assert done.code == 0, done.stderr
    result = document(done)
    assert result["passed"] is True
    tensors = result["dropped"]["tensors"]
    assert len(tensors) == 12
    assert "body.0.blocks.0.attn.qkv.weight" in tensors
    assert "body.0.blocks.1.attn_norm.scale" in tensors
    cost = result["dropped"]["cost"]
    assert cost["max_abs"] > 1e-3
    assert 0 < cost["psnr_db"] < 80
    assert "drops 12 trained attention tensors: body.0.blocks." in done.stderr
    assert f"PSNR to the full network {cost['psnr_db']:.2f} dB" in done.stderr
    assert json.loads(metadata(folder / "safe.onnx")["dropped_tensors"]) == 12


# --- parity --------------------------------------------------------------------------------


@pytest.mark.processes
def test_parity_passes(exported: Finished, folder: Path, run_in: RunIn) -> None:
    """A good file passes at the sizes asked for: exit code 0, JSON and JUnit."""
    done = run_in(
        folder, "parity", "tiny.safetensors", "tiny.onnx",
        "--sizes", "1x1,33x17", "--junit", "good.xml", "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    result = document(done)
    assert result["artifacts"] == ["tiny.onnx"]
    assert result["passed"] is True
    assert {row["size"] for row in result["rows"]} == {"1x1", "33x17"}
    assert set(result["worst"]) >= ROW_KEYS
    root = ElementTree.parse(folder / "good.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == (str(len(result["rows"])), "0")


@pytest.mark.processes
def test_wrong_switch_fails_and_is_named(exported: Finished, folder: Path, run_in: RunIn) -> None:
    """Another upsampler_alpha fails with exit code 1, and a note names the switch and both values."""
    done = run_in(
        folder, "parity", "tiny.safetensors", "tiny.onnx",
        "--upsampler-alpha", "0.9", "--sizes", "1x1,33x17", "--junit", "wrong.xml",
    )  # fmt: skip
    assert done.code == 1
    assert "FAILED" in done.stdout
    (note,) = [line for line in done.stderr.splitlines() if "was exported with" in line]
    assert "upsampler_alpha = 0.3" in note
    assert "0.9 (from the flag)" in note
    assert "--upsampler-alpha" in note
    root = ElementTree.parse(folder / "wrong.xml").getroot()
    assert int(root.get("failures", "0")) > 0
    assert root.find(".//failure") is not None


@pytest.mark.processes
def test_sabotaged_file_fails(exported: Finished, folder: Path, run_here: RunHere) -> None:
    """Of two files the one with a changed weight fails, and with it the command: exit code 1."""
    model = onnx.load(folder / "tiny.onnx")
    (kernel,) = [t for t in model.graph.initializer if t.name == "conv_mid.weight"]
    changed = onnx.numpy_helper.to_array(kernel) * np.float32(1.001)
    kernel.CopyFrom(onnx.numpy_helper.from_array(changed, kernel.name))
    onnx.save(model, folder / "sabotaged.onnx")
    done = run_here("parity", "tiny.safetensors", "tiny.onnx", "sabotaged.onnx", "--json")
    assert done.code == 1
    result = document(done)
    assert result["passed"] is False
    assert result["worst"]["candidate"] == "sabotaged.onnx"
    by_name = {name: {row["passed"] for row in result["rows"] if row["candidate"] == name}
               for name in result["artifacts"]}  # fmt: skip
    assert by_name["tiny.onnx"] == {True}
    assert False in by_name["sabotaged.onnx"]


# --- trt -----------------------------------------------------------------------------------

TRT_KEYS = {
    "engine", "manifest", "target", "planned_device_memory_bytes", "cached", "reason", "passed",
}  # fmt: skip

FROM_CHECKPOINT = (
    "trt", "tiny.safetensors", "--fp16", "--target", "sm86",
    "--min", "1x1", "--opt", "36x64", "--max", "72x128", "--json",
)  # fmt: skip


@pytest.mark.processes
def test_engine_from_a_checkpoint(folder: Path, run_in: RunIn) -> None:
    """A checkpoint becomes an engine with a manifest; the second run reuses it."""
    first = run_in(folder, *FROM_CHECKPOINT)
    assert first.code == 0, first.stderr
    result = document(first)
    assert set(result) >= TRT_KEYS
    assert result["engine"] == "tiny_fp16_sm86_1x1-36x64-72x128.engine"
    assert result["manifest"] == "tiny_fp16_sm86_1x1-36x64-72x128.engine.json"
    assert result["target"] == "sm86"
    assert result["planned_device_memory_bytes"] > 0
    assert (result["cached"], result["reason"]) == (False, "no engine was there")
    assert result["passed"] is True
    assert result["tensorrt_warnings"] == []
    assert result["profile"] == {"min": "1x1", "opt": "36x64", "max": "72x128", "batch": 1}
    manifest = json.loads((folder / result["manifest"]).read_text())
    assert manifest["engine_sha256"] == sha256_of(folder / result["engine"])
    assert manifest["onnx_sha256"] == sha256_of(folder / manifest["onnx"])

    second = run_in(folder, *FROM_CHECKPOINT)
    assert second.code == 0, second.stderr
    again = document(second)
    assert again["cached"] is True
    assert again["passed"] is True
    assert again["reason"] == "everything in the manifest matches"
    same = TRT_KEYS - {"cached", "reason"}
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


@pytest.mark.processes
def test_engine_from_an_onnx_file(exported: Finished, folder: Path, run_in: RunIn) -> None:
    """An ONNX file becomes an engine, judged against the checkpoint beside it; people get words."""
    done = run_in(
        folder, "trt", "tiny.onnx", "--target", "sm89", "--target", "sm86", "-o", "two.engine"
    )
    assert done.code == 0, done.stderr
    assert "sm89,sm86" in done.stdout
    assert "no engine was there" in done.stdout
    assert "PASSED" in done.stdout
    manifest = json.loads((folder / "two.engine.json").read_text())
    assert manifest["onnx"] == "tiny.onnx"
    assert manifest["precision"] == "fp32"
    assert manifest["parity"]["passed"] is True
    assert manifest["tensorrt_warnings"] == []
    assert manifest["profile"]["max"] == "1080x1920"


# --- rewrites -----------------------------------------------------------------------------


PROFILE_FLAGS = ("--min", "1x1", "--opt", "32x32", "--max", "32x32")


def rewrites_of(file: Path) -> tuple[dict[str, int], str]:
    facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return json.loads(facts["rewrites"]), facts["runtime"]


def test_rewritten_by_default_and_said_so(run_here: RunHere, folder: Path) -> None:
    """Every way of export passes the same verdict, and the file and the user are told of it."""
    checkpoint = tiny_checkpoint(folder / "photo.safetensors", "photo", blocks=1)
    small = ("--window-size", "8")
    sizes = {}
    for name, flags in {
        "any": (), "ort": ("--for", "onnxruntime"), "plain": ("--no-rewrite",)
    }.items():  # fmt: skip
        output = folder / f"{name}.onnx"
        finished = run_here("onnx", checkpoint, "-o", output, *flags, *small, "--json")
        assert finished.code == 0, finished.stderr
        rewrites, runtime = rewrites_of(output)
        assert document(finished)["rewrites"] == rewrites
        assert runtime == {"ort": "onnxruntime"}.get(name, "any")
        sizes[name] = set(rewrites)
    assert "fuse_tail" in sizes["any"]
    assert "fuse_heads" in sizes["ort"] - sizes["any"]
    assert not sizes["plain"]
    told = run_here("onnx", checkpoint, "-o", folder / "any.onnx", *small).stdout
    assert "rewritten before export: gather_windows 1" in told


def test_runtime_without_rewrites_is_refused(run_here: RunHere, folder: Path) -> None:
    checkpoint = tiny_checkpoint(folder / "realtime.safetensors")
    output = folder / "refused.onnx"
    finished = run_here("onnx", checkpoint, "-o", output, "--for", "tensorrt", "--no-rewrite")
    assert finished.code == 3
    assert "leave one of the two out" in finished.stderr
    assert not output.exists()


def test_engine_of_a_checkpoint_is_rewritten_for_tensorrt(run_here: RunHere, folder: Path) -> None:
    """The manifest holds it, so that the other kind is not taken for it."""
    checkpoint = tiny_checkpoint(folder / "realtime.safetensors")
    engine = folder / "r.engine"
    small = ("--target", "sm86", *PROFILE_FLAGS, "-o", engine)
    assert run_here("trt", checkpoint, *small).code == 0
    assert rewrites_of(folder / "r.engine.onnx")[1] == "tensorrt"
    finished = run_here("trt", checkpoint, *small, "--no-rewrite", "--json")
    assert document(finished)["reason"] == "rewrite changed from True to False"
    assert rewrites_of(folder / "r.engine.onnx") == ({}, "any")


def test_no_rewrite_of_an_onnx_file_is_said_to_do_nothing(run_here: RunHere, folder: Path) -> None:
    checkpoint = tiny_checkpoint(folder / "realtime.safetensors")
    assert run_here("onnx", checkpoint, "-o", folder / "r.onnx").code == 0
    small = ("--target", "sm86", *PROFILE_FLAGS, "-o", folder / "r.engine")
    finished = run_here("trt", folder / "r.onnx", *small, "--no-rewrite")
    assert finished.code == 0
    assert "--no-rewrite has no effect" in finished.stdout + finished.stderr
