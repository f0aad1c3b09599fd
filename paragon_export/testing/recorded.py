"""Recorded cases: the weights that the originals' outputs were recorded with."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from paragon_export.networks.munet.versions import VERSIONS
from paragon_export.testing.golden.make_weights import digest, fill
from paragon_export.testing.tiny import Tensors

GOLDEN = Path(__file__).parent / "golden"
"""Folder of the recorded outputs."""


def recorded_cases(file: str) -> dict[str, dict[str, Any]]:
    """Return the cases that a JSON file of ``GOLDEN`` lists, by their names."""
    cases = json.loads((GOLDEN / file).read_text(encoding="utf-8"))
    return {case["id"]: case for case in cases}


OLDER = recorded_cases("older.json")
"""ParagonSR2 before v9."""

MUNET = recorded_cases("munet.json")

MUNET_WIDE = "munet{}_class_288x80_wide"
"""8 features, three halvings, 36 rows at the bottleneck: more than one window."""

MUNET_SMALL = {
    version: MUNET_WIDE.format(version[-1]) if version > "munet2" else f"{version}_class_37x53_odd"
    for version in VERSIONS
}
"""The smallest network of each version that is recorded."""


@cache
def _filled(signature: str, **options: Any) -> Tensors:
    document = json.loads((GOLDEN / signature).read_text(encoding="utf-8"))
    return fill(document["state_dict"], **options)


@cache
def _check(signature: str, crc32: int, total: float, abs_total: float, **options: Any) -> None:
    """Make sure that weights are those that a case was recorded with."""
    found = digest(_filled(signature, **options))
    if found["crc32"] != crc32:  # another libm may differ in the last bit
        for name, expected in (("sum", total), ("abs_sum", abs_total)):
            assert math.isclose(found[name], expected, rel_tol=1e-9), f"{name} of weights"


def recorded_weights(case: dict[str, Any]) -> Tensors:
    """Return the case's weights, and make sure that they are those it was recorded with."""
    expected = case["weights"]
    _check(
        case["signature"], expected["crc32"], expected["sum"], expected["abs_sum"], **case["fill"]
    )
    return dict(_filled(case["signature"], **case["fill"]))
