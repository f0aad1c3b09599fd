"""Recipes by name, and several profiles in one engine."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from paragon_export.engines.profile_entry import profile_entry, profile_of
from paragon_export.errors import PlanError
from paragon_export.runtimes.trt_runner import EngineRunner
from paragon_export.specs.plans import EnginePlan
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.profiles import (
    MAX_PROFILES,
    RECIPES,
    Profile,
    find_recipe,
    read_recipe,
    recipe_names,
)
from paragon_export.specs.types import Size
from tests.conftest import ROOT, RunHere

TABLE = '[[profile]]\nmin = "{}"\nopt = "{}"\nmax = "{}"\n'

SMALL = Profile(smallest=Size(1, 1), optimal=Size(8, 8), largest=Size(16, 16))

LARGE = Profile(smallest=Size(8, 8), optimal=Size(16, 24), largest=Size(32, 64), batch=2)

BOTH = Profile(
    smallest=Size(1, 1), optimal=Size(8, 8), largest=Size(16, 16), also=(LARGE,)
)  # fmt: skip


def write(path: Path, *profiles: Profile) -> Path:
    texts = [TABLE.format(*p.sizes) + f"batch = {p.batch}\n" for p in profiles]
    path.write_text("".join(texts))
    return path


def test_recipes_are_in_the_wheel() -> None:
    """A checkout finds them in ``engines/``; the build copies them to where the package looks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]

    assert included == {"engines": "paragon_export/assets/recipes"}
    assert RECIPES == ROOT / "engines"
    assert {"realtime-1080p", "pro-720p"} <= set(recipe_names())


def test_a_recipe_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_recipe("realtime-1080p") == RECIPES / "realtime-1080p.toml"
    assert find_recipe("folder/realtime-1080p") == Path("folder/realtime-1080p")
    assert find_recipe("absent.toml") == Path("absent.toml")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine", SMALL)
    assert find_recipe("mine") == Path("mine")


def test_an_unknown_name_lists_the_recipes(run_here: RunHere) -> None:
    done = run_here("trt", "c.onnx", "--recipe", "realtime-9000p")

    assert done.code == 3
    assert "unknown recipe 'realtime-9000p'" in done.stderr
    assert all(name in done.stderr for name in recipe_names())


def test_several_profiles(tmp_path: Path) -> None:
    """One table is the same in both spellings; several come in their order."""
    assert read_recipe(write(tmp_path / "one.toml", SMALL)) == SMALL
    found = read_recipe(write(tmp_path / "two.toml", SMALL, LARGE))
    assert found == BOTH
    assert found.all == (BOTH, LARGE)
    with pytest.raises(PlanError, match="8 profiles"):
        read_recipe(write(tmp_path / "many.toml", *[SMALL] * (MAX_PROFILES + 1)))
    (tmp_path / "none.toml").write_text("profile = []\n")
    with pytest.raises(PlanError, match=r"no \[profile\] table"):
        read_recipe(tmp_path / "none.toml")


def test_every_profile_is_checked_against_the_network() -> None:
    plan = EnginePlan(source=Path("c.onnx"), output=Path("e.engine"), profile=BOTH)
    with pytest.raises(PlanError, match="defined from 4x4 on, not at 1x1"):
        plan.profile_for(FixedExtents(), smallest=4)
    with pytest.raises(PlanError, match="fixed to 8x8"):
        plan.profile_for(FixedExtents(height=8, width=8))


def test_the_manifest_records_them() -> None:
    """One profile is recorded as it always was."""
    assert profile_entry(SMALL) == {"min": "1x1", "opt": "8x8", "max": "16x16", "batch": 1}
    entry = profile_entry(BOTH)
    assert entry["also"] == [profile_entry(LARGE)]
    assert profile_of(json.loads(json.dumps(entry))) == BOTH
    for bad in (
        {**entry, "also": "x"},
        {**entry, "also": [1]},
        {**entry, "also": [entry]},
        {**entry, "also": [{"min": 1, "opt": 2, "max": 3}]},
        {"min": 1, "opt": 2, "max": 3, "also": []},
    ):
        with pytest.raises(ValueError, match="profile"):
            profile_of(bad)


@pytest.mark.usefixtures("same_engines_once")
def test_one_engine_holds_them(tmp_path: Path, tiny_realtime: Path, run_here: RunHere) -> None:
    """The engine is reused for the same profiles; its memory is that of the largest."""
    pytest.importorskip("tensorrt_rtx")
    write(tmp_path / "two.toml", SMALL, LARGE)
    write(tmp_path / "turned.toml", LARGE, SMALL)
    write(tmp_path / "large.toml", LARGE)
    build = ("trt", tiny_realtime, "--target", "sm86", "--json", "-o", "e.engine", "--recipe")

    first = json.loads(run_here(*build, "two.toml").stdout)
    again = json.loads(run_here(*build, "two.toml").stdout)
    turned = json.loads(run_here(*build, "turned.toml").stdout)
    alone = json.loads(run_here(*build, "large.toml").stdout)

    assert first["profile"] == profile_entry(BOTH)
    assert again["cached"] is True
    assert turned["reason"].startswith("profile changed")
    assert alone["cached"] is False
    assert "also" not in alone["profile"]
    planned = [found["planned_device_memory_bytes"] for found in (first, turned, alone)]
    assert planned[0] == planned[1] == pytest.approx(planned[2], rel=0.01)


class FakeRunner:
    """What Polygraphy's runner has that ours uses; the engine accepts 1 to 4 and 3 to 9 pixels."""

    def __init__(self) -> None:
        limits = ([(1, 1), (2, 2), (4, 4)], [(3, 3), (5, 5), (9, 9)])
        self.engine = SimpleNamespace(
            num_optimization_profiles=2, get_tensor_profile_shape=lambda _, index: limits[index]
        )
        self.chosen: list[int] = []

    def get_input_metadata(self) -> dict[str, object]:
        return {"input": SimpleNamespace(dtype=SimpleNamespace(numpy=lambda: np.float32))}

    def set_profile(self, index: int) -> None:
        self.chosen.append(index)

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"output": feeds["input"]}


def test_the_runner_chooses_the_profile_that_holds_the_shape() -> None:
    """The first one that does; it is only set where it changes, and never where none does."""
    pytest.importorskip("polygraphy")
    runner = EngineRunner.__new__(EngineRunner)
    fake = FakeRunner()
    runner.name, runner._ports, runner._runner, runner._profile = "fake", (), fake, 0
    runner._backend = "rtx"
    runner._profiles = runner._ranges()

    for side in (1, 4, 5, 9, 3, 20):
        runner.infer({"input": np.zeros((side, side), np.float32)})

    assert fake.chosen == [1, 0]
