"""``upscale`` on a cluster: what needs no cluster to be tested."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paragon_export.assets import photograph
from paragon_export.cli.run.upscale import with_address
from paragon_export.errors import MissingDependencyError, PlanError
from paragon_export.media.videos import VideoForm
from paragon_export.media.videos.resume import segment_path
from paragon_export.networks.describe import load_network
from paragon_export.pipeline.export import export_onnx
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.atomic_write import sha256_of
from paragon_export.testing.clips import write_clip
from paragon_export.upscaling.cluster import flow, session
from paragon_export.upscaling.cluster.nodes import look, problem_of
from paragon_export.upscaling.cluster.session import check_address, connected
from paragon_export.upscaling.cluster.worker import About, Outcome, SegmentTask, Setup, Task, Worker
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.plan import UpscalePlan
from paragon_export.upscaling.results import NotUpscaled
from tests.conftest import RunHere


class Here:
    """A pool of one worker in this process, which does the last task first."""

    lost = 0

    def __init__(self, ray: Any, setup: Setup, *_: object) -> None:
        self.worker = Worker(setup)
        self.tasks: list[Task] = []
        Here.latest = self

    latest: Here

    @property
    def about(self) -> About:
        return self.worker.about

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def outcomes(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Outcome]]:
        for task in reversed(list(tasks)):
            self.tasks.append(task)
            yield task, self.worker.do(task)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be the cluster."""

    @contextmanager
    def no_ray(address: str) -> Iterator[Any]:
        node = {"Alive": True, "Resources": {"CPU": 2.0}, "NodeID": "0"}
        yield SimpleNamespace(nodes=lambda: [node])

    short = property(lambda plan: VideoForm(quality=plan.quality, fit=plan.fit, segment_frames=8))
    monkeypatch.setattr(UpscalePlan, "video_form", short)
    monkeypatch.setattr(flow, "connected", no_ray)
    monkeypatch.setattr(flow, "check_nodes", lambda *_: None)
    monkeypatch.setattr(flow, "Pool", Here)


def folder_of_pictures(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.rint(255 * photograph()[number : number + 20, :30]).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def video(path: Path, frames: int) -> Path:
    chroma = np.full((4, 4), 128, np.uint8)
    write_clip(
        path, [[np.full((8, 8), 40 + n % 100, np.uint8), chroma, chroma] for n in range(frames)]
    )
    return path


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file: bytes that differ would be explained for minutes."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.usefixtures("here")
def test_the_files_are_those_of_one_process(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, a video of three segments, and a broken file, named as the user named them."""
    monkeypatch.chdir(tmp_path)
    source = folder_of_pictures(Path("in/deep")).parent
    video(source / "a.mkv", 20)
    (source / "broken.png").write_bytes(b"no picture")
    (source / "broken.mkv").write_bytes(b"no video")

    one = upscale(tiny_realtime, source, "one")
    many = upscale(tiny_realtime, source, "many", ray="local")

    assert contents(Path("many")) == contents(Path("one"))
    assert {str(done.output) for done in many.done} == {
        str(done.output).replace("one", "many") for done in one.done
    }
    assert sorted(many.failed, key=str) == sorted(one.failed, key=str)
    numbers = [task.number for task in Here.latest.tasks if isinstance(task, SegmentTask)]
    assert numbers == [2, 1, 0]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("told", "asked"), [(1, 9), (16, 3), (None, 8), (100, 13)])
def test_a_video_may_say_a_wrong_number_of_frames(
    told: int | None,
    asked: int,
    tiny_realtime: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of its frames are there; one segment at the end, or more, may be empty."""
    source = video(tmp_path / "a.mkv", 16)
    monkeypatch.setattr("paragon_export.media.videos.reading._count", lambda *_: told)
    result = upscale(tiny_realtime, source, tmp_path / "b.mkv", ray="local")
    assert result.done[0].frames == 16
    assert len(Here.latest.tasks) == asked


@pytest.mark.usefixtures("here")
def test_finished_segments_are_not_made_again(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video(tmp_path / "a.mkv", 20)
    upscale(tiny_realtime, source, tmp_path / "whole.mkv")
    stopped = []

    def do(self: Worker, task: Task) -> Outcome:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(task)
        return done(self, task)

    done = Worker.do
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "do", do)
        with pytest.raises(KeyboardInterrupt):
            upscale(tiny_realtime, source, tmp_path / "b.mkv", ray="local")
    upscale(tiny_realtime, source, tmp_path / "b.mkv", ray="local")
    numbers = [task.number for task in Here.latest.tasks if isinstance(task, SegmentTask)]
    assert numbers == [1, 0]
    assert (tmp_path / "b.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


@pytest.mark.usefixtures("here")
def test_a_video_network_keeps_a_video_on_one_worker(tiny_realtime: Path, tmp_path: Path) -> None:
    """Its features are those of the frame before, and the note says so."""
    model = tmp_path / "v.onnx"
    export_onnx(tiny_realtime, model, video=True)
    source = video(tmp_path / "a.mkv", 12)
    upscale(model, source, tmp_path / "one.mkv")
    result = upscale(model, source, tmp_path / "many.mkv", ray="local")
    assert [type(task) for task in Here.latest.tasks] == [Task]
    assert (
        "v.onnx carries features from frame to frame, so each video stayed on one worker"
        in result.notes
    )
    assert (tmp_path / "many.mkv").read_bytes() == (tmp_path / "one.mkv").read_bytes()


@pytest.mark.usefixtures("here")
def test_a_segment_that_fails_is_one_line_for_its_video(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video(tmp_path / "a.mkv", 20)

    def fails(self: Worker, task: Task) -> Outcome:
        return Outcome(failed=(NotUpscaled(source=task.jobs[0].source, reason=f"{source} broke"),))

    monkeypatch.setattr(Worker, "do", fails)
    monkeypatch.chdir(tmp_path)
    result = upscale(tiny_realtime, "a.mkv", "b.mkv", ray="local")
    assert result.failed == (NotUpscaled(source=Path("a.mkv"), reason="a.mkv broke"),)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv"]


@pytest.mark.usefixtures("here")
def test_a_segment_that_is_made_but_not_here_is_an_error(
    tiny_realtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on storage that a node does not share. The video would be shorter otherwise."""
    source, done = video(tmp_path / "a.mkv", 20), Worker.do

    def elsewhere(self: Worker, task: Task) -> Outcome:
        outcome = done(self, task)
        if isinstance(task, SegmentTask) and task.number == 2:
            segment_path(task.plan.folder, 2).unlink()
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "do", elsewhere)
        (failed,) = upscale(tiny_realtime, source, tmp_path / "b.mkv", ray="local").failed
    assert failed.reason.startswith(f"4 finished frames of {source} are not in ")
    assert not (tmp_path / "b.mkv").exists()
    assert upscale(tiny_realtime, source, tmp_path / "b.mkv", ray="local").done[0].frames == 20


@pytest.mark.usefixtures("here")
def test_what_is_there_is_skipped(tiny_realtime: Path, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/0.png").write_bytes(b"")
    result = upscale(tiny_realtime, source, tmp_path / "out", ray="local", skip_existing=True)
    assert [path.name for path in result.skipped] == ["0.png"]
    again = upscale(tiny_realtime, source, tmp_path / "out", ray="local", skip_existing=True)
    assert len(again.skipped) == 2


def test_groups_are_small_where_there_are_few_pictures() -> None:
    jobs = [Job(Path(str(number)), Path(str(number))) for number in range(100)]
    for count, workers, size in ((5, 2, 1), (100, 2, 6), (100, 1, 8), (100, 50, 1)):
        tasks = flow.grouped(jobs[:count], workers)
        assert [job for task in tasks for job in task.jobs] == jobs[:count]
        assert max(len(task.jobs) for task in tasks) == size
    assert [len(part.jobs) for part in Task(tuple(jobs[:3])).parts] == [1, 1, 1]


def test_nodes_that_cannot_do_the_work_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in one line, with what to do."""
    (tmp_path / "a").write_bytes(b"12")
    here = look([str(tmp_path), str(tmp_path / "a")])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "paragon_export", None)
        assert look([]) == {"version": None, "sizes": {}}
    assert problem_of("n", here, here) is None
    changes: dict[str, dict[str, Any]] = {
        "node n has no paragon-export; install": {"version": None},
        "node n has paragon-export 0.0, this one ": {"version": "0.0"},
        f"node n does not see {tmp_path}; put it on": {"sizes": {}},
        f"node n does not see {tmp_path / 'a'}; put": {"sizes": here["sizes"] | {str(tmp_path / "a"): None}},
        f"node n sees another file at {tmp_path / 'a'}": {"sizes": here["sizes"] | {str(tmp_path / "a"): 3}},
    }  # fmt: skip
    for words, change in changes.items():
        found = problem_of("n", here | change, here)
        assert found is not None
        assert found.startswith(words)


def room(resources: list[dict[str, float]], model: str = "m.onnx", **how: Any) -> Any:
    nodes = [
        {"Alive": True, "Resources": one, "NodeID": str(number)}
        for number, one in enumerate(resources)
    ]
    plan = UpscalePlan(model=Path(model), inputs=(), output=Path("o"), **how)
    return flow._room(SimpleNamespace(nodes=lambda: nodes), plan, Path(model))


def test_workers_are_as_many_as_there_is_room() -> None:
    cluster = [{"CPU": 8.0}, {"CPU": 3.0}, {"memory": 5.0}]
    found = room(cluster)
    assert (found.workers, found.neighbors, len(found.nodes)) == (11, 8, 2)
    found = room(cluster, ray_cores=4)
    assert (found.workers, found.neighbors, len(found.nodes)) == (2, 2, 1)
    with_gpus = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}]
    assert room(with_gpus).workers == 16
    assert room(with_gpus, "m.engine").workers == 2
    assert room(with_gpus, "m.safetensors").workers == 2
    assert room(with_gpus, backend=OnnxBackend.CUDA).needs == {
        "num_cpus": 1, "num_gpus": 1, "label_selector": {"ray.io/node-id": "in(0)"},
    }  # fmt: skip
    assert room(cluster).needs["label_selector"] == {"ray.io/node-id": "in(0,1)"}
    for none in ({"ray_cores": 9}, {"backend": OnnxBackend.CUDA}):
        with pytest.raises(PlanError, match="no node of the cluster has"):
            room(cluster, **none)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("upscale m in -o out --ray", "upscale m in -o out --ray=local"),
        ("upscale --ray m in", "upscale --ray=local m in"),
        ("upscale m in --ray 10.0.0.1:6379 -o out", "upscale m in --ray 10.0.0.1:6379 -o out"),
        ("upscale m --ray auto in", "upscale m --ray auto in"),
        ("upscale m --ray=[::1]:6379 in", "upscale m --ray=[::1]:6379 in"),
        ("upscale m --ray --json in", "upscale m --ray=local --json in"),
        ("upscale m --ray -- --ray", "upscale m --ray=local -- --ray"),
    ],
)
def test_the_address_may_be_left_out(given: str, meant: str) -> None:
    assert with_address(given.split()) == meant.split()


def test_without_ray_one_line_says_what_to_install(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_pictures(tmp_path / "in", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError), ExitStack() as stack:
        stack.enter_context(connected("local"))
    done = run_here("upscale", tiny_realtime, "in", "-o", "out", "--ray")
    assert done.code == 3
    assert "pip install 'paragon-export[ray]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["photos/", "ray://host:10001", "host", ":6379"])
def test_what_is_no_address_is_refused(address: str, tiny_realtime: Path, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", 1)
    with pytest.raises(PlanError, match="is no address of a Ray cluster"):
        upscale(tiny_realtime, source, tmp_path / "out", ray=address)


def test_a_cluster_that_is_not_there_is_one_line(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder_of_pictures(tmp_path / "in", 1)
    done = run_here("upscale", tiny_realtime, "in", "-o", "out", "--ray", address)
    assert (done.code, len(done.stderr.splitlines())) == (3, 1)
    assert f"cannot connect to Ray at {address}: " in done.stderr


def test_a_server_that_is_not_ray_is_one_line() -> None:
    """Ray itself would wait for it for minutes; so it would for one that says nothing."""
    with (
        serving(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(PlanError) as caught,
    ):
        check_address(address)
    assert str(caught.value) == f"cannot connect to Ray at {address}: another program answers there"
    with serving(bytes([0, 0, 0, 4])) as address:
        check_address(address)


def test_a_server_that_says_nothing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ANSWER_S", 0.1)
    with serving(None) as address, pytest.raises(PlanError, match="timed out"):
        check_address(address)


@contextmanager
def serving(answer: bytes | None) -> Iterator[str]:
    """Yield the address of a server that answers the first client with these bytes; None: not at all."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as other:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                assert client.recv(1000).startswith(b"PRI * HTTP/2.0")
                if answer is not None:
                    client.sendall(answer)
                client.recv(1000)  # until it goes

        served = other.submit(serve)
        yield f"127.0.0.1:{server.getsockname()[1]}"
        served.result()


def test_a_network_in_memory_is_refused(tiny_realtime: Path, tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "in", 1)
    with pytest.raises(PlanError, match="give the path of its checkpoint"):
        upscale(load_network(tiny_realtime), source, tmp_path / "out", ray="local")
