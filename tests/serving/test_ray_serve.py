"""The application for Ray Serve: what it says of a model, and what is refused."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from paragon_export.errors import PlanError
from paragon_export.serving.ray_serve import Limits, write_application
from paragon_export.specs.types import OnnxBackend, Size
from tests.conftest import RunHere
from tests.players.test_vapoursynth import constants, narrow


def said(app: Path) -> dict[str, Any]:
    return constants(app.read_text("utf-8"))


def test_the_application_says_what_its_model_takes(tmp_path: Path) -> None:
    """A model of one size takes one picture at a time; everything that it needs lies beside it."""
    model = narrow(tmp_path)
    app = write_application(model, tmp_path / "a", limits=Limits(batch=5, workers=3))

    found = said(app)
    assert (found["SIZE"], found["WARM_UP"], found["BATCH"]) == ((48, 64), (48, 64), 1)
    assert (found["CHANNELS"], found["IS_HALF"], found["WORKERS"]) == (3, False, 3)
    assert found["PROVIDERS"] == ["CPUExecutionProvider"]
    assert {path.name for path in app.parent.iterdir()} == {
        "app.py",
        "model.onnx",
        "requirements.txt",
    }
    assert (app.parent / "model.onnx").read_bytes() == model.read_bytes()


def test_it_imports_what_its_requirements_name(tmp_path: Path) -> None:
    """And neither this tool nor PyTorch."""
    app = write_application(narrow(tmp_path), tmp_path / "a")
    tree = ast.parse(app.read_text("utf-8"))
    imported = {
        alias.name.partition(".")[0]
        for n in tree.body
        if isinstance(n, ast.Import)
        for alias in n.names
    } | {str(n.module).partition(".")[0] for n in tree.body if isinstance(n, ast.ImportFrom)}
    needed = (app.parent / "requirements.txt").read_text().replace("ray[serve]", "ray").split()
    standard = {"asyncio", "importlib", "io", "os", "pathlib", "signal", "sys", "time"}
    assert {name.lower().replace("pil", "pillow") for name in imported - standard} == set(needed)


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    model = narrow(tmp_path)
    with pytest.raises(PlanError, match="onnxruntime and cuda"):
        write_application(model, tmp_path / "a", backend=OnnxBackend.OPENVINO)
    with pytest.raises(PlanError, match="runs ONNX files"):
        write_application(tmp_path / "e.engine", tmp_path / "a")
    with pytest.raises(PlanError, match="does not accept 4x5"):
        write_application(model, tmp_path / "a", sizes=[Size(4, 5)])
    with pytest.raises(PlanError, match="does not map pictures"):
        write_application(narrow(tmp_path, channels=2), tmp_path / "a")
    with pytest.raises(PlanError, match="cannot write"):
        write_application(narrow(tmp_path), tmp_path / "no" / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"narrow.onnx"}


def test_applications_of_others_are_kept(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("mine")
    with pytest.raises(PlanError, match="not written by this tool"):
        write_application(narrow(tmp_path), tmp_path)
    assert (tmp_path / "app.py").read_text() == "mine"


def test_the_command(run_here: RunHere, tmp_path: Path) -> None:
    narrow(tmp_path)
    done = run_here(
        "serve-config",
        "narrow.onnx",
        "-o",
        "a",
        "--for",
        "ray",
        "--backend",
        "cuda",
        "--instances",
        "2",
    )
    assert done.code == 0, done.stderr
    found = said(tmp_path / "a" / "app.py")
    assert (found["PROVIDERS"][0], found["WORKERS"]) == ("CUDAExecutionProvider", 2)
    assert found["NEEDS"] == {"num_gpus": 1}
    compile((tmp_path / "a" / "app.py").read_text(), "app.py", "exec")
    assert (
        run_here("serve-config", "narrow.onnx", "-o", "a", "--for", "ray", "--name", "m").code == 3
    )
