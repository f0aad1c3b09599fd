"""``prune``: a checkpoint becomes a smaller one, judged on photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import (
    AcceptLoss,
    CheckpointFile,
    Json,
    Output,
    default_name,
    existing,
    exit_on_failure,
    takes_options,
)
from paragon_export.specs.plans import NetworkOptions

Data = Annotated[
    Path, typer.Option("--data", help="Folder of photographs: every fourth one is judged on.")
]
Keep = Annotated[
    float, typer.Option(help="Share of the blocks' work that is kept, above 0 and at most 1.")
]
Seed = Annotated[
    int,
    typer.Option(min=0, help="Seed of what is random: crops, patches and, of distill, weights."),
]
Finetune = Annotated[
    float, typer.Option(min=0, metavar="MINUTES", help="Train what remains for so long.")
]
Batch = Annotated[int, typer.Option(help="Patches of 48x48 pixels in a step of the training.")]
Device = Annotated[str, typer.Option(help="What trains: cpu or cuda.")]
CardName = Annotated[
    str, typer.Option("--card", help="Card that the time of an engine is estimated for, as 3060.")
]


@takes_options
def prune(
    checkpoint: CheckpointFile,
    data: Data,
    output: Output = None,
    keep: Keep = 0.7,
    seed: Seed = 0,
    finetune: Finetune = 0.0,
    batch: Batch = 8,
    device: Device = "cpu",
    card: CardName = "3060",
    accept_loss: AcceptLoss = False,
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Remove what matters least and fit the rest. The loss is measured; a large one is refused."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.shrink.show import smaller_table
    from paragon_export.networks.describe import read_network
    from paragon_export.pruning.prune import FINETUNE_RATE
    from paragon_export.pruning.prune import prune as pruned
    from paragon_export.pruning.train import Training

    target = output or default_name(checkpoint, ["pruned", f"{keep:g}"], ".safetensors")
    there = existing(target)
    training = Training(minutes=finetune, rate=FINETUNE_RATE, seed=seed, batch=batch, device=device)
    result = pruned(
        read_network(checkpoint, options), target, data=data, keep=keep, seed=seed, card=card,
        accept_loss=accept_loss, named=output is not None,
        finetune=training if finetune else None,
    )  # fmt: skip
    show(json, result.to_json(), smaller_table, result, bool(there))
    exit_on_failure(result.passed)
