"""Results for the tests of reports: small, made by hand, and with hostile names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from paragon_export.bench.report import BenchReport, BenchRow
from paragon_export.engines.kernels.cards import CARDS
from paragon_export.engines.kernels.count import Work
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.kernels.listing import Kernel
from paragon_export.parity.acceptance import default_criteria
from paragon_export.parity.metrics import NOT_COMPARED, Difference
from paragon_export.parity.report import Finding, ParityReport, ParityRow, WorstPicture
from paragon_export.pipeline.kernel_plan import KernelPlan
from paragon_export.precision.range_report import Island, RangeAudit, TensorRange
from paragon_export.specs.types import Precision, Size

HOSTILE = "<script>alert(1)</script>\"'&|`*_[x](javascript:1) @all #1 https://x.y\n\x1b[31m\\|.onnx"
"""A name that is markup in HTML and in Markdown, with characters of terminals."""

MACHINE = {
    "time": "2026-01-01T00:00:00+00:00", "processor": "CPU", "cores": 2, "platform": "Linux",
    "gpu": None, "versions": {"numpy": "2"},
}  # fmt: skip


def row(max_abs: float = 1e-7, **changes: Any) -> ParityRow:
    """Return a float32 row that passes up to 1e-6."""
    good = ParityRow(
        candidate="model.onnx", precision=Precision.FP32, output="output", picture="photograph",
        size=Size(17, 33), batch=1, found=Difference(max_abs, 120.0, max_abs / 2, max_abs, True, False),
        reference_max_abs=2e-7, criteria=default_criteria(Precision.FP32),
    )  # fmt: skip
    return replace(good, **changes)


def picture(
    of: ParityRow, found: np.ndarray, reference: np.ndarray, **changes: Any
) -> WorstPicture:
    """Return the worst picture of two arrays (C, H, W)."""
    error = np.abs(found - reference).max(axis=0)
    error[np.isnan(error)] = np.inf
    whole = WorstPicture(
        row=of, item=0, items=1, top=0, left=0, height=found.shape[1], width=found.shape[2],
        reference=reference, found=found, difference=found - reference, error_map=error,
        profile=error[: len(error) // 2, 0],
    )  # fmt: skip
    return replace(whole, **changes)


def ramp(channels: int = 3, height: int = 6, width: int = 8) -> np.ndarray:
    """Return a picture with another value in every pixel, all exact in 8 bits."""
    values = np.arange(channels * height * width, dtype=np.float32)
    return values.reshape(channels, height, width) / 255


def verdict(*, hostile: bool = False) -> ParityReport:
    """Return a failed verdict with a picture: one pixel is off by a half."""
    name = HOSTILE if hostile else "model.onnx"
    output = name if hostile else "output"
    bad = row(0.5, candidate=name, picture=name, output=output)
    reference = ramp()
    found = reference.copy()
    found[1, 2, 3] += 0.5
    return ParityReport(
        rows=(
            row(2e-7, candidate=name, output=output),
            bad,
            row(found=NOT_COMPARED, candidate=name, output=output, fault=name),
        ),
        findings=(Finding("border", name, candidate=name, output=output),),
        notes=(name,),
        pictures=(picture(bad, found, reference),),
    )


def benchmarked(*, hostile: bool = False) -> BenchReport:
    """Return a benchmark of two rows that ran and one that did not."""
    name = HOSTILE if hostile else "m.onnx"
    ran = BenchRow(artifact=name, backend="ORT", size=Size(4, 6), samples_ms=(10.0, 20.0, 60.0))
    slow = replace(ran, backend=name, samples_ms=(100.0, 110.0))
    gone = BenchRow(artifact=name, backend="CUDA", size=Size(4, 6), reason=f"no {name}")
    return BenchReport(rows=(slow, ran, gone), environment={**MACHINE, "processor": name})


def planned(*, hostile: bool = False) -> list[KernelPlan]:
    """Return the kernels of one file on two cards."""
    name = HOSTILE if hostile else "conv"
    kernel = Kernel(
        name=name, type="correlation", inputs=(), constants=(), outputs=(), stream=0, nodes=(name,)
    )
    work = Work(read=1_000_000, written=2_000_000, flops=None, group="convolution")
    return [
        KernelPlan(
            card=card, kernels=((kernel, work),),
            estimate=Estimate.of(Size(8, 8), card, [(kernel, work)]),
        )
        for card in list(CARDS.values())[:2]
    ]  # fmt: skip


def audited(*, hostile: bool = False) -> RangeAudit:
    """Return the ranges of four tensors: one fits, one is in float32, one overflows, one is a mask."""
    name = HOSTILE if hostile else "conv"

    def tensor(peak: float, *, is_half: bool = True) -> TensorRange:
        headroom = 65504 / peak if peak else math.inf
        return TensorRange(
            name=f"{name}{peak:g}", op_type="Conv", peak=peak, picture=name, underflow=0.1,
            is_half=is_half, headroom=headroom, error_share=0.5,
        )  # fmt: skip

    tensors = tensor(2.0), tensor(1e5, is_half=False), tensor(1e6), tensor(math.inf), tensor(0.0)
    island = Island(node=name, op_type="Conv", because=name, peak=1e5)
    return RangeAudit(
        precision=Precision.FP16, tensors=tensors, pictures=("noise",), islands=(island,),
        fault=f"{name} overflows",
    )  # fmt: skip
