"""Jobs: which file becomes which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.media.pictures import SUFFIXES
from paragon_export.media.saving import format_of
from paragon_export.media.videos import SUFFIXES as VIDEO_SUFFIXES
from paragon_export.media.videos.writing import FORMATS as VIDEO_FORMATS

OF_FILES = (*SUFFIXES, *VIDEO_SUFFIXES, ".gif", ".heic", ".jp2", ".jxl", ".psd", ".tga")
"""An output whose name ends so is meant to be a file, of a format that is written or not."""


@dataclass(frozen=True)
class Job:
    """One picture or video to be made."""

    source: Path
    output: Path

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its name."""
        return self.source.suffix.lower() in VIDEO_SUFFIXES


@dataclass
class Jobs:
    """All that is to be made, and what was left out."""

    jobs: list[Job] = field(default_factory=list)
    folders: bool = False
    """Whether the outputs lie in folders that are made; else there is one output, a file."""
    ignored: int = 0
    """Files in folders that are neither pictures nor videos by their names."""
    links: int = 0
    """Links to folders, in folders."""

    @property
    def notes(self) -> list[str]:
        """What was left out, as sentences."""
        files, links = self.ignored, self.links
        return [
            *([f"neither pictures nor videos by their names: {files}"] if files else []),
            *(
                [f"links to folders, which are not searched: {links}; name them as inputs"]
                if links
                else []
            ),
        ]

    def wanted(self, *, skip_existing: bool) -> tuple[list[Job], list[Path]]:
        """Return the jobs that are to be done, and the outputs that are there already."""
        skipped = [job.output for job in self.jobs if skip_existing and job.output.exists()]
        gone = set(skipped)
        return [job for job in self.jobs if job.output not in gone], skipped


def jobs_of(inputs: Sequence[Path], output: Path, kind: str | None) -> Jobs:
    """Find pictures and videos, and name what each of them becomes.

    A folder is searched with its subfolders, which appear in the output as well. What is hidden is
    left out, and so is the output folder.

    Args:
        inputs: Files and folders.
        output: A folder; or a file, by its suffix, for one input file.
        kind: Format of the pictures or of the videos; None: that of the output's suffix, or PNG and the
            format of each video where it is written, else Matroska.

    Raises:
        PlanError: If an input is not there, there is nothing to upscale, an output would replace an input,
            or two inputs would become one output.
    """
    single = output.suffix.lower() in OF_FILES and not output.is_dir()
    if not single and output.exists() and not output.is_dir():
        raise PlanError(
            f"-o {output} is a file, and not named as a picture or video; give a folder"
        )
    if single and (len(inputs) != 1 or inputs[0].is_dir()):
        raise PlanError(f"-o {output} is one file; give a folder for several inputs")
    if single:
        if not output.parent.is_dir():
            raise PlanError(f"cannot write {output}: folder {output.parent} does not exist")
        found = Jobs([Job(inputs[0], output)])
        _check_kind(found.jobs[0], kind)
    else:
        found = Jobs(folders=True)
        for source in inputs:
            _add(found, source, output, kind)
    _check(found, inputs)
    return found


def _check_kind(job: Job, kind: str | None) -> None:
    """Check that a named output can be made of its input."""
    output = job.output
    if job.is_video != (output.suffix.lower() in VIDEO_FORMATS):
        names = VIDEO_FORMATS if job.is_video else (".png", ".jpg", ".webp", ".tiff", ".avif")
        raise PlanError(f"{job.source} does not become {output}; name a {', '.join(names)} file")
    wanted = output.suffix.lower().removeprefix(".") if job.is_video else format_of(output.suffix)
    if kind and (kind if job.is_video else format_of(kind)) != wanted:
        raise PlanError(f"--format {kind} and -o {output} contradict each other")


def _suffix(source: Path, kind: str | None) -> str:
    """Return the suffix of the output of a source."""
    suffix, is_of_videos = source.suffix.lower(), f".{kind}" in VIDEO_FORMATS
    if suffix not in VIDEO_SUFFIXES:
        return "." + format_of("png" if is_of_videos else kind or "png")
    if is_of_videos:
        return f".{kind}"
    return suffix if suffix in VIDEO_FORMATS else ".mkv"


def _add(found: Jobs, source: Path, output: Path, kind: str | None) -> None:
    """Add the pictures and videos of one input."""
    if not source.is_dir():
        found.jobs.append(Job(source, output / (source.stem + _suffix(source, kind))))
        return
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        found.links += sum(
            (here / name).is_symlink() for name in folders if not name.startswith(".")
        )
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not _is_same(here / name, output)
        )
        for name in sorted(names):
            path = here / name
            if name.startswith("."):
                continue
            if path.suffix.lower() not in (*SUFFIXES, *VIDEO_SUFFIXES):
                found.ignored += 1
                continue
            target = output / path.relative_to(source)
            found.jobs.append(Job(path, target.with_suffix(_suffix(path, kind))))


def _is_same(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _check(found: Jobs, inputs: Sequence[Path]) -> None:
    if missing := [path for path in inputs if not path.exists()]:
        raise PlanError(f"there is no {missing[0]}")
    if not found.jobs:
        known = ", ".join((*SUFFIXES, *VIDEO_SUFFIXES))
        raise PlanError(f"{', '.join(map(str, inputs))}: no picture or video ({known})")
    found.jobs = list(dict.fromkeys(found.jobs))  # an input may be named twice
    by_output: dict[Path, Path] = {}
    sources = {os.path.realpath(job.source) for job in found.jobs}
    for job in found.jobs:
        if (other := by_output.setdefault(job.output, job.source)) != job.source:
            raise PlanError(f"{other} and {job.source} would both become {job.output}; rename one")
        if os.path.realpath(job.output) in sources:
            raise PlanError(f"{job.output} is also an input; choose another output with -o")
