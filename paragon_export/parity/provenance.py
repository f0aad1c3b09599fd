"""Find the checkpoint that an artifact was exported from, and report mismatches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paragon_export.checkpoints.load import Checkpoint, load_if_digest
from paragon_export.errors import ParagonExportError, PlanError
from paragon_export.graph.metadata import ModelMetadata
from paragon_export.graph.onnx_io import OnnxFile
from paragon_export.networks.describe import LoadedNetwork, describe, read_network
from paragon_export.networks.options import FLAGS
from paragon_export.parity.candidates import Artifact
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.text import brief


def network_of_source(
    file: OnnxFile, checkpoint: Path | None, options: NetworkOptions
) -> tuple[LoadedNetwork | None, tuple[str, ...]]:
    """Load the network that an ONNX file was exported from.

    Args:
        file: The ONNX file.
        checkpoint: Path of its checkpoint; None takes the one that the metadata names.
        options: Values that replace those that the metadata records.

    Returns:
        The network, or None if no checkpoint is found; and notes for the user.

    Raises:
        PlanError: If ``checkpoint`` is not the one that the file was exported from.
    """
    metadata = file.metadata
    resolved = with_recorded(options, metadata)
    if checkpoint is None:
        found = recorded_checkpoint(file.path, metadata)
        if found is None:
            return None, ("no checkpoint to judge the ONNX file against; give --checkpoint",)
        network = describe(found, resolved)
    else:
        network = read_network(checkpoint, resolved)
        sha256 = network.checkpoint.sha256
        if metadata.checkpoint_sha256 not in (None, sha256):
            raise PlanError(
                f"{file.path} was exported from a checkpoint with SHA-256 "
                f"{metadata.checkpoint_sha256}, and {checkpoint} has {sha256}; give the checkpoint "
                "it was exported from"
            )
    path = network.checkpoint.path
    note = f"judged against {path}, with the options that the ONNX file records"
    return network, (note, *_contradictions(network, options))


def network_of_artifact(
    artifact: Artifact, options: NetworkOptions
) -> tuple[LoadedNetwork, tuple[str, ...]]:
    """Load the network that an artifact was exported from, as its metadata names it.

    Returns:
        The network, and notes for the user.

    Raises:
        PlanError: If the metadata names no checkpoint, or that checkpoint is not found.
    """
    path, metadata = artifact.path, artifact.metadata
    name, sha256 = metadata.checkpoint, metadata.checkpoint_sha256
    if name is None or sha256 is None:
        raise PlanError(
            f"{path} does not record its checkpoint; give the checkpoint before the file"
        )
    checkpoint = recorded_checkpoint(path, metadata)
    if checkpoint is None:
        raise PlanError(
            f"{path} was exported from {brief(name)} with SHA-256 {brief(sha256)}, which is "
            "neither in its folder nor in the working folder; give the checkpoint before the file"
        )
    network = describe(checkpoint, with_recorded(options, metadata))
    note = f"judged against {checkpoint.path}, with the options that {path.name} records"
    return network, (note, *_contradictions(network, options))


def _contradictions(network: LoadedNetwork, options: NetworkOptions) -> list[str]:
    """Return a note for each option whose recorded value is not that of the checkpoint's metadata.

    ``network`` is described with the recorded options, ``options`` are those of the user alone.
    """
    try:
        own = describe(network.checkpoint, options).spec.options
    except ParagonExportError:
        return []  # without the recorded options it cannot be described
    used = network.spec.options
    return [
        f"{name} is {used[name].value}, as recorded at export; the checkpoint's own metadata says "
        f"{option.value}: give the option to decide"
        for name, option in own.items()
        if option.source == "metadata" and name in used and used[name].value != option.value
    ]


def recorded_checkpoint(artifact: Path, metadata: ModelMetadata) -> Checkpoint | None:
    """Return the checkpoint that the metadata names, if its SHA-256 is the recorded one.

    It is searched for in the folder of the artifact, then in the working folder. None if neither
    holds it.

    Raises:
        CheckpointError: If the file with that digest is not a checkpoint.
    """
    if metadata.checkpoint is None or metadata.checkpoint_sha256 is None:
        return None
    for folder in (artifact.parent, Path()):
        path = folder / Path(metadata.checkpoint).name
        with suppress(OSError, ValueError):  # a name too long, or with a NUL
            if path.is_file():
                found = load_if_digest(path, metadata.checkpoint_sha256)
                if found is not None:
                    return found
    return None


def with_recorded(options: NetworkOptions, metadata: ModelMetadata) -> NetworkOptions:
    """Add the option values that a file's metadata records, unless there is an option file.

    Added are the options that a flag can set and that the tensors do not determine. Flags of
    ``options`` replace recorded values.
    """
    recorded = {} if options.config else metadata.switches
    flags = {n: s.value for n, s in recorded.items() if n in FLAGS and s.source != "tensors"}
    return replace(options, flags={**flags, **options.flags})


def other_checkpoint(artifact: Artifact, checkpoint: Checkpoint) -> str:
    """Return a message if an artifact was exported from another checkpoint, else an empty one."""
    recorded = artifact.metadata.checkpoint_sha256
    if recorded in (None, checkpoint.sha256):
        return ""
    return (
        f"{artifact.path} was exported from a checkpoint with SHA-256 {recorded}, and "
        f"{checkpoint.path} has {checkpoint.sha256}"
    )


def changed_files(artifacts: Sequence[Artifact]) -> list[str]:
    """Return a note for each ONNX file that was changed after this tool wrote it."""
    return [
        f"{file.path} was changed after export: its content does not match its metadata"
        for file in artifacts
        if isinstance(file, OnnxFile) and file.was_changed
    ]
