"""The suite: good exports made wrong, each in one way, and what the verdict should call it.

Every one is a whole ONNX file that loads and runs (or should have run).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from paragon_export.assets import CHECKPOINT
from paragon_export.precision.half import to_precision
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.sabotage.case import Break, Case, case_of
from paragon_export.testing.sabotage.edits import (
    blending_always,
    blocks_swapped,
    edges_repeated,
    in_eight_bits,
    multiplying,
    never_blending,
    not_rolled,
    off_by_a_thousandth,
    other_shuffle,
    overflowing,
    rolled_back_the_wrong_way,
    swap_channels,
    tanh_gelu,
    turned_shuffle,
    weight,
    windows_from_the_end,
    with_bfloat16,
    without_crop,
)
from paragon_export.testing.sabotage.networks import (
    another,
    baked_size,
    both_weights,
    halves_apart,
    last_weights,
)
from paragon_export.testing.sabotage.pieces import (
    BLURRED,
    FIRST_OF_BATCH,
    GREY,
    LEVELS,
    LOWER_SCALE,
    NEAREST,
    NOISY,
    ONE_NAN,
    RING,
    ROW_LOST,
    SHIFTED,
    TINTED,
    before,
    behind,
    real,
    reverse,
)
from paragon_export.testing.tiny import tiny_checkpoint


@dataclass(frozen=True)
class Sabotage:
    """One way to be wrong."""

    what: str
    looks_like: str
    """The name that the verdict should give it; '' if any will do."""
    make: Break
    subject: str = "realtime"
    precision: Precision = Precision.FP32
    at: tuple[Size, ...] = ()
    """Large sizes to judge it at as well."""


GAMMA = "body.0.blocks.1.scale.gamma"
EVERYWHERE = "error everywhere"

SUITE = [
    Sabotage("one weight off by 1e-3", EVERYWHERE, off_by_a_thousandth("conv_in.weight")),
    Sabotage("one bias off by 1e-3", "colour shift", off_by_a_thousandth("conv_out.bias")),
    Sabotage("detail gain off by 1e-3", EVERYWHERE, off_by_a_thousandth("detail_gain")),
    Sabotage("weights in 8 bits", EVERYWHERE, weight("conv_mid.weight", in_eight_bits)),
    Sabotage("weights in 8 bits and a bfloat16 node", "wrong in float32",
             with_bfloat16(weight("conv_mid.weight", in_eight_bits))),
    Sabotage("two feature channels swapped", EVERYWHERE, weight("conv_mid.weight", swap_channels)),
    Sabotage("gamma of a block zeroed", EVERYWHERE, weight(GAMMA, np.zeros_like)),
    Sabotage("detail left out", "blur", weight("detail_gain", np.zeros_like)),
    Sabotage("weights of two blocks swapped", EVERYWHERE, blocks_swapped),
    Sabotage("GELU by tanh", "another activation", tanh_gelu),
    Sabotage("pixel shuffle in the other order", "pixel order", other_shuffle),
    Sabotage("rows and columns of a shuffle swapped", "pixel order", turned_shuffle),
    Sabotage("nearest in place of a shuffle", "nearest", behind(NEAREST)),
    Sabotage("another upsampler_alpha", "another switch", another(upsampler_alpha=0.35)),
    Sabotage("weights before averaging", "other weights", last_weights, "both weights"),
    Sabotage("padding mode changed", "border", edges_repeated),
    Sabotage("ring of one pixel wrong", "border", behind(RING)),
    Sabotage("RGB taken for BGR", "colours swapped", before(reverse(1, "input", "x"))),
    Sabotage("BGR given out", "colours swapped", behind(reverse(1, "y", "output"))),
    Sabotage("grey in three channels", "grey", behind(GREY)),
    Sabotage("tinted", "colour shift", behind(TINTED)),
    Sabotage("limited range", "contrast", behind(LEVELS)),
    Sabotage("clamped", "clamped", behind(real(low=0, high=1) + "output = Clip(y, low, high)")),
    Sabotage("pictures expected in 0 to 255", "value range",
             before(real(most=255) + "x = Div(input, most)")),
    Sabotage("shift by one pixel", "shift", behind(SHIFTED)),
    Sabotage("upside down", "turned", behind(reverse(2, "y", "output"))),
    Sabotage("rows are columns", "turned", behind("output = Transpose<perm = [0, 1, 3, 2]>(y)")),
    Sabotage("blurred", "blur", behind(BLURRED)),
    Sabotage("noise left in", "not repeatable", behind(NOISY)),
    Sabotage("halves upscaled apart", "seam", halves_apart),
    Sabotage("one row lost", "wrong shape", behind(ROW_LOST)),
    Sabotage("scale 2 taken for 4", "wrong scale", behind(LOWER_SCALE), "four times"),
    Sabotage("NaN in one pixel of one item", "NaN", behind(ONE_NAN)),
    Sabotage("all zero", "all zero", behind(real(no=0) + "output = Mul(y, no)")),
    Sabotage("all grey", "constant", behind(real(no=0, half=0.5) + "z = Mul(y, no) output = Add(z, half)")),
    Sabotage("batch items swapped", "batch mixed up", behind(reverse(0, "y", "output"))),
    Sabotage("first item repeated", "batch mixed up", behind(FIRST_OF_BATCH)),
    Sabotage("size baked in at the trace", "fixed size", baked_size, "photo"),
    Sabotage("crop lost at the trace", "partial window", without_crop, "photo"),
    Sabotage("windows misaligned at a partial tile", "partial window", windows_from_the_end, "photo"),
    Sabotage("attention rolled back the wrong way", "windows misplaced", rolled_back_the_wrong_way, "photo"),
    Sabotage("attention not rolled", "windows misplaced", not_rolled, "photo"),
    Sabotage("another window_size", "another switch", another(window_size=8), "photo"),
    Sabotage("attention left out", "another switch", another(export_safe=True), "photo"),
    Sabotage("state not reset at a cut", "state not reset", blending_always, "video"),
    Sabotage("state lost", "state lost", never_blending, "video"),
    Sabotage("state multiplied, not selected", "state multiplied", multiplying, "video"),
    Sabotage("overflow in half precision", "overflow", overflowing, precision=Precision.FP16),
]  # fmt: skip
"""The ways of the published table; more names are tested in ``tests/parity/test_sabotage.py``."""


def subjects(folder: Path) -> dict[str, Case]:
    """Return the networks that are broken; the one for stills is the trained one that ships."""
    photo = tiny_checkpoint(folder / "photo.safetensors", "photo")
    large = tiny_checkpoint(folder / "large.safetensors", "realtime", 4)
    return {
        "realtime": case_of(CHECKPOINT, upsampler_alpha=0.0),
        "photo": case_of(photo, upsampler_alpha=0.3),
        "four times": case_of(large, upsampler_alpha=0.0),
        "both weights": case_of(both_weights(folder / "both.pth"), upsampler_alpha=0.0),
        "video": case_of(CHECKPOINT, video=True, upsampler_alpha=0.0),
    }


def written(sabotage: Sabotage, case: Case, path: Path) -> Path:
    """Write the sabotaged file."""
    model = to_precision(sabotage.make(case), sabotage.precision, Precision.FP32)
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path
