"""Pool: workers on a Ray cluster, an actor for each opened model.

These are plain actors and not Ray Data: a task that kills its worker is given up after ``TRIES``
and takes no other with it, and what is finished is not computed again when its machine is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from paragon_export.errors import ParagonExportError, RunError
from paragon_export.upscaling.cluster.worker import About, Outcome, Setup, Task, Worker
from paragon_export.upscaling.results import NotUpscaled

TRIES = 3
"""Workers that may be lost over one task."""

LONGEST_START_S = 600.0
"""How long to wait for a worker, in seconds, while none runs."""


class Actor:
    """A worker in a process of its own."""

    def __init__(self, setup: Setup, neighbors: int) -> None:
        """Open the model; an error is told by ``about``, as an actor that raises here has no message."""
        try:
            self._worker: Worker | ParagonExportError = Worker(setup, neighbors)
        except ParagonExportError as error:
            self._worker = error

    def about(self) -> About | ParagonExportError:
        """Return what is known of the model, or why it cannot be opened."""
        worker = self._worker
        return worker.about if isinstance(worker, Worker) else worker

    def do(self, task: Task) -> Outcome:
        """Do a task."""
        assert isinstance(self._worker, Worker)
        return self._worker.do(task)


class Pool:
    """Workers, and the tasks that they do. A worker that is lost is replaced where there is room.

    Attributes:
        about: What the first worker said of the model.
        lost: Workers that were lost.
    """

    def __init__(
        self,
        ray: Any,
        setup: Setup,
        count: int,
        neighbors: int,
        needs: dict[str, Any],
        kind: type[Actor] = Actor,
    ) -> None:
        """Start workers, and wait for the first.

        Args:
            ray: The module, connected.
            setup: What they are told.
            count: How many.
            neighbors: Most of them on one machine.
            needs: Of each, as options of an actor: ``num_cpus``, ``num_gpus``, ``label_selector``.
            kind: Class of the actors.

        Raises:
            ParagonExportError: If the model cannot be opened.
            RunError: If no worker starts.
        """
        self._ray, self.lost, self._failed_starts = ray, 0, 0
        self._setup = ray.put(setup)
        self._neighbors = neighbors
        self._actor = ray.remote(**needs)(kind)
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._about: About | None = None
        for _ in range(count):
            self._start()
        while self._about is None:
            self._wait()
        self.about: About = self._about

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        running = [actor for actor, _ in self._running.values()]
        for actor in [*self._starting.values(), *self._idle, *running]:
            self._ray.kill(actor)

    def outcomes(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Outcome]]:
        """Do tasks. Yield each with its outcome once, in the order in which they end.

        Tasks of several files whose worker is lost are divided. One that is lost ``TRIES`` times has
        failed.

        Raises:
            ParagonExportError: If no worker is left and none starts, or something other than one file is wrong.
        """
        waiting, losses = deque(tasks), Counter[Task]()
        while waiting or self._running:
            while waiting and self._idle:
                task, actor = waiting.popleft(), self._idle.pop()
                self._running[actor.do.remote(task)] = actor, task
            if not (ended := self._wait()):
                continue
            task, outcome = ended
            if outcome is not None:
                yield task, outcome
                continue
            for part in task.parts:
                losses[part] += 1
                if losses[part] < TRIES:
                    waiting.appendleft(part)
                else:
                    yield part, _given_up(part)

    def _start(self) -> None:
        actor = self._actor.remote(self._setup, self._neighbors)
        self._starting[actor.about.remote()] = actor

    def _wait(self) -> tuple[Task, Outcome | None] | None:
        """Wait until a worker has started or done a task. Return the task; no outcome: the worker is lost."""
        limit = None if self._running else LONGEST_START_S
        ended, _ = self._ray.wait([*self._running, *self._starting], timeout=limit)
        if not ended:
            raise RunError(
                f"no worker started within {LONGEST_START_S:.0f} s: the cluster has no room for one"
            )
        (reference,) = ended
        if reference in self._starting:
            self._started(reference, self._starting.pop(reference))
            return None
        actor, task = self._running.pop(reference)
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # raised in the task; no worker is lost
            if isinstance(error.cause, ParagonExportError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError:
            self._lose(actor)
            self._start()
            return task, None
        self._idle.append(actor)
        return task, outcome

    def _started(self, reference: Any, actor: Any) -> None:
        """Take a worker that has started. Where it failed, start another, ``TRIES`` times in a row at most."""
        try:
            about = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            about = RunError(f"workers end while they start: {reason}")
        else:
            if isinstance(about, ParagonExportError) and self._about is None:
                raise about
        if isinstance(about, About):
            self._failed_starts = 0
            self._about = self._about or about
            self._idle.append(actor)
            return
        self._lose(actor)
        self._failed_starts += 1
        if self._failed_starts < TRIES:
            self._start()
        elif not (self._starting or self._idle or self._running):
            raise about

    def _lose(self, actor: Any) -> None:
        """Count a lost worker, and end it: it may be the network that is lost, and not the worker."""
        self.lost += 1
        self._ray.kill(actor)


def _given_up(task: Task) -> Outcome:
    (job,) = task.jobs
    reason = f"{TRIES} workers ended while they computed it, perhaps for want of memory"
    return Outcome(failed=(NotUpscaled(source=job.source, reason=reason),))
