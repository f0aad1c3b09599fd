"""Reports never overwrite what they are about, and a pipe is refused instead of waited for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from paragon_export.assets import CHECKPOINT
from paragon_export.cli.app import main
from paragon_export.errors import PlanError, RunError
from paragon_export.graph.onnx_io import read_onnx
from paragon_export.networks.options import read_option_file
from paragon_export.specs.profiles import read_recipe


def test_junit_never_overwrites_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report that names the checkpoint itself is refused, and the checkpoint keeps its bytes."""
    reference = Path(shutil.copy(CHECKPOINT, tmp_path / "reference.safetensors"))
    arguments = ["parity", str(reference), str(tmp_path / "c.onnx"), "--junit", str(reference)]
    monkeypatch.setattr("sys.argv", ["paragon-export", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert "is also the source; choose another output" in capsys.readouterr().err
    assert reference.read_bytes() == CHECKPOINT.read_bytes()


def test_pipes_are_refused(tmp_path: Path) -> None:
    """Opening a pipe would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RunError, match="pipe"):
        read_onnx(pipe)
    with pytest.raises(PlanError, match="pipe"):
        read_recipe(pipe)
    with pytest.raises(PlanError, match="pipe"):
        read_option_file(pipe)
