"""``distill``: a smaller variant, trained on what a network makes of photographs."""

from __future__ import annotations

from typing import Annotated

import typer

from paragon_export.cli.options import (
    CheckpointFile,
    Json,
    Output,
    default_name,
    existing,
    exit_on_failure,
    takes_options,
)
from paragon_export.cli.shrink.prune import Batch, CardName, Data, Device, Seed
from paragon_export.specs.plans import NetworkOptions

To = Annotated[str, typer.Option("--to", help="Variant to train: realtime, stream or photo.")]
Minutes = Annotated[float, typer.Option(min=0, help="Time of the training.")]
Steps = Annotated[
    int, typer.Option(min=0, help="Steps in place of minutes: the same bytes each time.")
]
TeacherShare = Annotated[
    float, typer.Option(help="Weight of the teacher's output; the rest is that of the photographs.")
]


@takes_options
def distill(
    teacher: CheckpointFile,
    to: To,
    data: Data,
    output: Output = None,
    minutes: Minutes = 60.0,
    steps: Steps = 0,
    teacher_share: TeacherShare = 0.5,
    seed: Seed = 0,
    batch: Batch = 8,
    device: Device = "cpu",
    card: CardName = "3060",
    *,
    options: NetworkOptions,
    json: Json = False,
) -> None:
    """Train a smaller variant on what a network makes of photographs. A run that was stopped goes on."""
    from paragon_export.cli.show.console import show
    from paragon_export.cli.shrink.show import smaller_table
    from paragon_export.networks.describe import read_network
    from paragon_export.pruning.distill import distill as distilled
    from paragon_export.pruning.train import Training

    target = output or default_name(teacher, ["to", to], ".safetensors")
    there = existing(target)
    training = Training(
        minutes=minutes, steps=steps, teacher_share=teacher_share, seed=seed, batch=batch,
        device=device,
    )  # fmt: skip
    result = distilled(
        read_network(teacher, options), target, to=to, data=data, training=training, card=card,
        named=output is not None,
    )  # fmt: skip
    show(json, result.to_json(), smaller_table, result, bool(there))
    exit_on_failure(result.passed)
