"""What INT8 costs super-resolution networks: decibels on photographs that were not calibrated on.

Photographs are made smaller and upscaled again, in float and in INT8 (ONNX Runtime, weights per
channel); without ``--images``, pieces of the shipped photograph. Nothing is kept.

Writes ``int8.json``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from common import write

from paragon_export.assets import CHECKPOINT
from paragon_export.int8_pictures import export_int8_pictures
from paragon_export.plan import ExportPlan, Switches


def main(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(help="Default: the shipped one.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
) -> None:
    for checkpoint in checkpoints or [CHECKPOINT]:
        with TemporaryDirectory() as folder:
            plan = ExportPlan(
                checkpoint=checkpoint,
                output=Path(folder) / "int8.onnx",
                switches=Switches(flags={"upsampler_alpha": 0.0}),
            )
            _, figures = export_int8_pictures(plan, images, accept_loss=True)
        row = {
            "network": checkpoint.stem,
            "photographs": figures["photographs"],
            "float dB": figures["fidelity_float_db"],
            "INT8 dB": figures["fidelity_int8_db"],
            "lost dB": figures["fidelity_lost_db"],
            "INT8 to float dB (worst)": figures["psnr_to_float_db"],
        }
        write("int8", [row], ("network",))


if __name__ == "__main__":
    typer.run(main)
