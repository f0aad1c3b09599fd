"""Small random networks of every family: good ones, which a verdict must never refuse.

The weights are those of a network of the family, drawn anew: shuffled within each tensor, the
tensor multiplied by a random factor, and an offset added to biases. Sizes, scales, channels,
precision and options are random too. What a number stands for is always the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.networks.glyph.layout import CellHyperparameters
from paragon_export.specs.types import Precision, Runtime, Size
from paragon_export.testing.glyph import (
    SMALL,
    SMALL_CELLS,
    config_of,
    save_checkpoint,
    small_weights,
)
from paragon_export.testing.golden.make_weights import _spectral, fill
from paragon_export.testing.recorded import GOLDEN, MUNET, MUNET_SMALL, OLDER
from paragon_export.testing.tiny import Tensors, save, tiny_hyperparameters, tiny_tensors

MOST_VALUES = 110_000
"""Values of a recorded network; of larger ones one block is kept."""

MOST_FEATURES_PX = 20
"""Sides of pictures for these larger networks, in pixels."""

FIXED = re.compile(
    r"(sharp|sharpen|blur|resample_conv)\.|freq_luma|relative_position_index|tracked|identity_kernel"
    r"|\._[uv]$|0\._[uv]$|scale_buffer"
)
"""Tensors that no training changes."""

FLAGS = ("upsampler_alpha", "window_size", "export_safe", "use_norm")
"""Arguments of recorded networks that the tensors do not determine."""


@dataclass(frozen=True)
class RandomNetwork:
    """One random network and how it is exported."""

    family: str
    weights: Tensors
    flags: Mapping[str, Any]
    precision: Precision
    sizes: tuple[Size, ...]
    video: bool = False
    rewrite: bool = True
    runtime: Runtime = Runtime.ANY
    config: Mapping[str, Any] | None = None
    """The trainer's configuration that the checkpoint of a classifier embeds."""

    def save(self, folder: Path) -> Path:
        """Write the checkpoint and return its path."""
        if self.family.startswith("glyph"):
            more = {} if self.config is None else {"config": dict(self.config)}
            return save_checkpoint(self.weights, folder / "net.pt", **more)
        return save(self.weights, folder / "net.safetensors")


@dataclass
class Draw:
    """What is drawn for one number."""

    number: int
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([20261126, self.number])

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def redrawn(self, weights: Tensors) -> Tensors:
        """Return weights of the same distribution, with other scales and biases."""
        offset = self.one_of(0.0, 0.0, 0.05, 0.5)
        spread = self.one_of(0.0, 0.2, 0.4)
        redrawn = {}
        for name, array in weights.items():
            if FIXED.search(name) or array.dtype.kind != "f" or array.ndim == 0:
                redrawn[name] = array
                continue
            shuffled = self.rng.permutation(array.ravel()).reshape(array.shape)
            factor = np.exp(spread * self.rng.standard_normal())
            bias = offset * self.rng.standard_normal() if name.endswith("bias") else 0.0
            redrawn[name] = np.asarray(shuffled * factor + bias, array.dtype)
        if any(name.endswith("._u") for name in redrawn):
            _spectral(redrawn)
            redrawn = {n: np.asarray(a, weights[n].dtype) for n, a in redrawn.items()}
        return redrawn

    def sizes(self, smallest: int = 1, high: int = 28) -> tuple[Size, ...]:
        """Return two or three sizes below ``high``, one of them near the smallest."""
        low = max(smallest, 8)
        tiny = Size(*(int(e) for e in self.rng.integers(smallest, smallest + 6, 2)))
        others = [Size(*(int(e) for e in self.rng.integers(low, high, 2))) for _ in range(2)]
        return tuple(dict.fromkeys([tiny, *others]))


def random_network(number: int) -> RandomNetwork:
    """Return the random network of a number."""
    draw = Draw(number)
    kind = draw.rng.random()
    if kind < 0.45:
        return _tiny(draw)
    if kind < 0.85:
        return _recorded(draw)
    if kind < 0.93:
        return _munet(draw)
    return _glyph(draw)


def _precision(draw: Draw) -> Precision:
    return Precision(draw.one_of("fp32", "fp16", "fp16", "bf16"))


def _tiny(draw: Draw) -> RandomNetwork:
    """Return a ParagonSR2 of v9 to v11."""
    variant = draw.one_of("realtime", "stream", "photo", "pro")
    hyperparameters = tiny_hyperparameters(
        variant,
        draw.one_of(2, 2, 3, 4),
        layer_scale=draw.one_of(True, False),
        attention=draw.one_of(True, True, False),
        features=draw.one_of(4, 8, 12, 16),
        groups=draw.one_of(1, 2),
        blocks=draw.one_of(1, 2, 3),
        in_channels=draw.one_of(1, 3, 3),
    )
    flags = {"upsampler_alpha": draw.one_of(0.0, 0.3, 0.5, 1.0)}
    window = draw.one_of(8, 16) if variant in ("photo", "pro") and hyperparameters.attention else 1
    if window > 1:
        flags["window_size"] = window
    rewrite = draw.rng.random() < 0.85
    runtimes = ("any", "any", "onnxruntime", "openvino", "tensorrt") if rewrite else ("any",)
    return RandomNetwork(
        family=f"v9-v11 {variant}",
        weights=draw.redrawn(tiny_tensors(hyperparameters, draw.number)),
        flags=flags,
        precision=_precision(draw),
        sizes=draw.sizes(high=2 * window + 8 if window > 8 else 28),
        video=draw.rng.random() < 0.2,
        rewrite=rewrite,
        runtime=Runtime(draw.one_of(*runtimes)),
    )


@cache
def _older(name: str) -> Tensors:
    case = OLDER[name]
    signature = json.loads((GOLDEN / case["signature"]).read_text(encoding="utf-8"))["state_dict"]
    if case["params"] > MOST_VALUES:
        signature = {key: entry for key, entry in signature.items() if _is_kept(key)}
    return fill(signature, **case["fill"])


def _is_kept(key: str) -> bool:
    """Return whether a tensor belongs to the first block of the first group, or to none."""
    group = re.match(r"body\.(\d+)\.", key)
    block = re.match(r"body\.\d+\.(?:blocks|layers)\.(\d+)\.", key)
    return (group is None or group[1] == "0") and (block is None or block[1] == "0")


def options_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a user would have to say of a recorded network."""
    flags = {k: v for k, v in case["kwargs"].items() if k in FLAGS}
    switches = case.get("switches", {})
    if switches.get("dynamic_inference"):
        flags["dynamic_inference"] = True
    if case["fill"].get("tracked") == 0:
        flags["obey_tracked_flag"] = True
    if switches.get("hier"):
        flags["attention_mode"] = "hierarchical"
    if case["version"] == "v5h":
        flags["attention_mode"] = "global"
    if case["version"].startswith("munet"):
        flags["generation"] = case["version"]
    return flags


def _recorded(draw: Draw) -> RandomNetwork:
    """Return a ParagonSR, or a ParagonSR2 of v0 to v8."""
    name = draw.one_of(*(n for n, case in OLDER.items() if not case.get("heavy")))
    case = OLDER[name]
    return RandomNetwork(
        family=case["version"],
        weights=draw.redrawn(_older(name)),
        flags={**options_of(case), "scale": case["kwargs"]["scale"]},
        precision=_precision(draw),
        sizes=draw.sizes(high=28 if case["params"] <= MOST_VALUES else MOST_FEATURES_PX),
        rewrite=draw.rng.random() < 0.85,
    )


def _munet(draw: Draw) -> RandomNetwork:
    version = draw.one_of(*(v for v in MUNET_SMALL if v > "munet2"))
    case = MUNET[MUNET_SMALL[version]]
    signature = json.loads((GOLDEN / case["signature"]).read_text(encoding="utf-8"))["state_dict"]
    return RandomNetwork(
        family=version,
        weights=draw.redrawn(fill(signature, **case["fill"])),
        flags=options_of(case),
        precision=_precision(draw),
        sizes=draw.sizes(smallest=8),
    )


def _glyph(draw: Draw) -> RandomNetwork:
    cells = draw.rng.random() < 0.4
    h: Any = SMALL_CELLS if cells else SMALL
    return RandomNetwork(
        family="glyph cells" if isinstance(h, CellHyperparameters) else "glyph",
        weights=small_weights(h, salt=str(draw.number)),
        flags={},
        precision=_precision(draw),
        sizes=(),
        config=None if cells else config_of(h),
    )
