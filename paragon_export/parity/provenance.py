"""Judge: files against a reference, on probes that suit them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from paragon_export.errors import PlanError
from paragon_export.graph.inspection import metadata_of
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.networks.describe import describe
from paragon_export.networks.options import FLAGS
from paragon_export.parity.candidates import Artifact, is_video
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import EnginePlan, NetworkOptions
from paragon_export.system.atomic_write import sha256_of

if TYPE_CHECKING:
    from paragon_export.checkpoints.load import Checkpoint


def reference_for(
    plan: EnginePlan, file: OnnxFile
) -> tuple[tuple[TorchReference, NetworkSpec] | None, tuple[str, ...]]:
    """Find the network that an ONNX source was made from, and say which it is.

    It is the plan's checkpoint, or else the file that the model's metadata names, beside the
    model or in the working folder, if its hash is the one told there. NetworkOptions that the plan
    does not give are those that the metadata records.

    Raises:
        PlanError: If the plan's checkpoint is not the one that the model was made from.
    """
    facts = metadata_of(file.model)
    told = facts.checkpoint_sha256
    path = plan.checkpoint or checkpoint_named(plan.source, facts)
    if path is None:
        return None, ("no checkpoint to judge the ONNX file against; give --checkpoint",)
    checkpoint, spec = describe(path, with_recorded(plan.options, facts))
    if told not in (None, checkpoint.sha256):
        raise PlanError(
            f"{plan.source} was made from a checkpoint with SHA-256 {told}, and {path} has "
            f"{checkpoint.sha256}; give the one it was made from"
        )
    video = is_video(file.model.graph.inputs)
    known = (build_reference(checkpoint, spec, video=video), spec)
    return known, (f"judged against {path}, with the switches that the ONNX file records",)


def checkpoint_named(onnx: Path, facts: ModelMetadata) -> Path | None:
    """Return a file of the recorded name whose bytes have the recorded hash; None if none has."""
    if facts.checkpoint is None or facts.checkpoint_sha256 is None:
        return None
    for folder in (onnx.parent, Path()):
        path = folder / Path(facts.checkpoint).name
        with suppress(OSError, ValueError):  # a name too long, not to be read, or with a NUL
            if path.is_file() and sha256_of(path) == facts.checkpoint_sha256:
                return path
    return None


def with_recorded(options: NetworkOptions, facts: ModelMetadata) -> NetworkOptions:
    """Fill in what a file's metadata records, unless an option file is to tell it.

    These are the switches that a flag can set and that tensors did not decide.
    """
    recorded = {} if options.config else facts.switches
    flags = {n: s.value for n, s in recorded.items() if n in FLAGS and s.source != "tensors"}
    return replace(options, flags={**flags, **options.flags})


def facts_of(file: Artifact) -> ModelMetadata:
    """Return what a file says of itself; of an engine what its manifest says of its ONNX file."""
    if isinstance(file, OnnxFile):
        return metadata_of(file.model)
    return file.metadata


def another_checkpoint(file: Artifact, checkpoint: Checkpoint) -> str:
    """Say that a file was made from another checkpoint than the reference; empty if not."""
    told = facts_of(file).checkpoint_sha256
    if told in (None, checkpoint.sha256):
        return ""
    return (
        f"{file.path} was made from a checkpoint with SHA-256 {told}, and {checkpoint.path} has "
        f"{checkpoint.sha256}"
    )


def changed_files(files: Sequence[Artifact]) -> list[str]:
    """Name the files that are no longer what this tool wrote."""
    return [
        f"{file.path} was changed after it was made: its content is not what its metadata records"
        for file in files
        if isinstance(file, OnnxFile) and file.was_changed
    ]
