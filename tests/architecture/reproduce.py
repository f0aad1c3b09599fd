"""Make ONNX files of every kind: ``python -m tests.architecture.reproduce FOLDER THREADS KIND...``.

Run as a process of its own by ``test_reproducible.py``. Prints a JSON object, kind to SHA-256.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.inputs import sizes
from paragon_export.parity import candidates
from paragon_export.pipeline.export import export
from paragon_export.pipeline.quantize import Calibration, export_int8
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Runtime, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.testing.tiny import save, tiny_checkpoint

Make = Callable[[Path], Path]


def _tiny(variant: str, **options: Any) -> Make:
    return lambda path: tiny_checkpoint(path.with_suffix(".safetensors"), variant, **options)


def _older(name: str) -> Make:
    from tests.networks.test_older import weights_of

    return lambda path: save(weights_of(name), path.with_suffix(".safetensors"))


def _munet(version: str) -> Make:
    from tests.networks.test_munet import SMALL, weights_of

    return lambda path: save(weights_of(SMALL[version]), path.with_suffix(".safetensors"))


def _glyph(kind: str) -> Make:
    from paragon_export.testing import glyph

    h = {"grids": glyph.SMALL, "cells": glyph.SMALL_CELLS}[kind]
    return lambda path: glyph.small_checkpoint(path.with_suffix(".pt"), h)


def _flags(**flags: Any) -> dict[str, Any]:
    return {"options": NetworkOptions(flags=flags)}


KINDS: dict[str, tuple[Callable[[], Make], dict[str, Any]]] = {
    "realtime": (lambda: _tiny("realtime"), {}),
    "stream fp16": (lambda: _tiny("stream"), {"precision": Precision.FP16}),
    "photo bf16 static": (
        lambda: _tiny("photo"), {"precision": Precision.BF16, "static": Size(20, 12)},
    ),
    "pro fp16 io": (lambda: _tiny("pro"), {"precision": Precision.FP16, "io": Precision.FP16}),
    "realtime video": (lambda: _tiny("realtime"), {"video": True}),
    "photo as trained": (lambda: _tiny("photo"), {"rewrite": False}),
    **{f"photo for {r.value}": (lambda: _tiny("photo"), {"runtime": r}) for r in Runtime if r != "portable"},
    "stream for portable": (lambda: _tiny("stream"), {"runtime": Runtime.PORTABLE}),
    "int8 pictures": (lambda: _tiny("realtime"), {"int8": True}),
    "int8 grids": (lambda: _glyph("grids"), {"int8": True}),
    "grids": (lambda: _glyph("grids"), {}),
    "cells fp16": (lambda: _glyph("cells"), {"precision": Precision.FP16}),
    "v8": (lambda: _older("v8_stream_x2_20x24"), {}),
    "v5": (lambda: _older("v5_nano_x2_40x56_win"), _flags(scale=2)),
    "v0": (lambda: _older("v0_v2_anime_x2_24x20"), _flags(scale=2)),
    **{v: (partial(_munet, v), _flags(generation=v)) for v in ("munet1", "munet4", "munet6")},
}  # fmt: skip


def make(kind: str, folder: Path) -> str:
    """Export one kind and return the file's hash."""
    network, options = KINDS[kind]
    checkpoint = network()(folder / "network")
    options = dict(options)
    int8 = options.pop("int8", False)
    plan = ExportPlan(checkpoint=checkpoint, output=folder / "made.onnx", **options)
    result = export_int8(plan, _calibration(kind, folder)) if int8 else export(plan)
    assert result.parity.passed, kind
    return sha256_of(plan.output)


def _calibration(kind: str, folder: Path) -> Calibration:
    if kind == "int8 pictures":
        return Calibration(path=None, accept_loss=True)
    from paragon_export.inputs.glyph_probes import glyph_batch
    from tests.pipeline.test_quantize import PORT

    np.save(folder / "grids.npy", glyph_batch(PORT, 96))
    return Calibration(path=folder / "grids.npy", agreement=0.0)


def main() -> None:
    import torch

    folder, threads, *kinds = sys.argv[1:]
    torch.set_num_threads(int(threads))
    sizes.residue_sizes = lambda *_: []  # the verdict is not the subject
    candidates.LARGE = Size(24, 32)
    sys.stdout.write(json.dumps({kind: make(kind, Path(folder)) for kind in kinds}))


if __name__ == "__main__":
    main()
