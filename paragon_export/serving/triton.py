"""Triton: a model repository with one model, for its backends ONNX Runtime and TensorRT."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paragon_export
from paragon_export.errors import PlanError
from paragon_export.serving.model import Dims, ServedModel, Tensor, make_folder, read_served
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.atomic_write import encoded, write_files
from paragon_export.system.text import brief

MARK = "# Written by paragon-export "
"""First words of a configuration."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names of models."""

CONFIG = "config.pbtxt"

DEFAULT_BATCH = 8
"""Largest batch of a model of any batch."""

QUEUE_US = 2000
"""Time that a request waits for others of its size."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A value that is written without quotes: the name of an enumeration's member."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What was written."""

    folder: Path
    """Of the model, within the repository."""
    version: int
    config: str


def write_repository(
    model: Path,
    repository: Path,
    *,
    name: str = "",
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME,
    max_batch: int = DEFAULT_BATCH,
    instances: int = 1,
    sizes: Sequence[Size] = (),
) -> Repository:
    """Add a model to a Triton model repository, as the next version of its name.

    Args:
        model: The ONNX file, or an engine of TensorRT.
        repository: The folder that Triton is given; it is made if its parent exists.
        name: Of the model in Triton; empty for that of the file.
        backend: ONNX Runtime on the processor, or on CUDA.
        max_batch: Largest batch, if the model takes any.
        instances: Copies of the model that run at the same time.
        sizes: Sizes to run before the first request, as for ``read_served``.

    Raises:
        RunError, PlanError: If the model cannot be read or served, or a folder cannot be written.
    """
    if backend is OnnxBackend.OPENVINO:
        raise PlanError("--backend openvino: Triton's backends here are onnxruntime and cuda")
    served, name = read_served(model, sizes), name or _name_of(model)
    config = triton_config(
        served, name, on_gpu=served.is_engine or backend is OnnxBackend.CUDA, max_batch=max_batch,
        instances=instances,
    )  # fmt: skip
    folder = repository / name
    _check_ours(folder, name)
    version = 1 + max(versions_in(folder), default=0)
    for made in (repository, folder, folder / str(version)):
        make_folder(made)
    name_in_it = "model.plan" if served.is_engine else "model.onnx"
    write_files({folder / str(version) / name_in_it: served.data})
    write_files({folder / CONFIG: encoded(config)})
    return Repository(folder=folder, version=version, config=config)


def versions_in(folder: Path) -> list[int]:
    """Return the versions of a model."""
    return sorted(
        int(path.name) for path in folder.glob("*") if re.fullmatch(r"[1-9]\d*", path.name)
    )


def _check_ours(folder: Path, name: str) -> None:
    """Refuse a name that is none, and one of a model that this tool did not write."""
    if not NAME.fullmatch(name):
        raise PlanError(
            f"--name {brief(name)}: use letters, digits and _.-, and begin with one of the first two"
        )
    if not folder.exists():
        return
    config = folder / CONFIG
    if not config.is_file() or not config.read_bytes().startswith(MARK.encode()):
        raise PlanError(f"{folder} exists and was not written by this tool; choose another --name")


def _name_of(model: Path) -> str:
    """Return a name that Triton takes: a file's, with other characters replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", model.stem).lstrip("_.-")[:100] or "model"


def triton_config(
    served: ServedModel, name: str, *, on_gpu: bool, max_batch: int, instances: int
) -> str:
    """Return the text of ``config.pbtxt``.

    Requests are batched if the model takes batches; Triton puts those of one size together.
    """
    largest = max_batch if served.batch is None else served.batch if served.is_engine else 0
    is_batched = largest > 0 and all(
        t.dims[:1] == (None,) for t in (*served.inputs, *served.outputs)
    )
    largest = largest if is_batched else 0
    config: dict[str, Any] = {
        "name": name,
        "backend": "tensorrt" if served.is_engine else "onnxruntime",
        "max_batch_size": largest,
        "input": [_port(tensor, is_batched) for tensor in served.inputs],
        "output": [_port(tensor, is_batched) for tensor in served.outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [
            {"count": instances, "kind": Word(text="KIND_GPU" if on_gpu else "KIND_CPU")}
        ],
        "model_warmup": [_warm_up(served, size, is_batched) for size in served.sizes or (None,)],
    }
    if largest > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": QUEUE_US}
    return f"{MARK}{paragon_export.__version__}.\n" + _fields(config)


def _port(tensor: Tensor, is_batched: bool) -> dict[str, Any]:
    dims = tensor.dims[1:] if is_batched else tensor.dims
    return {
        "name": tensor.name,
        "data_type": Word(text=f"TYPE_{tensor.kind}"),
        "dims": [-1 if dim is None else dim for dim in dims],
    }


def _warm_up(served: ServedModel, size: Size | None, is_batched: bool) -> dict[str, Any]:
    """Return one request of zeros, at a size of pictures or of the items of a classifier."""
    return {
        "name": f"zeros {size}" if size else "zeros",
        "batch_size": 1,
        "inputs": [
            {
                "key": tensor.name,
                "value": {
                    "data_type": Word(text=f"TYPE_{tensor.kind}"),
                    "dims": _sized(tensor.dims, size)[1 if is_batched else 0 :],
                    "zero_data": True,
                },
            }
            for tensor in served.inputs
        ],
    }


def _sized(dims: Dims, size: Size | None) -> list[int]:
    """Return the extents of one request: batch 1, and height and width of ``size``."""
    sized = list(dims) if size is None else [*dims[:-2], size.height, size.width]
    return [1 if dim is None else dim for dim in sized]


def _fields(message: Mapping[str, Any], indent: str = "") -> str:
    """Return a message in protobuf's text format; a list of messages is a repeated field."""
    lines = []
    for name, value in message.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{name} {{\n{_fields(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [_fields({name: one}, indent) for one in value]
        else:
            lines.append(f"{indent}{name}: {_literal(value)}\n")
    return "".join(lines)


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return value.text if isinstance(value, Word) else json.dumps(value)
