"""Judging again: a released file names its checkpoint and switches, and is held to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from paragon_export.engines.manifest import manifest_bytes, manifest_path, sealed
from paragon_export.errors import PlanError
from paragon_export.parity.check import check_parity
from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.testing.tiny import save, tiny_checkpoint, tiny_hyperparameters, tiny_tensors
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SMALL = ("--sizes", "9x11")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint and a file made from it with a flag."""
    folder = tmp_path_factory.mktemp("released")
    checkpoint = tiny_checkpoint(folder / "net.safetensors")
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=folder / "net.onnx",
        options=NetworkOptions(flags={"upsampler_alpha": 0.7}),
        precision=Precision.FP16,
        static=Size(9, 11),
    )
    assert export(plan).parity.passed
    return folder


@pytest.fixture
def folder(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def change(file: Path, what: Callable[[onnx.ModelProto], Any]) -> None:
    model = onnx.load(file)
    what(model)
    onnx.save(model, file)


def scale_bias(model: onnx.ModelProto) -> None:
    """Spoil one tensor, so that the picture is another."""
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    values = onnx.numpy_helper.to_array(tensor) * 2
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def test_a_file_alone_finds_its_checkpoint_and_switches(folder: Path, run_here: RunHere) -> None:
    """Beside the file, whatever the working folder; with the flag that it was made with."""
    done = run_here("parity", folder / "net.onnx", *SMALL, "--json", "--junit", folder / "j.xml")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["passed"] is True
    assert told["switches"]["upsampler_alpha"]["value"] == 0.7
    assert told["artifacts"] == [str(folder / "net.onnx")]
    assert any("judged against" in note and "records" in note for note in told["notes"])
    assert not any("was changed" in note for note in told["notes"])
    assert (folder / "j.xml").is_file()


def test_the_checkpoint_may_lie_in_the_working_folder(
    folder: Path, tmp_path: Path, run_here: RunHere
) -> None:
    shutil.move(folder / "net.safetensors", tmp_path)
    assert run_here("parity", folder / "net.onnx", *SMALL).code == 0


def test_a_spoilt_file_fails_alone_too(folder: Path, run_here: RunHere) -> None:
    """The verdict is the usual one, and the report says besides that the file was changed."""
    change(folder / "net.onnx", scale_bias)
    done = run_here("parity", folder / "net.onnx", *SMALL, "--json")
    assert done.code == 1
    assert any("was changed after export" in note for note in json.loads(done.stdout)["notes"])
    assert "was changed after export" in done.stderr


def test_a_change_that_does_no_harm_passes_and_is_told(folder: Path, run_here: RunHere) -> None:
    """The numbers decide; the report says that they are no longer those of the file as made."""
    change(folder / "net.onnx", lambda model: setattr(model, "doc_string", "mine"))
    done = run_here("parity", folder / "net.safetensors", folder / "net.onnx", *SMALL, "--json",
                    "--upsampler-alpha", "0.7")  # fmt: skip
    assert done.code == 0, done.stderr
    assert any("was changed after export" in note for note in json.loads(done.stdout)["notes"])


@pytest.mark.parametrize("own", ["0.3", "0.7"])
def test_recorded_switches_that_contradict_the_checkpoint_are_noted(
    own: str, tmp_path: Path
) -> None:
    """The file says 0.7; the checkpoint's own metadata may say something else."""
    tensors = tiny_tensors(tiny_hyperparameters())
    checkpoint = save(tensors, tmp_path / "net.safetensors", metadata={"upsampler_alpha": own})
    options = NetworkOptions(flags={"upsampler_alpha": 0.7})
    plan = ExportPlan(checkpoint=checkpoint, output=tmp_path / "net.onnx", options=options,
                      static=Size(9, 11))  # fmt: skip
    assert export(plan).parity.passed
    report = check_parity(None, [tmp_path / "net.onnx"], sizes=["9x11"])
    assert report.passed
    expected = (
        "upsampler_alpha is 0.7, as recorded at export; the checkpoint's own metadata says 0.3"
    )
    assert any(note.startswith(expected) for note in report.notes) == (own == "0.3")


def test_given_switches_beat_recorded_ones(folder: Path, run_here: RunHere) -> None:
    """A flag that contradicts the file fails it, and the note says which."""
    done = run_here("parity", folder / "net.onnx", *SMALL, "--upsampler-alpha", "0.1")
    assert done.code == 1
    assert "was exported with upsampler_alpha = 0.7, the reference has 0.1" in done.stderr


def gone(folder: Path) -> None:
    (folder / "net.safetensors").unlink()


def another(folder: Path) -> None:
    tiny_checkpoint(folder / "net.safetensors", seed=9)


def forgotten(folder: Path) -> None:
    change(folder / "net.onnx", lambda model: model.ClearField("metadata_props"))


def too_long(folder: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        (entry,) = [e for e in model.metadata_props if e.key == "checkpoint"]
        entry.value = "n" * 5000

    change(folder / "net.onnx", rename)


@pytest.mark.parametrize(
    ("lose", "words"),
    [
        (gone, "neither in its folder nor in the working folder"),
        (another, "neither in its folder nor in the working folder"),
        (forgotten, "does not record its checkpoint"),
        (too_long, "neither in its folder nor in the working folder"),
    ],
)
def test_without_its_checkpoint_a_file_alone_is_refused(
    lose: Callable[[Path], None], words: str, folder: Path, run_here: RunHere
) -> None:
    lose(folder)
    done = run_here("parity", folder / "net.onnx", *SMALL)
    assert (done.code, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_a_checkpoint_alone_is_wrong_usage(folder: Path, run_here: RunHere) -> None:
    assert run_here("parity", folder / "net.safetensors").code == 2


def test_another_checkpoint_is_refused_unless_it_is_meant(folder: Path, run_here: RunHere) -> None:
    """Both hashes are told; with the flag it is judged, and told all the same."""
    other = tiny_checkpoint(folder / "other.safetensors", seed=9)
    args = ("parity", other, folder / "net.onnx", *SMALL, "--upsampler-alpha", "0.7")
    refused = run_here(*args)
    assert (refused.code, refused.stdout) == (3, "")
    for path in (other, folder / "net.safetensors"):
        assert sha256_of(path) in refused.stderr
    meant = run_here(*args, "--other-checkpoint", "--json")
    assert meant.code == 1  # another network's weights
    notes = json.loads(meant.stdout)["notes"]
    assert any("was exported from a checkpoint with SHA-256" in note for note in notes)


def test_a_copy_under_another_name_is_the_same_checkpoint(folder: Path, run_here: RunHere) -> None:
    """The hash decides, not the name."""
    copy = shutil.copy(folder / "net.safetensors", folder / "renamed.safetensors")
    args = ("parity", copy, folder / "net.onnx", *SMALL, "--upsampler-alpha", "0.7")
    assert run_here(*args).code == 0


def test_files_of_other_tools_are_judged_as_ever(folder: Path, run_here: RunHere) -> None:
    """Without metadata nothing is asked of a checkpoint but the picture."""
    forgotten(folder)
    args = ("parity", folder / "net.safetensors", folder / "net.onnx", *SMALL)
    assert run_here(*args, "--upsampler-alpha", "0.7").code == 0
    other = tiny_checkpoint(folder / "other.safetensors", seed=9)
    assert run_here("parity", other, folder / "net.onnx", *SMALL).code == 1


def test_an_engine_is_known_by_its_manifest(folder: Path) -> None:
    """An engine of another checkpoint is refused before a GPU is asked for."""
    engine = folder / "net.engine"
    facts = {"checkpoint": "net.safetensors", "checkpoint_sha256": "0" * 64}
    manifest = {"onnx_metadata": facts, "checkpoint_sha256": "0" * 64}
    engine.write_bytes(b"engine")
    manifest_path(engine).write_bytes(manifest_bytes(sealed(manifest, b"engine")))
    with pytest.raises(PlanError, match="was exported from a checkpoint with SHA-256 0000"):
        check_parity(folder / "net.safetensors", [engine])
    with pytest.raises(PlanError, match="neither in its folder nor in the working folder"):
        check_parity(None, [engine])
    manifest_path(engine).unlink()
    with pytest.raises(PlanError, match="no manifest"):
        check_parity(folder / "net.safetensors", [engine])
