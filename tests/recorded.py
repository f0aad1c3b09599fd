"""Recorded cases: the weights that the originals' outputs were recorded with."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from tests.golden.make_weights import digest, fill
from tests.tiny import Tensors

GOLDEN = Path(__file__).parent / "golden"


@cache
def _filled(signature: str, **options: Any) -> Tensors:
    document = json.loads((GOLDEN / signature).read_text(encoding="utf-8"))
    return fill(document["state_dict"], **options)


def recorded_weights(case: dict[str, Any]) -> Tensors:
    """Return the case's weights, and make sure that they are those it was recorded with."""
    weights = _filled(case["signature"], **case["fill"])
    found, expected = digest(weights), case["weights"]
    if found["crc32"] != expected["crc32"]:  # another libm may differ in the last bit
        for name in ("sum", "abs_sum"):
            assert math.isclose(found[name], expected[name], rel_tol=1e-9), f"{name} of weights"
    return dict(weights)
