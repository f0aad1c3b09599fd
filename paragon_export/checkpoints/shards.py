"""Checkpoints in several files: an index names the file, or shard, of every tensor."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paragon_export.checkpoints.formats import (
    Content,
    check_sizes,
    header_fits,
    is_pickle,
    read_content,
)
from paragon_export.errors import CheckpointError
from paragon_export.system.reading import INDEX_SUFFIX, parse_json, read_bytes
from paragon_export.system.text import brief

MAX_INDEX_BYTES = 2**23

MAX_SHARDS = 256

_SHARD_NAME = re.compile(r"(.+)-\d{5}-of-(\d{5})\.(safetensors|bin)")
"""How the libraries that write shards name them: ``model-00001-of-00002.safetensors``."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """An index and the bytes of the shards that it names."""

    path: Path
    """The index."""
    weight_map: Mapping[str, str]
    """Tensor name to the name of its shard."""
    metadata: Mapping[str, str]
    """The texts, numbers and booleans in the metadata of the index; numbers as JSON text."""
    data: Mapping[str, bytes]
    """Shard name to its bytes, in the order of the names."""
    sha256: str
    """Of the text that lists the SHA-256 of the index and then of each shard, one a line. It does
    not depend on the file name of the index."""

    def content(self) -> Content:
        """Return the tensors of all shards.

        Raises:
            CheckpointError: If a shard is damaged or exceeds a limit, if a tensor is not in the
                shard that the index names or is in two shards, if a shard has a tensor that the
                index does not list, or if metadata contradict each other.
        """
        tensors: dict[str, np.ndarray] = {}
        metadata = dict(self.metadata)
        holder: dict[str, str] = {}
        for shard, data in self.data.items():
            content = read_content(self.path.parent / shard, data)
            if content.containers:
                raise CheckpointError(
                    f"{self.path}: shard {shard} holds its tensors under {content.containers[0]}; "
                    "expected tensors by name at the top level"
                )
            self._check_names(shard, content.tensors, holder)
            holder |= dict.fromkeys(content.tensors, shard)
            self._merge(metadata, shard, content.metadata)
            tensors |= content.tensors
            check_sizes(self.path, [(name, array.shape) for name, array in tensors.items()])
        return Content(tensors=tensors, metadata=metadata)

    def _check_names(
        self, shard: str, found: Mapping[str, np.ndarray], holder: Mapping[str, str]
    ) -> None:
        """Check that a shard holds the tensors that the index lists for it, and no others."""
        for name in found:
            if name in holder:
                raise CheckpointError(
                    f"{self.path}: tensor {name} is in two shards, {holder[name]} and {shard}; "
                    "save the checkpoint again"
                )
            if self.weight_map.get(name) != shard:
                other = self.weight_map.get(name)
                listed = f"lists it in {other}" if other else "does not list it"
                raise CheckpointError(
                    f"{self.path}: shard {shard} holds tensor {name}, and the index {listed}; "
                    "give the index that belongs to these shards"
                )
        for name, listed in self.weight_map.items():
            if listed == shard and name not in found:
                raise CheckpointError(
                    f"{self.path}: tensor {name} is not in {shard}, where the index lists it; "
                    "give the index that belongs to these shards"
                )

    def _merge(self, metadata: dict[str, str], shard: str, found: Mapping[str, str]) -> None:
        """Add the metadata of a shard; raise CheckpointError if it contradicts earlier ones."""
        for key, value in found.items():
            if metadata.setdefault(key, value) != value:
                raise CheckpointError(
                    f"{self.path}: metadata {brief(key)} is {brief(value)} in {shard} and "
                    f"{brief(metadata[key])} in an earlier file; save the checkpoint again"
                )


def is_index(path: Path, data: bytes) -> bool:
    """Return whether a file is to be read as an index: by its name, or as it begins as JSON.

    A checkpoint in one file is not, whatever its name.
    """
    if not data or is_pickle(data) or (data[8:9] == b"{" and header_fits(data)):
        return False
    return path.name.endswith(INDEX_SUFFIX) or data[:64].lstrip()[:1] == b"{"


def read_shards(path: Path, data: bytes, max_bytes: int) -> Shards:
    """Read the shards that an index names from the folder of the index.

    Args:
        path: The index.
        data: Its bytes.
        max_bytes: Of all shards together.

    Raises:
        CheckpointError: If it is no index, names a file outside its folder, or a shard cannot be
            read.
    """
    document = _document(path, data)
    weight_map = _weight_map(path, document)
    shards: dict[str, bytes] = {}
    for shard in sorted(set(weight_map.values())):
        what = f"shard of {path},"
        shards[shard] = read_bytes(path.parent / shard, max_bytes, what, CheckpointError)
        max_bytes -= len(shards[shard])
    digests = (hashlib.sha256(part).hexdigest() for part in (data, *shards.values()))
    return Shards(
        path=path,
        weight_map=weight_map,
        metadata=dict(_metadata(document.get("metadata"))),
        data=shards,
        sha256=hashlib.sha256("".join(f"{d}\n" for d in digests).encode()).hexdigest(),
    )


def _document(path: Path, data: bytes) -> dict[str, Any]:
    if len(data) > MAX_INDEX_BYTES:
        raise CheckpointError(
            f"{path}: an index of {len(data)} bytes; at most {MAX_INDEX_BYTES} are supported"
        )
    try:
        document = parse_json(data)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not an index of a checkpoint: expected JSON ({error}); download it again"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not an index of a checkpoint: expected a JSON object")
    return document


def _weight_map(path: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """Return the entry ``weight_map``: plain file names by tensor."""
    found = document.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{path} is not an index of a checkpoint: expected the entry weight_map with a file "
            f"name for each tensor, found {brief(found)}"
        )
    for name, shard in found.items():
        if not isinstance(shard, str) or not shard or re.search(r"[/\\:\0]|^\.", shard):
            raise CheckpointError(
                f"{path}: tensor {name} is listed in {brief(shard)}; expected the name of a file "
                "in the folder of the index"
            )
    shards = set(found.values())
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(
            f"{path} names {len(shards)} shards; at most {MAX_SHARDS} are supported"
        )
    return found


def _metadata(found: Any) -> Iterator[tuple[str, str]]:
    """Yield the plain entries. Its sizes are left out: writers disagree on what they count."""
    for key, value in found.items() if isinstance(found, dict) else ():
        if key not in ("total_size", "total_parameters") and isinstance(value, (str, int, float)):
            yield key, value if isinstance(value, str) else json.dumps(value)


def refuse_shard(path: Path) -> None:
    """Refuse a file whose name says that it is one of several shards.

    Raises:
        CheckpointError: Naming the index to give.
    """
    match = _SHARD_NAME.fullmatch(path.name)
    if match is None or int(match[2]) < 2:
        return
    index = path.with_name(f"{match[1]}.{match[3]}{INDEX_SUFFIX}")
    there = index.is_file()
    todo = f"give {index}" if there else f"give its index, and {index} does not exist: download it"
    raise CheckpointError(f"{path} is one of {int(match[2])} shards of a checkpoint; {todo}")
