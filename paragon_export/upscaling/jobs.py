"""Jobs: which file becomes which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.media.pictures import SUFFIXES
from paragon_export.media.saving import format_of


@dataclass(frozen=True)
class Job:
    """One picture to be made."""

    source: Path
    output: Path


@dataclass
class Jobs:
    """All pictures to be made, and what was left out."""

    jobs: list[Job] = field(default_factory=list)
    folders: bool = False
    """Whether the outputs lie in folders that are made; else there is one output, a file."""
    ignored: int = 0
    """Files in folders that are no pictures by their names."""


def jobs_of(inputs: Sequence[Path], output: Path, kind: str | None) -> Jobs:
    """Find the pictures, and name what each of them becomes.

    A folder is searched with its subfolders, which appear in the output as well. What is hidden is
    left out, and so is the output folder.

    Args:
        inputs: Files and folders.
        output: A folder; or a file, by its suffix, for one input file.
        kind: Format of the outputs; None: that of the output's suffix, or PNG.

    Raises:
        PlanError: If an input is not there, there is no picture, an output would replace an input,
            or two inputs would become one output.
    """
    single = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if single and (len(inputs) != 1 or inputs[0].is_dir()):
        raise PlanError(f"-o {output} is one picture; give a folder for several inputs")
    if single:
        if kind and format_of(output.suffix) != format_of(kind):
            raise PlanError(f"--format {kind} and -o {output} contradict each other")
        format_of(output.suffix)
        found = Jobs([Job(inputs[0], output)])
    else:
        found = Jobs(folders=True)
        suffix = "." + format_of(kind or "png")
        for source in inputs:
            _add(found, source, output, suffix)
    _check(found, inputs)
    return found


def _add(found: Jobs, source: Path, output: Path, suffix: str) -> None:
    """Add the pictures of one input."""
    if not source.is_dir():
        found.jobs.append(Job(source, output / (source.stem + suffix)))
        return
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not _is_same(here / name, output)
        )
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() not in SUFFIXES:
                found.ignored += 1
                continue
            target = output / path.relative_to(source)
            found.jobs.append(Job(path, target.with_suffix(suffix)))


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _check(found: Jobs, inputs: Sequence[Path]) -> None:
    if missing := [path for path in inputs if not path.exists()]:
        raise PlanError(f"there is no {missing[0]}")
    if not found.jobs:
        raise PlanError(f"{', '.join(map(str, inputs))}: no picture ({', '.join(SUFFIXES)})")
    by_output: dict[Path, Path] = {}
    sources = {os.path.realpath(job.source) for job in found.jobs}
    for job in found.jobs:
        if (other := by_output.setdefault(job.output, job.source)) != job.source:
            raise PlanError(f"{other} and {job.source} would both become {job.output}; rename one")
        if os.path.realpath(job.output) in sources:
            raise PlanError(f"{job.output} is also an input; choose another output with -o")
