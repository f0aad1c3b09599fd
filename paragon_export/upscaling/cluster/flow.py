"""The flow on a cluster: tasks out, outcomes in, videos joined here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paragon_export.errors import ParagonExportError, PlanError
from paragon_export.graph.onnx_io import is_onnx
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.parity.candidates import is_engine
from paragon_export.specs.types import OnnxBackend
from paragon_export.system.private_folder import remove_leftovers
from paragon_export.system.progress import advance, step
from paragon_export.upscaling.cluster.nodes import MAX_FILES, check_nodes
from paragon_export.upscaling.cluster.pool import Pool
from paragon_export.upscaling.cluster.session import connected
from paragon_export.upscaling.cluster.videos import Videos
from paragon_export.upscaling.cluster.worker import Outcome, SegmentTask, Setup, Task
from paragon_export.upscaling.jobs import Job, Jobs
from paragon_export.upscaling.plan import UpscalePlan
from paragon_export.upscaling.results import NotUpscaled, Upscaled, UpscaleResult, result_of

LARGEST_GROUP = 8
"""Pictures of a task: while one is computed, the next is read and the last one written."""

GROUPS_PER_WORKER = 8
"""Least tasks for each worker, so that none waits long for the last."""


def upscale_on_ray(plan: UpscalePlan, found: Jobs) -> UpscaleResult:
    """Do what a plan says on a Ray cluster (see ``upscale``).

    Outputs are those of one process, byte for byte, if the tiles are the same: ``auto`` depends on the memory
    of each machine.

    Raises:
        ParagonExportError: If the request contradicts itself, a node cannot do it, or the model cannot be opened.
    """
    if plan.blend:
        raise PlanError("blended tiles are compared with the whole in one process; leave out --ray")
    wanted, skipped = found.wanted(skip_existing=plan.skip_existing)
    if not wanted:
        return result_of([], [], skipped, 0.0, found.notes)
    given = {_absolute(job): job for job in wanted}
    if isinstance(plan.model, LoadedNetwork):
        raise PlanError("workers open the model themselves; give the path of its checkpoint")
    model = Path(os.path.abspath(plan.model))
    setup = _setup(plan, model, found, list(given))
    with connected(str(plan.ray)) as ray, ExitStack() as stack:
        needed = [path for path in (model, setup.plan.options.config) if path]
        room = _room(ray, setup.plan, model)
        with _marked(_folder(found, next(iter(given)))) as mark:
            check_nodes(ray, room.nodes, [*needed, *_sample(given), mark])
        count = min(room.workers, len(given)) if not setup.has_videos else room.workers
        pool = stack.enter_context(Pool(ray, setup, count, room.neighbors, room.needs))
        start = time.monotonic()
        run = _Run(pool, Videos(setup.plan, model.name, pool.about, stack), given)
        run.all(count)
        if pool.lost:
            for folder in {job.output.parent for job in given}:
                remove_leftovers(folder)
        notes = [*pool.about.notes, *found.notes, *run.notes]
    return result_of(run.done, run.failed, skipped, time.monotonic() - start, notes)


def _absolute(job: Job) -> Job:
    return Job(Path(os.path.abspath(job.source)), Path(os.path.abspath(job.output)))


def _setup(plan: UpscalePlan, model: Path, found: Jobs, jobs: Sequence[Job]) -> Setup:
    """Return what workers are told: the plan with absolute paths."""
    options, config = plan.options, plan.options.config
    if config is not None:
        options = replace(options, config=Path(os.path.abspath(config)))
    there = replace(plan, model=model, options=options, inputs=(), ray=None)
    return Setup(
        plan=there, form=plan.picture_form(found), makes_folders=found.folders,
        has_videos=any(job.is_video for job in jobs),
    )  # fmt: skip


def _folder(found: Jobs, first: Job) -> Path:
    """Return a folder of outputs that is there; those of ``--output`` are made.

    Raises:
        PlanError: If it is missing.
    """
    folder = first.output.parent
    if found.folders:
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise PlanError(f"cannot write {first.output}: folder {folder} does not exist")
    return folder


def _sample(given: dict[Job, Job]) -> list[Path]:
    """Return inputs, spread over all of them."""
    jobs = list(given)
    return [job.source for job in jobs[:: -(-len(jobs) // MAX_FILES)]]


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """Yield a file in a folder, by which a node knows that it sees this folder and no other one.

    Raises:
        PlanError: If it cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=".paragon-", suffix=".seen", dir=folder) as file:
            yield Path(file.name)
    except OSError as error:
        raise PlanError(f"cannot write {folder}: {error.strerror}") from error


@dataclass(frozen=True)
class _Room:
    """What a cluster has for workers."""

    nodes: Sequence[dict[str, Any]]
    """Those that may run one."""
    workers: int
    neighbors: int
    """Most workers of one node."""
    needs: dict[str, Any]
    """Of each worker, as Ray's options; one of the nodes above."""


def _room(ray: Any, plan: UpscalePlan, model: Path) -> _Room:
    """Return how many workers a cluster takes: one for ``ray_cores`` cores, or for a GPU.

    Raises:
        PlanError: If it takes none.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    has_gpu = any(node["Resources"].get("GPU") for node in alive)
    must = is_engine(model) or plan.backend is OnnxBackend.CUDA
    gpus = 1 if must or (has_gpu and not is_onnx(model)) else 0
    shares = {"CPU": plan.ray_cores, "GPU": gpus}
    fits = [
        min(
            int(node["Resources"].get(kind, 0) // number)
            for kind, number in shares.items()
            if number
        )
        for node in alive
    ]
    if not sum(fits):
        wanted = f"{plan.ray_cores} cores" + (" and a GPU" if gpus else "")
        raise PlanError(f"no node of the cluster has {wanted} for a worker; see --ray-cores")
    nodes = [node for node, number in zip(alive, fits, strict=True) if number]
    checked = {"ray.io/node-id": f"in({','.join(node['NodeID'] for node in nodes)})"}
    needs = {"num_cpus": plan.ray_cores, "num_gpus": gpus, "label_selector": checked}
    return _Room(nodes, sum(fits), max(fits), needs)


@dataclass
class _Run:
    """One run over all inputs."""

    pool: Pool
    videos: Videos
    given: dict[Job, Job]
    """As the user named them, by those of absolute paths."""
    done: list[Upscaled] = field(default_factory=list)
    failed: list[NotUpscaled] = field(default_factory=list)
    said: dict[str, None] = field(default_factory=dict)
    """Notes of workers, each once."""

    def all(self, workers: int) -> None:
        """Do everything; videos are joined when all of their segments are there."""
        jobs = list(self.given)
        pictures = [job for job in jobs if not job.is_video]
        for job in jobs:
            if job.is_video:
                self._open(job)
        tasks = [*self.videos.tasks(), *grouped(pictures, workers)]
        while tasks:
            with step(f"upscaling on {workers} workers", len(tasks), "tasks"):
                for task, outcome in self.pool.outcomes(tasks):
                    advance()
                    self._take(task, outcome)
            tasks = self.videos.tasks()  # where a video is longer than it says
        for done in self.videos.finish(self.failed):
            self.done.append(self._named(done))
        order = {job.output: number for number, job in enumerate(self.given.values())}
        self.done.sort(key=lambda one: order[one.output])
        self.failed = _as_given(self.failed, self.given)

    @property
    def notes(self) -> list[str]:
        """What happened that is no matter of one file."""
        lost = f"workers lost: {self.pool.lost}; others did their work"
        return [*self.said, *self.videos.notes, *([lost] if self.pool.lost else [])]

    def _open(self, job: Job) -> None:
        try:
            job.output.parent.mkdir(parents=True, exist_ok=True)
            self.videos.open(job)
        except (ParagonExportError, OSError) as error:
            self.failed.append(NotUpscaled(source=job.source, reason=str(error)))

    def _take(self, task: Task, outcome: Outcome) -> None:
        self.said.update(dict.fromkeys(outcome.notes))
        if isinstance(task, SegmentTask):
            self.videos.take(task, outcome)
            return
        self.done += map(self._named, outcome.done)
        self.failed += outcome.failed

    def _named(self, one: Upscaled) -> Upscaled:
        """Return what was done as the user named it."""
        job = self.given[Job(one.source, one.output)]
        return replace(one, source=job.source, output=job.output)


def _as_given(failed: Sequence[NotUpscaled], given: Mapping[Job, Job]) -> list[NotUpscaled]:
    """Return what failed as the user named it."""
    by_source = {absolute.source: (absolute, job) for absolute, job in given.items()}
    found = []
    for one in failed:
        absolute, job = by_source[one.source]
        reason = one.reason.replace(str(absolute.source), str(job.source))
        reason = reason.replace(str(absolute.output), str(job.output))
        found.append(NotUpscaled(source=job.source, reason=reason))
    return found


def grouped(jobs: Sequence[Job], workers: int) -> list[Task]:
    """Return tasks of several pictures each, enough to keep workers busy alike."""
    size = min(LARGEST_GROUP, max(1, len(jobs) // (GROUPS_PER_WORKER * workers)))
    return [Task(tuple(jobs[at : at + size])) for at in range(0, len(jobs), size)]
