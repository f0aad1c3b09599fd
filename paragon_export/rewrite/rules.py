"""Rewrite: a network in, an algebraically equal one that runs faster out.

Rules are applied in order to a copy of the network. The original is not changed: every verdict
compares with it. Weights are combined in float64 and rounded to float32 once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from paragon_export.rewrite.attention.overlapping import attend_in_steps, equal_widths
from paragon_export.rewrite.attention.padded_heads import pad_heads
from paragon_export.rewrite.attention.stacked_windows import stack_windows
from paragon_export.rewrite.attention.whole_picture import (
    fuse_tokens,
    gate_channels,
    tabulate_tokens,
    transpose_for_means,
)
from paragon_export.rewrite.attention.windows import (
    fuse_heads,
    fuse_windows,
    gather_windows,
)
from paragon_export.rewrite.channels_last import channels_last
from paragon_export.rewrite.dense import compose_pointwise, merge_depthwise, merge_pointwise
from paragon_export.rewrite.fx_network import Network
from paragon_export.rewrite.layers import group_norm_in_one_call, mish_by_sigmoid, prelu_by_maximum
from paragon_export.rewrite.linear import (
    clamp_in_convolution,
    fold_gains,
    fold_norms,
    narrow_products,
    split_concat,
    split_halves,
)
from paragon_export.rewrite.nearest import add_before_shuffle, transpose_after_nearest
from paragon_export.rewrite.silent import (
    drop_branches,
    drop_channels,
    drop_gates,
    drop_heads,
    drop_tokens,
)
from paragon_export.rewrite.sums import constants_last, cut_gates, separate_part
from paragon_export.rewrite.upsampling import (
    fuse_tail,
    repeat_after_filter,
    share_shuffle,
    shuffle_in_steps,
)
from paragon_export.specs.types import Runtime

ALL_RUNTIMES = frozenset(Runtime)

FULL_RUNTIMES = ALL_RUNTIMES - {Runtime.PORTABLE}
"""Those that know all operators."""

NOT_TENSORRT = FULL_RUNTIMES - {Runtime.TENSORRT}

TENSORRT_ALONE = frozenset({Runtime.TENSORRT})

CPU_RUNTIMES = frozenset({Runtime.ONNXRUNTIME, Runtime.OPENVINO})


@dataclass(frozen=True)
class Rule:
    """A rewrite and the runtimes that it makes faster (measured by ``benchmarks/rules.py``)."""

    apply: Callable[[Network], int]
    """Edits the network and returns how often it fired."""
    runtimes: frozenset[Runtime] = FULL_RUNTIMES
    half: bool = False
    """Whether it is for half precision alone."""

    @property
    def name(self) -> str:
        """Name in the metadata of exported files."""
        return self.apply.__name__


RULES = (
    Rule(drop_heads, ALL_RUNTIMES),
    Rule(drop_gates, ALL_RUNTIMES),
    Rule(drop_tokens, ALL_RUNTIMES),
    Rule(drop_channels, ALL_RUNTIMES),
    Rule(drop_branches, ALL_RUNTIMES),
    Rule(stack_windows, TENSORRT_ALONE),
    Rule(gather_windows, NOT_TENSORRT),
    Rule(tabulate_tokens),
    Rule(gate_channels),
    Rule(fold_norms),
    Rule(fold_gains, ALL_RUNTIMES),
    Rule(fuse_heads, CPU_RUNTIMES),
    Rule(fuse_windows, CPU_RUNTIMES),
    Rule(equal_widths, TENSORRT_ALONE, half=True),
    Rule(pad_heads, TENSORRT_ALONE, half=True),
    Rule(attend_in_steps, frozenset({Runtime.ANY, Runtime.TENSORRT})),
    Rule(fuse_tokens, TENSORRT_ALONE),
    Rule(transpose_for_means, TENSORRT_ALONE),
    Rule(split_concat, ALL_RUNTIMES),
    Rule(split_halves, ALL_RUNTIMES),
    Rule(narrow_products),
    Rule(clamp_in_convolution, frozenset({Runtime.ONNXRUNTIME})),
    Rule(merge_pointwise, TENSORRT_ALONE),
    Rule(merge_depthwise, TENSORRT_ALONE),
    Rule(compose_pointwise, TENSORRT_ALONE),
    Rule(separate_part, TENSORRT_ALONE),
    Rule(cut_gates, TENSORRT_ALONE),
    Rule(transpose_after_nearest, frozenset({Runtime.TENSORRT, Runtime.OPENVINO})),
    Rule(add_before_shuffle, CPU_RUNTIMES),
    Rule(prelu_by_maximum, TENSORRT_ALONE),
    Rule(mish_by_sigmoid, frozenset({Runtime.ANY, Runtime.ONNXRUNTIME, Runtime.TENSORRT})),
    Rule(constants_last, frozenset({Runtime.ANY, Runtime.TENSORRT})),
    Rule(group_norm_in_one_call, frozenset({Runtime.ANY, Runtime.TENSORRT}), half=True),
    Rule(fuse_tail),
    Rule(repeat_after_filter),
    Rule(share_shuffle),
    Rule(shuffle_in_steps, frozenset({Runtime.ONNXRUNTIME})),
    Rule(channels_last, NOT_TENSORRT),
)
"""In the order of application. Those for all runtimes leave nothing but convolutions and sums."""


@dataclass(frozen=True)
class Rewritten:
    """A rewritten network and the rules that were applied to it."""

    module: nn.Module
    fired: Mapping[str, int]
    """Rule name to how often the rule fired; rules that did not fire are left out."""


def unchanged(module: nn.Module) -> Rewritten:
    """Return the network itself, with no rule applied."""
    return Rewritten(module, {})


def rewrite(
    module: nn.Module,
    runtime: Runtime = Runtime.ANY,
    rules: Sequence[Rule] = RULES,
    *,
    half: bool = False,
) -> Rewritten:
    """Apply the rules that make a network faster on ``runtime`` to a copy of it.

    Args:
        module: Eval mode, float32. Neither it nor its weights are changed.
        runtime: The runtime that the result is meant for.
        rules: The rules to apply, in order. Rules for other runtimes are skipped.
        half: Whether the result will be converted to half precision.

    Returns:
        A float32 network in eval mode with the same inputs and outputs.
    """
    network = Network(module)
    applied = [r for r in rules if runtime in r.runtimes and (half or not r.half)]
    fired = {rule.name: rule.apply(network) for rule in applied}
    return Rewritten(network.finish(), {name: count for name, count in fired.items() if count})
