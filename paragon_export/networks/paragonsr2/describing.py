"""Describing networks whose layout is that of the PyTorch network itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.options import RARER
from paragon_export.networks.paragonsr2.layout import Shapes, check_layout
from paragon_export.specs.network import ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief

if TYPE_CHECKING:
    from torch import nn


def assume(settings: Mapping[str, ResolvedOption], network: str, names: Iterable[str]) -> list[str]:
    """Say which of the named settings nobody gave."""
    return [
        f"{name} = {settings[name].value} is assumed, the default of {network}: the weights "
        f"cannot tell; give {_how(name)} or --config"
        for name in names
        if name in settings and settings[name].is_assumed
    ]


def _how(name: str) -> str:
    return f"--set {name}=VALUE" if name in RARER else f"--{name.replace('_', '-')}"


def no_effect(
    options: NetworkOptions, network: str, settings: Mapping[str, ResolvedOption]
) -> list[str]:
    """Say which flags the network does not have."""
    return [
        f"{name} has no effect on {network}"
        for name in options.flags
        if name not in settings and name != "scale"
    ]


def check_option_file(options: Mapping[str, Any], scale: int) -> None:
    """Refuse an option file that was written for another network or scale.

    Raises:
        PlanError: If it was.
    """
    told = options.get("type", "paragonsr2")
    if not isinstance(told, str) or not told.lower().startswith("paragonsr"):
        raise PlanError(
            f"the option file is for {brief(told)}, the checkpoint is a ParagonSR network; "
            "give the option file it was trained with"
        )
    if options.get("scale", scale) != scale:
        raise PlanError(
            f"the option file says scale {brief(options['scale'])}, the checkpoint's tensors say "
            f"{scale}; give the option file it was trained with"
        )


def check_tensors(
    checkpoint: Checkpoint,
    shapes: Shapes,
    build: Callable[[], nn.Module],
    ignored: Collection[str] = (),
) -> int:
    """Refuse a checkpoint that does not hold the tensors of the network that ``build`` makes.

    The network is made without memory for its weights (PyTorch's meta device). Tensors whose
    last name is ``ignored`` are not asked for.

    Returns:
        Elements of its parameters, frozen filters included, buffers not.

    Raises:
        CheckpointError: Listing missing, extra and wrongly shaped tensors.
    """
    import torch

    with torch.device("meta"):
        network = build()
    expected = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    wanted = {n: s for n, s in expected.items() if n.rpartition(".")[2] not in ignored}
    check_layout(checkpoint, shapes, wanted)
    return sum(parameter.numel() for parameter in network.parameters())


def load_strictly(
    network: nn.Module, checkpoint: Checkpoint, ignored: Collection[str] = ()
) -> nn.Module:
    """Load all tensors, those whose last name is ignored if they are there, and let layers bake.

    ``bake`` is what a layer of an older generation does once its weights are there, before it
    is run: kernels chosen, weights split.

    Raises:
        CheckpointError: If an ignored tensor is there and of another size than the network's.
    """
    import torch

    own = network.state_dict()
    tensors = {n: t for n, t in own.items() if n.rpartition(".")[2] in ignored}
    for name, array in checkpoint.tensors.items():
        if name.rpartition(".")[2] not in ignored:
            tensors[name] = torch.tensor(array)
        elif name in own:
            if array.size != own[name].numel():
                raise CheckpointError(
                    f"{checkpoint.path}: {name} is {list(array.shape)}, expected "
                    f"{list(own[name].shape)}"
                )
            tensors[name] = torch.tensor(array).reshape(own[name].shape)
    network.load_state_dict(tensors)
    for layer in list(network.modules()):
        bake = getattr(layer, "bake", None)
        if bake is not None:
            bake()
    return network
