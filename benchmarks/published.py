"""Published checkpoints: equal to their authors' outputs, and how good they are on Set5.

Needs files that are not part of this repository: the checkpoints, the original networks'
outputs for them (``manifest.json`` and ``.npz``), and Set5 as ``NAME_LR.png``/``NAME_HR.png``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from common import write
from PIL import Image

from paragon_export.assets import CHECKPOINT
from paragon_export.networks.describe import LoadedNetwork, read_network
from paragon_export.parity.metrics import luma
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import Runner
from paragon_export.specs.plans import NetworkOptions

BORDER_PX = 2


def main(
    checkpoints: Annotated[Path, typer.Option()],
    golden: Annotated[Path, typer.Option()],
    set5: Annotated[Path, typer.Option()],
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "network": "bicubic",
            "generation": "-",
            "max difference to the author's output": "-",
            "Set5 PSNR-Y dB": bicubic(set5),
        }
    ]
    for case in json.loads((golden / "manifest.json").read_text())["cases"]:
        path = checkpoints / Path(case["checkpoint"]).name
        switches = NetworkOptions(
            flags={
                n: v for n, v in case["kwargs"].items() if n in ("upsampler_alpha", "window_size")
            }
        )
        network = read_network(path, switches)
        checkpoint, variant = network.checkpoint, network.spec
        assert checkpoint.sha256 == case["checkpoint_sha256"], path
        runner = build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant)).runner(
            "float32"
        )
        pair = np.load(golden / case["file"])
        gap = np.abs(runner.infer({"input": pair["x"]})["output"] - pair["y"]).max()
        rows.append(
            {
                "network": f"{path.stem} (published)",
                "generation": variant.generation,
                "max difference to the author's output": f"{gap:.1e}",
                "Set5 PSNR-Y dB": score(runner, set5),
            }
        )
    network = read_network(CHECKPOINT, NetworkOptions())
    checkpoint, variant = network.checkpoint, network.spec
    shipped = build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant)).runner("float32")
    rows.append(
        {
            "network": "Realtime (shipped here)",
            "generation": variant.generation,
            "max difference to the author's output": "-",
            "Set5 PSNR-Y dB": score(shipped, set5),
        }
    )
    write("published", rows, ("network",))


def score(runner: Runner, folder: Path) -> float:
    """Mean PSNR on luma, output rounded to 8 bit, a border of two pixels left out."""
    values = []
    for low, high in pairs(folder):
        feeds = {"input": (np.asarray(low, np.float32) / 255).transpose(2, 0, 1)[None]}
        output = runner.infer(feeds)["output"][0].transpose(1, 2, 0)
        values.append(psnr_y_db((output.clip(0, 1) * 255).round(), np.asarray(high, np.float64)))
    return float(np.mean(values))


def bicubic(folder: Path) -> float:
    values = [
        psnr_y_db(np.asarray(low.resize(high.size, Image.Resampling.BICUBIC)), np.asarray(high))
        for low, high in pairs(folder)
    ]
    return float(np.mean(values))


def pairs(folder: Path) -> list[tuple[Image.Image, Image.Image]]:
    names = sorted(folder.glob("*_LR.png"))
    assert names, f"{folder} holds no NAME_LR.png"
    return [
        (Image.open(n).convert("RGB"), Image.open(str(n).replace("_LR", "_HR")).convert("RGB"))
        for n in names
    ]


def psnr_y_db(output: np.ndarray, truth: np.ndarray) -> float:
    gap = luma(output / 255.0) - luma(truth / 255.0)
    inside = gap[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX]
    return float(10 * np.log10(255**2 / np.mean(inside**2)))


if __name__ == "__main__":
    typer.run(main)
