"""Files of ``ncnn --for realesrgan`` in Real-ESRGAN-ncnn-vulkan itself, on the processor and by Vulkan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paragon_export.assets import CHECKPOINT, photograph
from paragon_export.ncnn.export import export_ncnn
from paragon_export.networks.describe import load_network
from paragon_export.parity.reference import build_reference
from paragon_export.specs.types import NcnnProgram
from paragon_export.testing.tiny import tiny_checkpoint
from tests.clients.conftest import run_client

pytestmark = pytest.mark.clients

UPSCALE = Path(__file__).with_name("upscale_realesrgan.py")

BORDER_PX = 60
"""Of the output, where it depends on pixels that the program adds around the picture."""


def levels(image: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W, 3) in levels of 8 bits."""
    return np.rint(255 * image.clip(0, 1))


@pytest.mark.parametrize("gpu", [-1, 0])
@pytest.mark.parametrize("variant", ["shipped", "stream"])
def test_pictures_are_those_of_the_network(variant: str, gpu: int, tmp_path: Path) -> None:
    """Within one level of 8 bits, up to the border, on a photograph with values at both ends.

    The program stores in float16 on a GPU, and adds pixels around the picture.
    """
    checkpoint = CHECKPOINT
    if variant == "stream":
        checkpoint = tiny_checkpoint(tmp_path / "net.safetensors", "stream")
    network = load_network(checkpoint)
    picture = (1.2 * photograph()[:90, :120] - 0.1).clip(0, 1)
    Image.fromarray(levels(picture).astype(np.uint8)).save(tmp_path / "in.png")
    picture = np.asarray(Image.open(tmp_path / "in.png"), np.float64) / 255
    right = build_reference(network).runner("float64").infer(
        {"input": np.moveaxis(picture, -1, 0)[None].copy()}
    )["output"][0]  # fmt: skip
    assert (right < -0.002).any(), "no value that the program could turn into white"

    result = export_ncnn(network, tmp_path / "net", at=(), program=NcnnProgram.REALESRGAN)
    assert result.passed
    done = run_client(
        UPSCALE, "net", str(network.spec.scale), str(gpu), "in.png", "out.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = np.asarray(Image.open(tmp_path / "out.png").convert("RGB"), np.float64)
    error = np.abs(found - levels(np.moveaxis(right, 0, -1)))
    assert error[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX].max() <= 1


def test_the_file_for_ncnn_does_not_load_there(tiny_realtime: Path, tmp_path: Path) -> None:
    """So the option is needed: the program has no depthwise convolutions."""
    assert export_ncnn(load_network(tiny_realtime), tmp_path / "net", at=()).passed
    Image.new("RGB", (40, 40)).save(tmp_path / "in.png")
    done = run_client(UPSCALE, "net", "2", "-1", "in.png", "out.png", cwd=tmp_path)
    assert "layer ConvolutionDepthWise not exists or registered" in done.stderr
    assert not (tmp_path / "out.png").exists()
