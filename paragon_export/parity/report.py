"""The verdict as data: one row per output and probe, findings and notes.

A failed verdict is a report whose ``passed`` is False, never an exception.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paragon_export.inputs.probes import Probe
from paragon_export.parity.acceptance import Criteria, limit_of
from paragon_export.parity.metrics import Measured
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.types import Precision, Quantization, Size
from paragon_export.system.text import finite


@dataclass(frozen=True, kw_only=True)
class ParityRow(Measured):
    """The verdict on one output of one candidate on one probe."""

    candidate: str
    precision: Precision | Quantization
    output: str
    """Name of the graph output that was compared."""
    picture: str
    """Label of the probe."""
    size: Size
    """Input size in pixels."""
    batch: int
    criteria: Criteria
    """The acceptance rule, in the order in which it is checked."""
    is_large: bool = False
    """Whether the picture is large: all of it is compared with PyTorch's float32."""
    is_excerpt: bool = False
    """Whether the corners, edges and center of a large picture were compared with float64."""
    fault: str = ""
    """Why nothing could be compared, as a wrong shape or a failed run; empty if it was."""

    @property
    def limit(self) -> float:
        """The largest error allowed; infinite where no criterion bounds it."""
        return limit_of(self.criteria, self)

    @property
    def is_judged(self) -> bool:
        """Whether the row counts in the verdict: what cannot be compared always does."""
        return bool(self.fault) or super().is_judged

    @property
    def failure(self) -> str:
        """The reason for a failure, in a few words; empty if the row passes or is not judged."""
        if not self.is_judged:
            return ""
        return self.fault or next(filter(None, (c.check(self) for c in self.criteria)), "")

    @property
    def share(self) -> float:
        """The largest error as a share of the limit; where there is none, the error itself."""
        is_bounded = 0 < self.limit < math.inf
        return self.found.max_abs / self.limit if is_bounded else self.found.max_abs

    def is_on(self, probe: Probe) -> bool:
        """Whether it is the verdict on a probe."""
        wanted = (self.picture, self.size, self.batch)
        return (probe.label, probe.size, probe.batch) == wanted

    def to_json(self) -> dict[str, Any]:
        """Return the measured values as JSON types. Infinite and unknown values are null.

        ``psnr_db`` is null where both outputs are equal (``max_abs`` is 0), and so is every
        error where nothing could be compared (``failure`` says why). The errors of border and
        interior are null for the excerpt of a large picture; ``float32_gap`` is null without an
        excerpt. ``reference_max_abs`` is null
        where PyTorch is not finite in this precision, ``limit`` where no criterion bounds errors,
        ``reference_peak`` where the float64 network overflows (the row is not judged then).
        """
        return finite(
            {
                "candidate": self.candidate,
                "precision": self.precision.value,
                "output": self.output,
                "picture": self.picture,
                "size": str(self.size),
                "batch": self.batch,
                "excerpt": self.is_excerpt,
                "float32_gap": self.float32_gap,
                "max_abs": self.found.max_abs,
                "psnr_db": self.found.psnr_db,
                "border_max_abs": None if self.is_excerpt else self.found.border_max_abs,
                "interior_max_abs": None if self.is_excerpt else self.found.interior_max_abs,
                "reference_max_abs": self.reference_max_abs,
                "limit": self.limit,
                "rms": self.found.rms,
                "reference_rms": None
                if self.reference_errors is None
                else self.reference_errors.rms,
                "over_all": None if self.overall is None else self.overall._asdict(),
                "reference_peak": self.reference_peak,
                "reference_moved": self.reference_moved,
                "judged": self.is_judged,
                "passed": not self.failure,
                "failure": self.failure,
                **({} if self.wrong_top1 is None else {"wrong_top1": self.wrong_top1}),
            }
        )


@dataclass(frozen=True)
class Finding:
    """What a wrong output looks like. The verdict does not depend on it."""

    symptom: str
    """A fixed name for each kind of error, as ``shift``."""
    detail: str = ""
    """What was measured, for the reader."""
    candidate: str = field(default="", kw_only=True)
    """Name of the candidate; empty until the finding is part of a report."""
    output: str = field(default="", kw_only=True)
    """Name of the graph output; empty until the finding is part of a report."""

    def __str__(self) -> str:
        return f"{self.symptom} ({self.detail})" if self.detail else self.symptom

    def to_json(self) -> dict[str, str]:
        return {
            "candidate": self.candidate,
            "output": self.output,
            "symptom": self.symptom,
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstPicture:
    """The output with the largest error of one candidate, cropped around that error.

    Errors are absolute, the largest of all channels, and infinite where a value is not finite.
    """

    row: ParityRow
    """The verdict on it."""
    item: int
    """Index in what was compared: the images of the batch and of all frames, or the blocks of an
    image that was compared in part."""
    items: int
    top: int
    left: int
    """Where the crop begins in that item, in pixels of the output."""
    height: int
    width: int
    """Of the item, in pixels of the output."""
    reference: np.ndarray
    """(C, h, w), float32: the crop of the float64 reference."""
    found: np.ndarray
    """(C, h, w), float32: the crop of the candidate."""
    difference: np.ndarray
    """(C, h, w), float32: candidate less reference, subtracted in float64."""
    error_map: np.ndarray
    """(H, W), float32: the largest errors in the cells of a grid over the item."""
    profile: np.ndarray
    """(D,), float32: the largest errors by distance from the nearest edge of the item, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The verdict on one or several candidates."""

    rows: tuple[ParityRow, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    """At most one for each output of a candidate that failed."""
    spec: NetworkSpec | None = None
    """The reference network; None where the reference is an ONNX file."""
    pictures: tuple[WorstPicture, ...] = ()
    """The worst of each candidate, if they were asked for and its outputs are pictures or maps."""

    @property
    def passed(self) -> bool:
        """Whether every judged row passes. False if no row is judged."""
        judged = [row for row in self.rows if row.is_judged]
        return bool(judged) and not any(row.failure for row in judged)

    @property
    def worst(self) -> ParityRow | None:
        """A failed row if there is one, else the row closest to its limit; None without rows."""
        return next((row for row in self.ranked if row.is_judged), None)

    @property
    def ranked(self) -> list[ParityRow]:
        """The rows, worst first: failures, then by the share of the limit; not judged ones last."""
        order = {id(row): (row.is_judged, bool(row.failure), row.share) for row in self.rows}
        return sorted(self.rows, key=lambda row: order[id(row)], reverse=True)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types; ``looks_like`` holds the findings."""
        worst = self.worst
        return {
            "passed": self.passed,
            "rows": [row.to_json() for row in self.rows],
            "worst": worst.to_json() if worst else None,
            "looks_like": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }
