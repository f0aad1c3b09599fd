"""Runners: what they compute must not depend on a library's weak spots."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from paragon_export.runners import TorchRunner

SCRIPT = """
import numpy as np, torch
from paragon_export.runners import TorchRunner
torch.manual_seed(0)
layer = torch.nn.Conv2d(3, 3, {kernel}, padding=[k // 2 for k in {kernel}], groups=3)
TorchRunner(layer, ["x"], ["y"], "float16").infer({{"x": np.ones((1, 3, 40, 40), np.float32)}})
"""


@pytest.mark.parametrize("kernel", [(1, 15), (31, 1), (15, 15)])
def test_wide_kernels_return_in_half_precision(kernel: tuple[int, int]) -> None:
    """Of these oneDNN does not come back by itself; a test that hangs would say nothing."""
    script = SCRIPT.format(kernel=kernel)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("width", [14, 30])
def test_wide_kernels_give_what_half_precision_gives(width: int) -> None:
    """Where PyTorch does come back, the result is the same to the last bit."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 3, (1, 15), padding=(0, 7), groups=3)
    x = np.random.default_rng(0).random((2, 3, 9, width), dtype=np.float32)
    found = TorchRunner(layer, ["x"], ["y"], "float16").infer({"x": x})["y"]
    with torch.inference_mode():
        expected = layer.half()(torch.from_numpy(x).half()).float().numpy()
    assert np.array_equal(found, expected)
    assert layer.weight.dtype == torch.float16
