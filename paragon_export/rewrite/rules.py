"""Rewrite: a network in, an algebraically equal one that runs faster out.

Rules are applied in turn to a copy of the network; the one given stays as it is, and every
verdict on what is made of the copy stands on the one given. Weights are combined in float64
and rounded to float32 once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from paragon_export.rewrite.attention import (
    fuse_heads,
    fuse_windows,
    gate_channels,
    gather_windows,
    tabulate_tokens,
)
from paragon_export.rewrite.channels_last import channels_last
from paragon_export.rewrite.fx_network import Network
from paragon_export.rewrite.linear import (
    clamp_in_convolution,
    fold_gains,
    fold_norms,
    narrow_products,
    split_concat,
    split_halves,
)
from paragon_export.rewrite.upsampling import (
    fuse_tail,
    repeat_after_filter,
    share_shuffle,
    shuffle_in_steps,
)
from paragon_export.specs.types import Runtime

EVERYWHERE = frozenset(Runtime)

CPU = frozenset({Runtime.ONNXRUNTIME, Runtime.OPENVINO})


@dataclass(frozen=True)
class Rule:
    """A rewrite and where it pays (``benchmarks/rules.py``)."""

    apply: Callable[[Network], int]
    """Edits the network and returns how often it fired."""
    runtimes: frozenset[Runtime] = EVERYWHERE

    @property
    def name(self) -> str:
        return self.apply.__name__


RULES = (
    Rule(gather_windows),
    Rule(tabulate_tokens),
    Rule(gate_channels),
    Rule(fold_norms),
    Rule(fold_gains),
    Rule(fuse_heads, CPU),
    Rule(fuse_windows, CPU),
    Rule(split_concat),
    Rule(split_halves),
    Rule(narrow_products),
    Rule(clamp_in_convolution, frozenset({Runtime.ONNXRUNTIME})),
    Rule(fuse_tail),
    Rule(repeat_after_filter),
    Rule(share_shuffle),
    Rule(shuffle_in_steps, frozenset({Runtime.ONNXRUNTIME})),
    Rule(channels_last),
)
"""In the order of application."""


@dataclass(frozen=True)
class Rewritten:
    """An equal network and what was done to get it."""

    module: nn.Module
    fired: Mapping[str, int]
    """Name of a rule and how often it fired, without those that did not."""


def unchanged(module: nn.Module) -> Rewritten:
    """Return the network as trained."""
    return Rewritten(module, {})


def rewrite(
    module: nn.Module, runtime: Runtime = Runtime.ANY, rules: Sequence[Rule] = RULES
) -> Rewritten:
    """Apply the rules that pay on ``runtime`` to a copy of ``module``.

    Args:
        module: Eval mode, float32. Neither it nor its weights are changed.
        runtime: What is to run the result.
        rules: Which rules, in order.

    Returns:
        A float32 network in eval mode with the same inputs and outputs.
    """
    network = Network(module)
    fired = {rule.name: rule.apply(network) for rule in rules if runtime in rule.runtimes}
    return Rewritten(network.finish(), {name: count for name, count in fired.items() if count})
