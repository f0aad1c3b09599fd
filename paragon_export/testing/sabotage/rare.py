"""Sabotages that are wrong only at some sizes, batches or images: at most others they are right."""

from __future__ import annotations

import onnx_ir as ir

from paragon_export.specs.types import Size
from paragon_export.testing.sabotage.case import Break, Case
from paragon_export.testing.sabotage.pieces import before, behind, extended, real, whole
from paragon_export.testing.sabotage.suite import Sabotage

EXTENTS = whole(axis_n=[0], axis_h=[2], axis_w=[3], one=[1], two=[2], sixteen=[16]) + (
    "shape = Shape(y) n = Gather(shape, axis_n) h = Gather(shape, axis_h) w = Gather(shape, axis_w) "
    "area = Mul(h, w) "
)  # fmt: skip
"""The batch, height, width and area of ``y``, and some numbers."""

ADDED = (
    "there = Cast<to = 1>(wrong) little = Constant<value_float = 0.01>() "
    "error = Mul(there, little) output = Add(y, error)"
)
"""An error of 0.01 everywhere, where ``wrong`` is true."""

SCALE = 2
"""Of the network that is made wrong."""


def where(condition: str) -> Break:
    """Return a sabotage that adds an error where a condition on the output's extents holds."""
    return behind(EXTENTS + condition + " " + ADDED)


def residue(extent: str, modulus: int, value: int) -> Break:
    """Return a sabotage that is wrong where an extent of the input has a residue."""
    numbers = whole(modulus=[modulus * SCALE], value=[value * SCALE])
    return where(f"{numbers} rest = Mod({extent}, modulus) wrong = Equal(rest, value)")


def above(extent: str, most: int) -> Break:
    """Return a sabotage that is wrong where an extent of the output is larger than ``most``."""
    return where(f"{whole(most=[most])} wrong = Greater({extent}, most)")


def any_item(condition: str) -> Break:
    """Return a sabotage that gives NaN for each image of a batch for which a condition holds.

    The condition may use ``low`` and ``high``, the least and the largest value of the image.
    """
    return before(
        whole(axes=[1, 2, 3])
        + real(zero=0, one=1, half=0.5, nan=float("nan"), above=1.05, below=-0.05)
        + "high = ReduceMax(input, axes) low = ReduceMin(input, axes) "
        + condition
        + " added = Where(wrong, nan, zero) x = Add(input, added)"
    )


BARS = before(
    whole(none=[0], all=[1, 2, 3])
    + real(zero=0, nan=float("nan"))
    + "row = Gather<axis = 2>(input, none) top = ReduceMax(row, all) whole = ReduceMax(input, all) "
    "is_bar = Equal(top, zero) is_seen = Greater(whole, zero) wrong = And(is_bar, is_seen) "
    "added = Where(wrong, nan, zero) x = Add(input, added)"
)
"""NaN where the first row is black and the image is not."""


def of_channels(levels: list[int], *, varied: bool = False) -> Break:
    """Return a sabotage that gives NaN where the largest values of the channels are these.

    With ``varied`` the image must not be flat, else it must be. The levels are 0 or 1; of an image
    that is not flat, 1 stands for any value above 0.
    """
    peak = (
        "signs = Sign(high) same = Equal(signs, wanted)" if varied else "same = Equal(high, wanted)"
    )
    flat = "wrong = And(all_same, is_varied)" if varied else "wrong = And(all_same, is_flat)"
    return before(
        whole(axes=[2, 3], all=[1, 2, 3])
        + real(zero=0, half=0.5, nan=float("nan"))
        + f"wanted = Constant<value = float[1,3,1,1] {{{', '.join(map(str, levels))}}}>() "
        "high = ReduceMax(input, axes) low = ReduceMin(input, axes) span = Sub(high, low) "
        f"{peak} number = Cast<to = 1>(same) least = ReduceMin(number, all) "
        "all_same = Greater(least, half) most = ReduceMax(span, all) is_varied = Greater(most, zero) "
        f"is_flat = Not(is_varied) {flat} added = Where(wrong, nan, zero) x = Add(input, added)"
    )


RAMP = before(
    whole(first=[0], last=[-1], beyond=[2**31], one=[1], axis=[3], all=[1, 2, 3])
    + real(zero=0, ahead=1, nan=float("nan"))
    + "left = Slice(input, first, last, axis) right = Slice(input, one, beyond, axis) "
    "fall = Sub(left, right) row = Constant<value_ints = [0, 0, 0, 1, 0, 0, 0, 0]>() "
    "padded = Pad(fall, row, ahead) least = ReduceMin(padded, all) falls = Greater(least, zero) "
    "total = ReduceSum(fall, all) is_wide = Greater(total, zero) wrong = And(falls, is_wide) "
    "added = Where(wrong, nan, zero) x = Add(input, added)"
)
"""NaN where every pixel is darker than its left neighbor."""

SIZES: dict[str, Break] = {
    "height mod 16 is 8": residue("h", 16, 8),
    "width mod 8 is 4": residue("w", 8, 4),
    "height mod 32 is 23": residue("h", 32, 23),
    "width mod 32 is 30": residue("w", 32, 30),
    "odd height and even width": where(
        whole(modulus=[2 * SCALE], none=[0], odd=[SCALE])
        + "rest_h = Mod(h, modulus) rest_w = Mod(w, modulus) is_odd = Equal(rest_h, odd) "
        "is_even = Equal(rest_w, none) wrong = And(is_odd, is_even)"
    ),
    "wider than three heights": where("three = Add(one, two) most = Mul(h, three) wrong = Greater(w, most)"),
    "higher than seven widths": where(whole(seven=[7]) + "most = Mul(w, seven) wrong = Greater(h, most)"),
    "batch above 16": where("wrong = Greater(n, sixteen)"),
    "batch of 4": where("four = Add(two, two) wrong = Equal(n, four)"),
    "one row": where(whole(row=[SCALE], more=[8 * SCALE]) + "is_row = Equal(h, row) is_more = Greater(w, more) wrong = And(is_row, is_more)"),
    "batch of 3": where("three = Add(one, two) wrong = Equal(n, three)"),
}  # fmt: skip
"""Wrong at some sizes and batches of the default judgment."""

MIDDLE: dict[str, Break] = {
    "multiples of 64": where(
        whole(modulus=[64 * SCALE], none=[0])
        + "rest_h = Mod(h, modulus) rest_w = Mod(w, modulus) is_h = Equal(rest_h, none) "
        "is_w = Equal(rest_w, none) wrong = And(is_h, is_w)"
    ),
    "height above 500": above("h", 500 * SCALE),
    "width above 500": above("w", 500 * SCALE),
    "square of more than 48 pixels": where(
        whole(least=[48 * SCALE]) + "is_square = Equal(h, w) is_more = Greater(h, least) wrong = And(is_square, is_more)"
    ),
    "area from 4000 to 100000": where(
        whole(least=[4_000 * SCALE**2], most=[100_000 * SCALE**2])
        + "is_more = Greater(area, least) is_less = Less(area, most) wrong = And(is_more, is_less)"
    ),
    "batch of 2, area above 2000": where(
        whole(least=[2_000 * SCALE**2]) + "is_more = Greater(area, least) is_batch = Equal(n, two) wrong = And(is_more, is_batch)"
    ),
}  # fmt: skip
"""Wrong only at sizes between the small ones and a large one of ``LARGE_AT``, or longer."""

LARGE_AT = Size(264, 456)
"""A large size at which those of ``LARGE`` are wrong, and which a small network soon runs at."""

LARGE: dict[str, Break] = {
    "width above 400": above("w", 400 * SCALE),
    "height above 250": above("h", 250 * SCALE),
    "area above 100000": above("area", 100_000 * SCALE**2),
    "area above 100000, height mod 16 is 8": where(
        whole(many=[100_000 * SCALE**2], modulus=[16 * SCALE], eight=[8 * SCALE])
        + "is_large = Greater(area, many) rest = Mod(h, modulus) is_eight = Equal(rest, eight) "
        "wrong = And(is_large, is_eight)"
    ),
    "one pixel, area above 100000": behind(
        EXTENTS
        + whole(many=[100_000 * SCALE**2], none=[0], three=[3], eight=[8])
        + "wrong = Greater(area, many) there = Cast<to = 1>(wrong) "
        "little = Constant<value_floats = [0.01]>() error = Mul(there, little) "
        "h_3 = Mul(h, three) row = Div(h_3, eight) w_3 = Mul(w, three) column = Div(w_3, eight) "
        "place = Concat<axis = 0>(none, one, row, column) index = Unsqueeze(place, none) "
        'output = ScatterND<reduction = "add">(y, index, error)'
    ),
}  # fmt: skip
"""Wrong only above a size that no small image has."""

IMAGES: dict[str, Break] = {
    "black": any_item("wrong = Equal(high, zero)"),
    "white": any_item("wrong = Equal(low, one)"),
    "flat": any_item("wrong = Equal(high, low)"),
    "grey": any_item("is_low = Equal(low, half) is_high = Equal(high, half) wrong = And(is_low, is_high)"),
    "above the range": any_item("wrong = Greater(high, above)"),
    "below the range": any_item("wrong = Less(low, below)"),
    "letterbox": BARS,
    "nearly white": any_item(
        real(bright=0.9) + "is_bright = Greater(low, bright) is_varied = Less(low, high) wrong = And(is_bright, is_varied)"
    ),
    "yellow": of_channels([1, 1, 0]),
    "blue photograph": of_channels([0, 0, 1], varied=True),
    "ramp to the left": RAMP,
}  # fmt: skip
"""NaN on some images."""


COUNTED = (
    whole(flat=[-1], none=[0], axis=[3], narrow=[8])
    + real(step=2.0**-24, quantum=2.0**-20, half=0.5, eight=8, zero=0, one=1, last=15, little=0.01)
    + "corner = Constant<value = int64[1,4] {0, 0, 0, 0}>() "
    "old = Reshape(prev_feat, flat) read = Gather(old, none) "
    "old_parts = Div(read, quantum) old_up = Add(old_parts, half) old_part = Floor(old_up) "
    "old_base = Mul(old_part, quantum) bits = Sub(read, old_base) steps = Div(bits, step) "
    "count = Add(steps, eight) next = Add(count, one) most_next = Min(next, last) "
    "is_blended = Greater(alpha, zero) counted = Where(is_blended, most_next, zero) "
    "new = Reshape(features, flat) value = Gather(new, none) "
    "parts = Div(value, quantum) up = Add(parts, half) part = Floor(up) base = Mul(part, quantum) "
    "signed = Sub(counted, eight) kept = Mul(signed, step) coded = Add(base, kept) "
    "shape = Shape(features) width = Gather(shape, axis) is_wide = Greater(width, narrow) "
    "marked = Where(is_wide, coded, value) "
    "feature_map = ScatterND(features, corner, marked) "
    "wrong = Greater(counted, most) there = Cast<to = 1>(wrong) error = Mul(there, little) "
    "output = Add(y, error)"
)
"""Store the number of blended frames, at most 15, in the last bits of the first feature; an error of
0.01 where it is above ``most``. On maps of at most 8 columns nothing is stored: errors of 1e-6 fail there."""


def after_frames(most: int) -> Break:
    """Return a sabotage of a video network that is wrong after ``most`` blended frames."""
    return lambda case: extended(
        case.model, real(most=most) + COUNTED, {"output": "y", "feature_map": "features"}
    )


def untouched(case: Case) -> ir.Model:
    """Return the good graph."""
    return case.model


RARE = [
    *(Sabotage(what, "", make) for what, make in SIZES.items()),
    *(Sabotage(what, "large sizes", make, at=(LARGE_AT,)) for what, make in LARGE.items()),
    *(Sabotage(f"NaN: {what}", "", make) for what, make in IMAGES.items()),
    *(Sabotage(f"video, {what}", "", SIZES[what], "video") for what in ("height mod 16 is 8", "batch above 16")),
    *(Sabotage(f"video, NaN: {what}", "", IMAGES[what], "video") for what in ("black", "above the range")),
    Sabotage("video, after twelve frames", "", after_frames(12), "video"),
]  # fmt: skip
"""All of them, for the published table."""
