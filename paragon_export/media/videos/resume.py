"""Resume: what an interrupted run has finished, in a folder beside the output.

::

    .clip.mkv.unfinished/   beside clip.mkv
        lock                locked while a run lives
        run.json            what is made of what; a run that differs starts anew
        000000.nut          a finished segment: encoded frames
        000000.json         their times; written last, so a segment with it is whole
        000000.npz          what the network remembers at its end; kept of the last segment
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.media.videos.joining import Part
from paragon_export.media.videos.writing import Segment
from paragon_export.system.private_folder import lock_file

RUN, LOCK = "run.json", "lock"

NEW = ".new"
"""Suffix of what is not whole yet."""


class Unfinished:
    """The folder of an unfinished output. It is kept until ``remove``.

    Attributes:
        parts: The segments that are finished.
        notes: Says so if segments of another run were thrown away.
    """

    def __init__(self, output: Path, run: Mapping[str, object]) -> None:
        """Take the output and what the run makes of what, as JSON."""
        self.folder = output.parent / f".{output.name}.unfinished"
        self._run = json.loads(json.dumps(run))
        self.parts: list[Part] = []
        self.notes: list[str] = []

    def __enter__(self) -> Unfinished:
        """Lock the folder and find what is finished.

        Raises:
            PlanError: If another run works on the same output, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise PlanError(f"cannot write {self.folder}: {error.strerror}") from error
        try:
            lock_file(self._lock)
        except OSError as error:
            os.close(self._lock)
            raise PlanError(f"another run is writing to {self.folder}; wait for it") from error
        self.find()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)
        if not any(self.folder.glob("*.nut")):
            self.remove()

    @property
    def frames(self) -> int:
        """Number of frames that are finished."""
        return sum(len(part.times) for part in self.parts)

    def find(self) -> None:
        """Find what is finished, also by other processes."""
        record = None
        with suppress(OSError, ValueError):
            record = json.loads((self.folder / RUN).read_bytes())
        found: list[tuple[Part, bool]] = []
        while record == self._run and (part := self._part(len(found))):
            found.append(part)
        while found and found[-1][1] and not self._state_path(len(found) - 1).exists():
            found.pop()
        self.parts = [part for part, _ in found]
        if record not in (None, self._run):
            self.notes.append("segments of an interrupted run were thrown away: it was another one")
        if record != self._run:
            self._clear()
            _write(self.folder / RUN, json.dumps(self._run).encode())

    def _part(self, number: int) -> tuple[Part, bool] | None:
        """Return a finished segment, and whether the network remembers something at its end."""
        path = self.path(number)
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.with_suffix(".json").read_bytes())
            if path.stat().st_size == record["bytes"]:
                times = [(time, duration) for time, duration in record["times"]]
                return Part(path, times, record["order"]), record["has_state"]
        return None

    def path(self, number: int) -> Path:
        """Return the path of a segment."""
        return segment_path(self.folder, number)

    def frames_in(self, number: int) -> int | None:
        """Return the frames of a segment; None if it is not finished. Those before it may not be."""
        found = self._part(number)
        return len(found[0].times) if found else None

    def _state_path(self, number: int) -> Path:
        return self.path(number).with_suffix(".npz")

    def create_path(self) -> Path:
        """Return the path at which the next segment is written."""
        return self.path(len(self.parts)).with_suffix(NEW)

    def add(self, segment: Segment, state: Mapping[str, np.ndarray]) -> None:
        """Close the segment at ``create_path``, and keep it with what the network remembers."""
        number = len(self.parts)
        self.parts.append(keep_segment(self.create_path(), self.path(number), segment, state))
        self._state_path(number - 1).unlink(missing_ok=True)

    def state(self) -> dict[str, np.ndarray]:
        """Return what the network remembered at the end of the last segment."""
        with suppress(FileNotFoundError), np.load(self._state_path(len(self.parts) - 1)) as arrays:
            return dict(arrays)
        return {}

    def _clear(self) -> None:
        """Remove the files of a run, and no others."""
        for path in self.folder.iterdir():
            if path.name == RUN or path.suffix == NEW or path.stem.isdigit():
                path.unlink()

    def remove(self) -> None:
        """Remove the folder with all segments."""
        with suppress(OSError):
            self._clear()
            (self.folder / LOCK).unlink()
            self.folder.rmdir()


def segment_path(folder: Path, number: int) -> Path:
    """Return the path of a segment in the folder of an unfinished output."""
    return folder / f"{number:06}.nut"


def keep_segment(new: Path, path: Path, segment: Segment, state: Mapping[str, np.ndarray]) -> Part:
    """Close a segment that was written at ``new``, and keep it at ``path``.

    Whenever the process ends, a segment with its times is whole and has its state, too.
    """
    segment.close()
    if state:
        with (unnamed := new.with_suffix(f".npz{NEW}")).open("wb") as file:
            np.savez(file, allow_pickle=False, **state)
        _keep(unnamed, path.with_suffix(".npz"))
    _keep(new, path)
    part = Part(path, segment.times, segment.order)
    record = {"times": part.times, "order": part.order, "bytes": path.stat().st_size,
              "has_state": bool(state)}  # fmt: skip
    _write(path.with_suffix(".json"), json.dumps(record).encode(), new.with_suffix(f".json{NEW}"))
    return part


def _write(path: Path, data: bytes, new: Path | None = None) -> None:
    new = new or path.with_name(path.name + NEW)
    new.write_bytes(data)
    _keep(new, path)


def _keep(new: Path, path: Path) -> None:
    """Give a file that is whole its name; the contents are on disk before the name is."""
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(new, path)
