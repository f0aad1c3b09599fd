"""Training: it learns, goes on where it was stopped, and gives the same bytes for the same steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paragon_export as pe
from paragon_export.assets import CHECKPOINT
from paragon_export.pruning import prune as flow
from paragon_export.pruning import report
from paragon_export.pruning import train as trainer
from paragon_export.pruning.distill import distill, new_network, pieces_of, published
from paragon_export.pruning.pictures import read_photographs
from paragon_export.pruning.prune import prune
from paragon_export.pruning.report import SmallerResult
from paragon_export.pruning.train import Piece, Training, train
from paragon_export.testing.foreign import foreign_checkpoint
from tests.conftest import RunHere


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "CROPS", 6)
    monkeypatch.setattr("paragon_export.pruning.report.TIMED_RUNS", 2)
    monkeypatch.setattr("paragon_export.pruning.report._estimate", lambda network, card: None)


@pytest.fixture
def pieces(folder: Path) -> list[Piece]:
    teacher = pe.load_network(CHECKPOINT).module
    return pieces_of(teacher, read_photographs(folder), 2, Training(steps=1))


def _error(network: torch.nn.Module, pieces: list[Piece], target: str) -> float:
    errors = []
    for piece in pieces:
        with torch.no_grad():
            small = torch.from_numpy(piece.small.copy()).permute(2, 0, 1)[None] / 255
            output = network(small)[0].permute(1, 2, 0).numpy()
        errors.append(np.abs(output - getattr(piece, target) / 255).mean())
    return float(np.mean(errors))


@pytest.mark.parametrize("target", ["large", "taught"])
def test_a_network_learns_what_it_is_given(pieces: list[Piece], target: str) -> None:
    other = "taught" if target == "large" else "large"
    wrong = [replace(piece, **{other: 255 - getattr(piece, other)}) for piece in pieces]
    network = new_network(published("realtime", 2), 0)
    before = _error(network, pieces, target)
    share = 1.0 if target == "taught" else 0.0
    train(network, wrong, 2, Training(steps=60, batch=2, teacher_share=share))
    assert _error(network, pieces, target) < 0.5 * before
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_filters_of_the_base_stay(pieces: list[Piece]) -> None:
    network = new_network(published("realtime", 2), 0)
    before = {n: p.clone() for n, p in network.named_parameters()}
    train(network, pieces, 2, Training(steps=3, batch=2))
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if not n.startswith("base.")}


def test_the_weights_kept_are_the_average(
    pieces: list[Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[torch.Tensor] = []
    after = trainer._Run.after_step

    def recording(run: Any, loss: float) -> None:
        after(run, loss)
        weights.append(run.parameters["conv_in.weight"].detach().clone())

    monkeypatch.setattr(trainer._Run, "after_step", recording)
    network = new_network(published("realtime", 2), 0)
    average: torch.Tensor = network.get_parameter("conv_in.weight").detach().clone()
    train(network, pieces, 2, Training(steps=4, batch=2))
    for step, weight in enumerate(weights, 1):
        average = average + (weight - average) * 10 / (step + 10)
    assert torch.allclose(network.get_parameter("conv_in.weight"), average, atol=1e-6)


class _StoppedError(Exception):
    pass


def _stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Save the state after each step, and stop after some."""
    monkeypatch.setattr(trainer, "SAVED_SECONDS", 0.0)
    after = trainer._Run.after_step

    def stopping(run: Any, loss: float) -> None:
        after(run, loss)
        if run.steps == steps:
            raise _StoppedError

    monkeypatch.setattr(trainer._Run, "after_step", stopping)


def test_a_stopped_training_goes_on_to_the_same_weights(
    pieces: list[Piece], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(steps=9, batch=2, state=tmp_path / "out.training", key="a")
    whole = train(new_network(published("realtime", 2), 0), pieces, 2, Training(steps=9, batch=2))
    with monkeypatch.context() as patch:
        _stop_after(patch, 4)
        with pytest.raises(_StoppedError):
            train(new_network(published("realtime", 2), 0), pieces, 2, training)
    resumed = new_network(published("realtime", 2), 5)  # its weights are replaced
    train(resumed, pieces, 2, training)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(pe.PlanError, match="of another training"):
        train(resumed, pieces, 2, replace(training, key="b"))
    (tmp_path / "out.training").write_bytes(b"damaged")
    with pytest.raises(pe.PlanError, match="is no state of a training"):
        train(resumed, pieces, 2, training)


def test_a_training_of_minutes_ends(pieces: list[Piece]) -> None:
    run = Training(minutes=0.02, batch=2)
    train(new_network(published("realtime", 2), 0), pieces, 2, run)


def _distilled(output: Path, folder: Path, **changes: Any) -> SmallerResult:
    training = Training(**{"steps": 6, "batch": 2, **changes})
    return distill(CHECKPOINT, output, to="realtime", data=folder, training=training)


def test_distilled_network_is_an_ordinary_checkpoint(folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    results = [_distilled(file, folder) for file in files]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    loaded = pe.load_network(files[0])
    assert (loaded.spec.variant, loaded.spec.generation) == ("realtime", "v11")
    assert loaded.spec.options["upsampler_alpha"].value == 0
    assert results[0].made["to"] == "realtime"
    other = _distilled(tmp_path / "c.safetensors", folder, seed=1)
    assert other.data != results[0].data


def test_finetuning_gets_closer(folder: Path, tmp_path: Path) -> None:
    found = [
        prune(CHECKPOINT, tmp_path / f"{steps}.safetensors", data=folder, keep=0.5, accept_loss=True,
              finetune=Training(steps=steps, rate=1e-3, batch=2) if steps else None)
        for steps in (0, 60)
    ]  # fmt: skip
    assert found[1].lost_db < found[0].lost_db - 0.02
    assert found[1].after.parameters == found[0].after.parameters
    assert found[1].made["finetune"]["steps"] == 60


def test_commands(folder: Path, tmp_path: Path, run_here: RunHere) -> None:
    output = tmp_path / "small.safetensors"
    run = run_here("distill", CHECKPOINT, "--to", "realtime", "--data", folder, "--steps", "2", "--batch", "2",
                   "-o", output, "--json")  # fmt: skip
    told = json.loads(run.stdout)
    assert (run.code, told["passed"], output.exists()) == (0, True, True)
    assert told["made"]["steps"] == 2
    wrong = {
        "choose from realtime, stream, photo": ("--to", "large"),
        "number of minutes or steps above 0": ("--to", "realtime", "--minutes", "0"),
        "minutes or steps above": ("--to", "realtime", "--minutes", "inf"),
        "give a number from 0 to 9223372036854775807": ("--to", "realtime", "--seed", str(2**63)),
        "must end in .safetensors": ("--to", "realtime", "-o", tmp_path / "small.pth"),
        "give a share from 0 to 1": ("--to", "realtime", "--teacher-share", "2"),
        "give 1 or more": ("--to", "realtime", "--batch", "0"),
        "give cpu or cuda": ("--to", "realtime", "--device", "tpu"),
        "is not a folder": ("--to", "realtime", "--data", tmp_path / "none"),
    }
    other = tmp_path / "other.safetensors"
    for reason, arguments in wrong.items():
        failed = run_here(
            "distill", CHECKPOINT, "--data", folder, "-o", other, "--steps", "0", *arguments
        )
        assert (failed.code, failed.stderr.count("\n")) == (3, 1), failed.stderr
        assert reason in failed.stderr
    tuned = run_here("prune", CHECKPOINT, "--data", folder, "--keep", "0.8", "--finetune", "0.01", "--batch", "2",
                     "--accept-loss", "-o", other, "--json")  # fmt: skip
    assert tuned.code == 0
    assert json.loads(tuned.stdout)["made"]["finetune"]["minutes"] == 0.01


def test_a_state_of_another_training_is_refused_before_any_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"key": "another"}, tmp_path / "out.safetensors.training")
    monkeypatch.delattr("paragon_export.pruning.distill.pieces_of")
    monkeypatch.delattr(flow, "pruned")
    with pytest.raises(pe.PlanError, match="state of another training; remove it"):
        _distilled(tmp_path / "out.safetensors", folder)
    with pytest.raises(pe.PlanError, match="state of another training; remove it"):
        prune(CHECKPOINT, tmp_path / "out.safetensors", data=folder, finetune=Training(steps=1))


def test_a_teacher_that_only_pytorch_traces_is_timed(folder: Path, tmp_path: Path) -> None:
    """DRUNet has no ONNX form by the own tracer; a training must not end in that."""
    teacher = foreign_checkpoint(tmp_path / "teacher.pth", "DRUNet")
    training = Training(steps=1, batch=1, teacher_share=0.0)
    done = distill(
        teacher, tmp_path / "a.safetensors", to="realtime", data=folder, training=training
    )
    assert done.before.cpu_ms
    assert done.after.cpu_ms


def test_a_training_is_kept_where_nothing_can_be_timed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_here: RunHere
) -> None:
    def failing(*arguments: object, **named: object) -> None:
        raise pe.EngineBuildError("TensorRT cannot build it")

    monkeypatch.undo()  # the estimate is asked for
    monkeypatch.setattr(report, "plan_kernels", failing)
    monkeypatch.setattr(report, "float32_graph", failing)
    output = tmp_path / "a.safetensors"
    done = run_here("--verbose", "distill", CHECKPOINT, "--to", "realtime", "--data", folder, "--steps", "1", "--batch",
                    "1", "-o", output)  # fmt: skip
    assert (done.code, output.exists()) == (0, True)
    assert "engine ms" not in done.stdout
    assert "processor ms" not in done.stdout
    assert "no engine's time for" in done.stderr
    assert "no processor's time for" in done.stderr
