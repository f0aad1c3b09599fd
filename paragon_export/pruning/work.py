"""The work of a block: a model of its time, to choose between widths.

It counts, for one pixel, the values that a half-precision engine reads and writes, or the operations
of a kernel if they take longer. ``plan`` estimates the time of the result; this model only decides
which widths are worth their time.
"""

from __future__ import annotations

from paragon_export.networks.paragonsr2.v9_v11.layout import HEADS, Hyperparameters, Widths
from paragon_export.rewrite.dense import MAX_CHANNELS

OPERATIONS_PER_VALUE = 140
"""Operations that cards compute while they move a value of two bytes."""


def work_of(hp: Hyperparameters, widths: Widths) -> float:
    """Return the work of a block with these widths, in values moved for each pixel.

    What pruning leaves alone, as the attention to tokens, is not counted.
    """
    if hp.variant == "stream":
        return _stream(hp.features, widths) if widths.hidden else 0.0
    work = _convolutions(hp.features, widths.hidden, hp.variant != "realtime")
    if hp.attention and widths.heads:
        # Cut into windows and norm, q, k and v, attention, projection, and back.
        work += 7 * hp.features + 8 * (hp.features // HEADS * widths.heads)
    return work


def _convolutions(c: int, hidden: int, norm: bool) -> float:
    if not hidden:
        return 0.0
    work = 2.0 * c if norm else 0.0
    work += _dense(c, hidden) if c <= MAX_CHANNELS else c + hidden + 2 * hidden
    return work + hidden + 2 * c


def _stream(c: int, widths: Widths) -> float:
    context, hidden = widths.context, widths.hidden
    out = hidden + 2 * c
    if c > MAX_CHANNELS:
        return 6 * c + context + context + 2 * hidden + 4 * hidden + 3 * hidden + out
    fused = _dense(c, context) + _dense(c, context, also=context)
    return fused + _dense(context, hidden) + _dense(context, hidden, also=hidden) + out


def _dense(into: int, out: int, also: int = 0) -> float:
    """Return the work of a dense 3x3 convolution, which may read a second map."""
    return max(into + out + also, 2 * 9 * into * out / OPERATIONS_PER_VALUE)
