"""What is said of an engine that no GPU has run."""

from __future__ import annotations

from typing import Any

import pytest

from paragon_export.pipeline import prove
from paragon_export.specs.profiles import DEFAULT_PROFILE


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (object(), "no GPU here: the ONNX file was judged, the engine has not run"),
        (None, "no GPU here: the engine has not run"),
    ],
)
def test_a_file_without_reference_is_not_called_judged(
    reference: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prove, "cuda_gpu", lambda: None)
    engine: Any = None
    assert prove.prove_on_gpu(engine, reference, DEFAULT_PROFILE).notes == (said,)
