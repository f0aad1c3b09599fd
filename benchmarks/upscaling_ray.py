"""``upscale --ray`` on this machine: throughput against the number of workers, and the overhead of a task.

The network is the shipped one as an ONNX file; pictures are crops of the shipped photograph. One process runs
its session on all cores, a worker on one. Seconds are from the first opened model to the last written file.
Numbers of workers take turns; ``rounds`` times. The overhead is that of tasks that do nothing, one after the other on one
worker.

Writes ``upscaling_ray.json``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from common import write
from PIL import Image

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.pipeline.export import export_onnx
from paragon_export.upscaling.cluster.pool import Actor, Pool
from paragon_export.upscaling.cluster.session import connected
from paragon_export.upscaling.cluster.worker import About, Outcome, Setup, Task
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.jobs import Job
from paragon_export.upscaling.pictures import Form
from paragon_export.upscaling.plan import UpscalePlan

PICTURES, TASKS = 48, 500

SIZE = (180, 320)


class Nothing(Actor):
    """A worker that does nothing."""

    def __init__(self, setup: Setup, neighbors: int) -> None:
        """Take what all workers take."""

    def about(self) -> About:
        return About(scale=1, has_features=False)

    def do(self, task: Task) -> Outcome:
        return Outcome()


def main(rounds: Annotated[int, typer.Option(help="Turns of each number.")] = 3) -> None:
    counts = range(1, (os.cpu_count() or 1) + 1)
    rates: dict[int, list[float]] = {count: [] for count in (0, *counts)}
    overheads: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert export_onnx(CHECKPOINT, folder / "net.onnx", at=()).passed
        write_pictures(folder / "in")
        for _ in range(rounds):
            rates[0].append(rate(folder, None))
            for count in counts:
                with cluster(count) as ray:
                    rates[count].append(rate(folder, "local"))
                    overheads[count].append(overhead(ray, count))
    speeds = {count: median(all_of) for count, all_of in rates.items()}
    rows = [
        {
            "workers": str(count or "none: one process"),
            "pictures/s": speed,
            "of one process": speed / speeds[0],
            "overhead of a task ms": median(overheads[count]) if count else None,
        }
        for count, speed in speeds.items()
    ]
    write("upscaling_ray", rows, ("workers",))


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    image = np.tile(np.rint(255 * photograph()).astype(np.uint8), (2, 3, 1))
    for number in range(PICTURES):
        crop = image[number:, 2 * number :][: SIZE[0], : SIZE[1]]
        Image.fromarray(crop).save(folder / f"{number:03}.png")


@contextmanager
def cluster(cores: int) -> Iterator[Any]:
    """Yield Ray, connected to a cluster on this machine with a number of cores."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False,
        configure_logging=False,
    )  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


def rate(folder: Path, address: str | None) -> float:
    """Return pictures a second."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        result = upscale(folder / "net.onnx", folder / "in", output, ray=address)
    assert len(result.done) == PICTURES
    return PICTURES / result.seconds


def overhead(ray: Any, count: int) -> float:
    """Return the milliseconds of a task that does nothing."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    plan = UpscalePlan(model=Path("m"), inputs=(), output=Path("o"))
    setup = Setup(plan=plan, form=Form(), makes_folders=True, has_videos=False)
    tasks = [Task((Job(Path(str(n)), Path(str(n))),)) for n in range(TASKS)]
    with connected("local"), Pool(ray, setup, count, count, {"num_cpus": 1}, Nothing) as pool:
        list(pool.outcomes(tasks[:50]))
        start = time.perf_counter()
        assert len(list(pool.outcomes(tasks))) == TASKS
        return 1e3 * (time.perf_counter() - start) / TASKS


if __name__ == "__main__":
    typer.run(main)
