"""Quality against speed: networks pruned to several shares of their work, without training.

The photographs are those of ``benchmarks/training/pictures.csv``, shrunk by the larger factor there;
``benchmarks/training/fetch_pictures.sh`` fetches them. Every fourth one is judged on and not fitted
on. Times of engines are estimates; those of the processor are medians of two networks in turn.
"""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from common import write
from PIL import Image

from paragon_export.engines.kernels.cards import find_card
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.pruning.checkpoint import checkpoint_of
from paragon_export.pruning.pictures import Pair, read_photographs
from paragon_export.pruning.prune import fitting_of, prunable, pruned_by
from paragon_export.pruning.report import Figures, figures_of, latencies
from paragon_export.pruning.statistics import measure

KEEPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)

TABLE = Path(__file__).parent / "training" / "pictures.csv"


def main(
    checkpoints: list[Path],
    pictures: Annotated[Path, typer.Option(help="Folder filled by fetch_pictures.sh.")],
    keep: Annotated[
        list[float] | None, typer.Option(help="Share of the work (repeatable).")
    ] = None,
    card: Annotated[str, typer.Option(help="Card of the estimates.")] = "3060",
) -> None:
    """Prune each checkpoint to each share, and write quality, size and times."""
    torch.set_num_threads(1)
    card = find_card(card).name
    with TemporaryDirectory() as folder:
        shrink(pictures, Path(folder))
        photographs = read_photographs(Path(folder))
    for path in checkpoints:
        network = load_network(path, upsampler_alpha=0.0)
        module, hp = network.module, prunable(network)
        assert isinstance(module, ParagonSR2)
        fitting, pairs = fitting_of(hp, photographs, 0), photographs.held_back(hp.scale)
        measured = {(one.block, one.kind): one for one in measure(module, fitting.crops, 0)}
        (ms,) = latencies([network])
        whole = figures_of(network, pairs, card, ms)
        for share in keep or KEEPS:
            if share == 1:
                found = whole, whole
            else:
                smaller, shape = pruned_by(module, hp, fitting, share, measured)
                data = checkpoint_of(smaller, shape, network, {})
                found = _both(network, whole, data, pairs, card)
            row = _row(network.spec.variant, share, *found)
            write(
                "pruning", [{**row, "photographs": len(pairs), "card": card}], ("network", "keep")
            )


def shrink(pictures: Path, folder: Path) -> None:
    """Write the photographs of the table into a folder, shrunk to lose the noise of JPEG."""
    with TABLE.open(encoding="utf-8", newline="") as table:
        for index, row in enumerate(csv.DictReader(table)):
            with Image.open(pictures / row["file"]) as opened:
                image = opened.convert("RGB")
            factor = max(map(int, row["shrink"].split()))
            size = image.width // factor, image.height // factor
            image = image.resize(size, Image.Resampling.LANCZOS)
            image.save(folder / f"{index:02d}_{row['use']}.png")


def _both(
    network: LoadedNetwork, whole: Figures, data: bytes, pairs: list[Pair], card: str
) -> tuple[Figures, Figures]:
    """Return the figures of a network, timed anew, and of a smaller one."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "smaller.safetensors"
        path.write_bytes(data)
        smaller = load_network(path)
        before_ms, after_ms = latencies([network, smaller])
        after = figures_of(smaller, pairs, card, after_ms)
    return Figures(**{**vars(whole), "cpu_ms": before_ms}), after


def _row(name: str, keep: float, before: Figures, after: Figures) -> dict[str, Any]:
    return {
        "network": name,
        "keep": keep,
        "PSNR-Y dB": after.psnr_y_db,
        "lost dB": before.psnr_y_db - after.psnr_y_db,
        "SSIM-Y": after.ssim_y,
        "parameters": after.parameters,
        "kFLOP a pixel": after.flops_per_pixel / 1e3,
        "estimated ms": after.estimated_ms,
        "of the estimate": after.estimated_ms / before.estimated_ms
        if after.estimated_ms and before.estimated_ms
        else None,
        "of the time on the processor": after.cpu_ms / before.cpu_ms,
    }


if __name__ == "__main__":
    typer.run(main)
