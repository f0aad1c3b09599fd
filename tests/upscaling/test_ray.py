"""``upscale --ray`` on several Ray nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from paragon_export.errors import PlanError, RunError
from paragon_export.pipeline.export import export_onnx
from paragon_export.upscaling.cluster import pool as pool_module
from paragon_export.upscaling.cluster.pool import TRIES, Actor, Pool
from paragon_export.upscaling.cluster.session import connected
from paragon_export.upscaling.cluster.worker import About, Outcome, Setup, Task
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.pictures import Form
from paragon_export.upscaling.plan import UpscalePlan
from tests.conftest import run_started
from tests.upscaling.test_cluster import contents, folder_of_pictures, video

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = pytest.mark.processes

LONGEST_S = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster of a head without cores and two nodes of one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    assert export_onnx(tiny_realtime, path, at=()).passed
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Return a folder of 40 pictures, a video of five segments and two broken files."""
    source = folder_of_pictures(tmp_path / "in", 40)
    video(source / "a.mkv", 1000)
    (source / "broken.png").write_bytes(b"no picture")
    (source / "broken.mkv").write_bytes(b"no video")
    return source


def kill_a_busy_node(cluster: Cluster, path: Path) -> None:
    """Kill a node that has a worker, and the worker, once a file is there."""
    from ray._private.state import actors

    wait_for(path)
    workers = [one for one in actors().values() if one["State"] == "ALIVE"]
    doomed = workers[0]["Address"]["NodeID"]
    for worker in workers:
        if worker["Address"]["NodeID"] == doomed:
            os.kill(worker["Pid"], signal.SIGKILL)
    (node,) = [node for node in cluster.worker_nodes if node.node_id == doomed]
    cluster.remove_node(node, allow_graceful=False)


def wait_for(path: Path) -> None:
    end = time.monotonic() + LONGEST_S
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_command_that_is_killed_goes_on(
    cluster: Cluster, model: Path, inputs: Path, tmp_path: Path
) -> None:
    """Its workers end, too. What is there is skipped, and nothing is missing or twice in the end."""
    upscale(model, inputs, tmp_path / "one")
    words = ("upscale", model, inputs, "-o", tmp_path / "many", "--ray", cluster.address)
    command = [sys.executable, "-m", "paragon_export", *map(str, words)]
    with subprocess.Popen(command) as process:
        wait_for(tmp_path / "many/2.png")
        process.kill()
    again = upscale(model, inputs, tmp_path / "many", ray=cluster.address, skip_existing=True)
    assert 3 <= len(again.skipped) < 41
    assert len(again.done) == 41 - len(again.skipped)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_node_killed_midway_loses_nothing(
    cluster: Cluster, model: Path, inputs: Path, tmp_path: Path
) -> None:
    """Every file is there once, byte for byte that of one process; broken inputs are one line each."""
    one = upscale(model, inputs, tmp_path / "one")
    segment = tmp_path / "many/.a.mkv.unfinished/000000.json"
    with ThreadPoolExecutor(1) as other:
        killed = other.submit(kill_a_busy_node, cluster, segment)
        many = upscale(model, inputs, tmp_path / "many", ray=cluster.address)
        killed.result()
    cluster.add_node(num_cpus=1)  # for the tests that follow

    assert "workers lost: 1; others did their work" in many.notes
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len(many.done) == 41
    assert len({done.output for done in many.done}) == 41
    assert sorted(many.failed, key=str) == sorted(one.failed, key=str)
    assert len(many.failed) == 2


class Deadly(Actor):
    """A worker that ends when it is given a file of this name; it writes down what it is given."""

    def __init__(self, setup: Setup, neighbors: int) -> None:
        self.folder = setup.plan.output

    def about(self) -> About:
        return About(scale=2, has_features=False)

    def do(self, task: Task) -> Outcome:
        for job in task.jobs:
            with (self.folder / job.source.name).open("a") as file:
                file.write("x")
        if any("deadly" in job.source.name for job in task.jobs):
            os._exit(1)
        return Outcome()


class Never(Actor):
    """A worker that does not start."""

    def __init__(self, setup: Setup, neighbors: int) -> None:
        os._exit(1)


class Once(Actor):
    """A worker that ends with its first task, and of which no second one starts."""

    def __init__(self, setup: Setup, neighbors: int) -> None:
        (setup.plan.output / "started").mkdir()

    def about(self) -> About:
        return About(scale=2, has_features=False)

    def do(self, task: Task) -> Outcome:
        os._exit(1)


def pool_of(ray: Any, folder: Path, kind: type[Actor], count: int = 2, **needs: Any) -> Pool:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = UpscalePlan(model=Path("m.onnx"), inputs=(), output=folder)
    setup = Setup(plan=plan, form=Form(), makes_folders=True, has_videos=False)
    return Pool(ray, setup, count, 1, {"num_cpus": 1} | needs, kind)


def test_a_file_that_ends_its_worker_fails_alone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried by three workers; those in its group are done by others. Then the cores are free."""
    names = ["a", "b", "deadly", "c", "d", "e"]
    jobs = [Job(Path(name), Path(name)) for name in names]
    tasks = [Task(tuple(jobs[:4])), Task((jobs[4],)), Task((jobs[5],))]
    with connected(cluster.address) as ray, pool_of(ray, tmp_path, Deadly) as pool:
        found = list(pool.outcomes(tasks))
        assert pool.lost == TRIES
        pool.__exit__(None, None, None)
        monkeypatch.setattr(pool_module, "LONGEST_START_S", 30.0)
        with pool_of(ray, tmp_path, Deadly):
            assert pool.lost == TRIES
    failed = [one for _, outcome in found for one in outcome.failed]
    assert [str(one.source) for one in failed] == ["deadly"]
    assert "3 workers ended while they computed it" in failed[0].reason
    assert sorted(job.source.name for task, _ in found for job in task.jobs) == sorted(names)
    assert len((tmp_path / "deadly").read_text()) == TRIES


def test_workers_that_do_not_start_are_an_error(cluster: Cluster, tmp_path: Path) -> None:
    with connected(cluster.address) as ray, pytest.raises(RunError, match="end while they start"):
        pool_of(ray, tmp_path, Never)


def test_workers_that_start_no_more_are_an_error(cluster: Cluster, tmp_path: Path) -> None:
    """They are not started for ever; the one that ended and three that did not start are counted."""
    task = Task((Job(Path("a"), Path("a")),))
    with connected(cluster.address) as ray, pool_of(ray, tmp_path, Once, count=1) as pool:
        with pytest.raises(RunError, match="end while they start"):
            list(pool.outcomes([task]))
        assert pool.lost == 1 + TRIES


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"num_cpus": 64}, "started within 1 s"),
        ({"label_selector": {"ray.io/node-id": f"in({'0' * 56})"}}, "end while they start"),
    ],
)
def test_a_cluster_without_room_is_an_error(
    needs: dict[str, Any],
    reason: str,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No node has the cores, or is one of those that were asked."""
    monkeypatch.setattr(pool_module, "LONGEST_START_S", 1.0)
    with connected(cluster.address) as ray, pytest.raises(RunError, match=reason):
        pool_of(ray, tmp_path, Deadly, **needs)


def test_a_model_that_cannot_be_opened_is_one_error(cluster: Cluster, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", 2)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(RunError, match=r"bad\.onnx"):
        upscale(tmp_path / "bad.onnx", source, tmp_path / "out", ray=cluster.address)


def test_a_node_that_does_not_see_the_files_is_named(
    cluster: Cluster, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is that of the working folder, which is another one in other processes."""
    folder_of_pictures(tmp_path / "in", 2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        PlanError, match=r"node [\d.]+ \(\w+\) does not see /proc/self/cwd/in/0.png"
    ):
        upscale(model, "/proc/self/cwd/in", tmp_path / "out", ray=cluster.address)


def test_a_node_with_another_version_is_named(
    cluster: Cluster, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers look for packages in the folder of this process first
    source = folder_of_pictures(tmp_path / "in", 2)
    (tmp_path / "other/paragon_export").mkdir(parents=True)
    (tmp_path / "other/paragon_export/__init__.py").write_text('__version__ = "0.0"')
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": str(tmp_path / "other")})
    try:
        with pytest.raises(PlanError, match=r"has paragon-export 0\.0"):
            upscale(model, source, tmp_path / "out", ray=cluster.address)
    finally:
        cluster.remove_node(node)


def test_the_command_starts_ray_here(model: Path, tmp_path: Path) -> None:
    """Without an address; what Ray prints does not mix with the result."""
    folder_of_pictures(tmp_path / "in", 3)
    upscale(model, tmp_path / "in", tmp_path / "one")
    done = run_started(tmp_path, "upscale", "--ray", model, "in", "-o", "out", "--json")
    assert done.code == 0, done.stderr
    assert len(json.loads(done.stdout)["done"]) == 3
    assert done.stderr == ""
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
