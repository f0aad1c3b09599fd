"""Networks that tests of the verdict share."""

from __future__ import annotations

from pathlib import Path

import pytest

from paragon_export.testing.sabotage.case import Case, case_of


@pytest.fixture(scope="module")
def still(tiny_realtime: Path) -> Case:
    return case_of(tiny_realtime, opset=22, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def video(tiny_realtime: Path) -> Case:
    return case_of(tiny_realtime, video=True, opset=22, upsampler_alpha=0.3)
