"""Triton's model repository: what is written, versions, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paragon_export import Profile
from paragon_export.errors import PlanError
from paragon_export.networks.describe import load_network
from paragon_export.pipeline.float32_graph import finish, float32_graph
from paragon_export.serving.model import read_served
from paragon_export.serving.triton import triton_config, versions_in, write_repository
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Backend, OnnxBackend, Size
from tests.conftest import RunHere
from tests.written_engine import write_engine

pytestmark = pytest.mark.usefixtures("foreign_files_here")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> dict[str, Path]:
    """Return exports of a small network without their verdict, which other tests are about."""
    folder = tmp_path_factory.mktemp("models")
    options: dict[str, dict[str, Any]] = {
        "any": {},
        "static": {"static": Size(9, 11)},
        "video": {"video": True},
    }
    for name, given in options.items():
        path = folder / f"{name}.onnx"
        plan = ExportPlan(checkpoint=tiny_realtime, output=path, **given)
        graph = float32_graph(load_network(tiny_realtime), plan)
        path.write_bytes(finish(graph, graph.model, plan).data)
    return {name: folder / f"{name}.onnx" for name in options}


def values(config: str, name: str) -> list[str]:
    """Return the values of a field, wherever it stands."""
    return re.findall(rf"^\s*{name}: (.*)$", config, re.MULTILINE)


def test_a_model_of_any_size_is_batched(models: dict[str, Path]) -> None:
    served = read_served(models["any"], [Size(4, 5)])
    config = triton_config(served, "m", on_gpu=True, max_batch=6, instances=2)

    assert values(config, "max_batch_size") == ["6"]
    assert values(config, "dims") == ["[3, -1, -1]", "[3, -1, -1]", "[3, 4, 5]"]
    assert values(config, "kind") == ["KIND_GPU"]
    assert values(config, "count") == ["2"]
    assert "dynamic_batching {" in config


def test_a_batch_of_one_is_not_batched(models: dict[str, Path]) -> None:
    """Nor is a model that takes one picture of one size: its shapes hold the batch."""
    alone = triton_config(read_served(models["any"]), "m", on_gpu=False, max_batch=1, instances=1)
    static = triton_config(
        read_served(models["static"]), "m", on_gpu=False, max_batch=6, instances=1
    )

    assert "dynamic_batching" not in alone + static
    assert values(alone, "max_batch_size") == ["1"]
    assert values(static, "max_batch_size") == ["0"]
    assert values(static, "dims") == ["[1, 3, 9, 11]", "[1, 3, 18, 22]", "[1, 3, 9, 11]"]


def test_the_default_warm_up_is_the_size_that_profiles_are_tuned_for(
    models: dict[str, Path],
) -> None:
    assert read_served(models["any"]).sizes == (Size(720, 1280),)


def test_each_call_adds_a_version(models: dict[str, Path], tmp_path: Path) -> None:
    """Triton loads the last one; the ones before it stay for a return."""
    for number in (1, 2):
        written = write_repository(models["any"], tmp_path / "r", name="m")
        assert written.version == number
        assert (tmp_path / "r" / "m" / str(number) / "model.onnx").read_bytes() == models[
            "any"
        ].read_bytes()
    (tmp_path / "r" / "m" / "0x").mkdir()
    (tmp_path / "r" / "m" / "012").mkdir()
    assert versions_in(tmp_path / "r" / "m") == [1, 2]
    assert (tmp_path / "r" / "m" / "config.pbtxt").read_text() == written.config


def test_what_cannot_be_served_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="without --video"):
        write_repository(models["video"], tmp_path / "r")
    with pytest.raises(PlanError, match="onnxruntime and cuda"):
        write_repository(models["any"], tmp_path / "r", backend=OnnxBackend.OPENVINO)
    with pytest.raises(PlanError, match="does not accept 4x5"):
        write_repository(models["static"], tmp_path / "r", sizes=[Size(4, 5)])
    for name in ("../m", ".m", "a/b", "a\n"):
        with pytest.raises(PlanError, match="--name"):
            write_repository(models["any"], tmp_path / "r", name=name)
    assert list(tmp_path.iterdir()) == []


def test_models_of_others_are_kept(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"')
    with pytest.raises(PlanError, match="not written by this tool"):
        write_repository(models["any"], tmp_path, name="m")
    with pytest.raises(PlanError, match="cannot write"):
        write_repository(models["any"], tmp_path / "no" / "folder", name="m")


def test_an_engine_is_served_by_the_tensorrt_that_built_it(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """At the sizes and the batch of its profile. Triton has no TensorRT-RTX."""
    profile = Profile(smallest=Size(8, 8), optimal=Size(16, 24), largest=Size(48, 64), batch=3)
    with pytest.raises(PlanError, match="TensorRT-RTX"):
        read_served(write_engine(models["any"], tmp_path / "e.engine", profile))

    engine = write_engine(models["any"], tmp_path / "e.engine", profile, Backend.TENSORRT)
    written = write_repository(engine, tmp_path / "r", max_batch=9)
    config = written.config
    assert values(config, "backend") == ['"tensorrt"']
    assert values(config, "kind") == ["KIND_GPU"]
    assert values(config, "max_batch_size") == ["3"]
    assert values(config, "dims")[2:] == ["[3, 16, 24]", "[3, 48, 64]"]
    assert (written.folder / "1" / "model.plan").read_bytes() == engine.read_bytes()
    engine.write_bytes(b"another")
    with pytest.raises(PlanError, match="matches its bytes"):
        read_served(engine)


def test_the_command(models: dict[str, Path], run_here: RunHere, tmp_path: Path) -> None:
    done = run_here("serve-config", models["any"], "-o", "r", "--for", "triton", "--json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 1
    assert (tmp_path / "r" / "any" / "config.pbtxt").is_file()
    wrong = run_here("serve-config", models["any"], "-o", "r", "--name", "a/b")
    assert (wrong.code, len(wrong.stderr.splitlines())) == (3, 1)
