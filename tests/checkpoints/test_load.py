"""Loading: every format and container in, hostile and damaged files out with one helpful line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.describe import load_network
from paragon_export.testing.tiny import (
    Tensors,
    save,
    tiny_checkpoint,
    tiny_hyperparameters,
    tiny_tensors,
)

TENSORS = tiny_tensors(tiny_hyperparameters("realtime", blocks=1))


def assert_same(found: Any, expected: Tensors) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def refusal(path: Path) -> str:
    """Load what must be refused; return the message, which is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def state(factor: float = 1.0) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(np.array(a * np.float32(factor))) for n, a in TENSORS.items()}


# --- what must load -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".onnx", ""])
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_content_decides_and_not_the_file_name(fmt: str, suffix: str, tmp_path: Path) -> None:
    """Either format loads under any file name, bit for bit."""
    path = save(TENSORS, tmp_path / f"model{suffix}", fmt=fmt)

    checkpoint = load_checkpoint(path)

    assert_same(checkpoint.tensors, TENSORS)
    assert checkpoint.path == path
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "container",
    [
        None,
        "params_ema",
        "params",
        "state_dict",
        "model",
        "net",
        "model.state_dict",
        "net.params",
        "generator",
        "net_g",
        "netG",
        "g_ema",
        "model_ema.state_dict",
        "ema",
        "weights",
        "checkpoint.model.state_dict",
    ],
)
def test_every_container_is_opened(container: str | None, tmp_path: Path) -> None:
    """Bare tensors, tensors under a trainer's key and under nested keys are the same tensors."""
    path = save(TENSORS, tmp_path / "c.pth", fmt="pth", container=container)

    assert_same(load_checkpoint(path).tensors, TENSORS)


@pytest.mark.parametrize("raw_first", [True, False])
@pytest.mark.parametrize(
    ("averaged", "raw"), [("params_ema", "params"), ("ema", "model"), ("g_ema", "g")]
)
def test_averaged_weights_are_preferred(
    averaged: str, raw: str, raw_first: bool, tmp_path: Path
) -> None:
    """Where a file holds averaged and raw weights, the averaged ones are taken."""
    path = tmp_path / "c.pth"
    both = [(raw, state(0.5)), (averaged, state())]
    torch.save(dict(both if raw_first else both[::-1]), path)

    checkpoint = load_checkpoint(path)

    assert_same(checkpoint.tensors, TENSORS)
    assert (checkpoint.container, checkpoint.also_in_file) == (averaged, (raw,))


def test_an_empty_container_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"params_ema": {}, "params": state()}, path)

    assert_same(load_checkpoint(path).tensors, TENSORS)


@pytest.mark.parametrize("prefix", ["network", "ema", "params_ema", "generator", "model.net_g"])
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_a_prefix_of_all_names_is_removed(prefix: str, fmt: str, tmp_path: Path) -> None:
    named = {f"{prefix}.{name}": array for name, array in TENSORS.items()}
    path = save(named, tmp_path / "c", fmt=fmt)

    assert_same(load_checkpoint(path).tensors, TENSORS)


@pytest.mark.parametrize(
    ("chosen", "beside", "named"),
    [
        ("generator", ["discriminator", "loss"], ()),
        ("net_g", ["net_d"], ()),
        ("net_g_ema", ["net_d", "net_g"], ("net_g",)),
        ("ema_model", ["online_model"], ("online_model",)),
    ],
)
def test_the_generator_of_a_training_module_is_taken(
    chosen: str, beside: list[str], named: tuple[str, ...], tmp_path: Path
) -> None:
    """The other parts are left out; weights of the same network among them are named."""
    tensors = {f"{chosen}.{name}": array for name, array in TENSORS.items()}
    for part in beside:
        tensors |= {f"{part}.{name}": 0.5 * array for name, array in TENSORS.items()}
    path = save(tensors, tmp_path / "c.pth", fmt="pth", container="state_dict")

    checkpoint = load_checkpoint(path)

    assert_same(checkpoint.tensors, TENSORS)
    assert checkpoint.also_in_file == named


def test_parts_of_a_network_are_kept(tmp_path: Path) -> None:
    """A network may have parts of such names itself: a part of another name leaves all as it is."""
    tensors = {"network.a": np.ones(2), "loss.a": np.ones(2), "head.a": np.ones(2)}
    path = save(tensors, tmp_path / "c.safetensors")

    assert set(load_checkpoint(path).tensors) == set(tensors)


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "download the file itself"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "unpack it"),
    ],
)
def test_what_is_no_checkpoint_is_named(start: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(start)

    assert word in refusal(path)


def test_an_archive_of_checkpoints_is_to_be_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("models/net_g.pth", b"weights")

    assert "unpack it" in refusal(path)


def test_a_trainers_other_entries_are_left_alone(tmp_path: Path) -> None:
    """Iteration counts and optimizer state beside the container do not matter."""
    path = tmp_path / "c.pth"
    document = {"iter": 5, "optimizer": {"lr": [1e-4]}, "params": OrderedDict(state())}
    torch.save(document, path)

    assert_same(load_checkpoint(path).tensors, TENSORS)


def test_legacy_pickles_load(tmp_path: Path) -> None:
    """Files from before PyTorch 1.6, which are not zip archives, load as well."""
    path = tmp_path / "c.pth"
    torch.save({"params": state()}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:2] != b"PK"

    assert_same(load_checkpoint(path).tensors, TENSORS)


def test_parameters_load_like_tensors(tmp_path: Path) -> None:
    """A state dict of parameters that want gradients is a state dict."""
    path = tmp_path / "c.pth"
    torch.save({n: torch.nn.Parameter(t) for n, t in state().items()}, path)

    assert_same(load_checkpoint(path).tensors, TENSORS)


def test_tensors_of_any_memory_layout_load(tmp_path: Path) -> None:
    """Channels-last and shared storage change nothing about the values."""
    path = tmp_path / "c.pth"
    tensors = state()
    name = "conv_in.weight"
    tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
    torch.save(tensors, path)

    assert_same(load_checkpoint(path).tensors, TENSORS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_wrapper_prefixes_are_removed(fmt: str, prefix: str, tmp_path: Path) -> None:
    """What DataParallel and torch.compile put in front of names is taken off."""
    tensors = {prefix + name: array for name, array in TENSORS.items()}

    assert_same(load_checkpoint(save(tensors, tmp_path / "c", fmt=fmt)).tensors, TENSORS)


def test_compiled_blocks_are_unwrapped_in_the_middle_of_a_name(tmp_path: Path) -> None:
    """A network whose blocks were compiled one by one has the names of the plain one."""
    tensors = {n.replace("blocks.0.", "blocks.0._orig_mod."): a for n, a in TENSORS.items()}
    assert tensors.keys() != TENSORS.keys()

    assert_same(load_checkpoint(save(tensors, tmp_path / "c.safetensors")).tensors, TENSORS)


@pytest.mark.parametrize(
    "name",
    ["submodule.weight", "head.module.weight", "module_list.0.weight", "a_orig_mod.weight"],
)
def test_names_that_merely_contain_a_prefix_stay(name: str, tmp_path: Path) -> None:
    """Prefixes are whole components of a name, never text inside one."""
    tensors = {name: np.ones(3, np.float32), "conv.weight": np.zeros(2, np.float32)}

    assert_same(load_checkpoint(save(tensors, tmp_path / "c.safetensors")).tensors, tensors)


@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_become_float32_exactly(dtype: torch.dtype, fmt: str, tmp_path: Path) -> None:
    """Half and bfloat16 weights are widened without any change of value; double is rounded once."""
    from safetensors.torch import save_file

    narrow = {name: tensor.to(dtype) for name, tensor in state().items()}
    path = tmp_path / "c"
    if fmt == "safetensors":
        save_file(narrow, path)
    else:
        torch.save(narrow, path)

    expected = {name: tensor.to(torch.float32).numpy() for name, tensor in narrow.items()}
    assert_same(load_checkpoint(path).tensors, expected)


def test_integers_and_flags_keep_their_type(tmp_path: Path) -> None:
    """What is not floating point is not turned into it."""
    tensors: Tensors = {
        "index": np.arange(6, dtype=np.int64).reshape(2, 3),
        "tracked": np.array(True),
        "weight": np.ones(1, np.float32),
    }
    for fmt in ("safetensors", "pth"):
        assert_same(load_checkpoint(save(tensors, tmp_path / fmt, fmt=fmt)).tensors, tensors)


def test_empty_tensors_load(tmp_path: Path) -> None:
    """A tensor without elements is read as such; whether it may be there is not decided here."""
    tensors = {"none": np.zeros((0, 3), np.float32), "weight": np.ones(1, np.float32)}
    for fmt in ("safetensors", "pth"):
        assert_same(load_checkpoint(save(tensors, tmp_path / fmt, fmt=fmt)).tensors, tensors)


def test_header_entries_are_kept(tmp_path: Path) -> None:
    """A safetensors file's metadata is handed on; a pickle has none."""
    metadata = {"upsampler_alpha": "0.25", "author": "någon"}
    path = save(TENSORS, tmp_path / "c.safetensors", metadata=metadata)

    assert load_checkpoint(path).metadata == metadata
    assert load_checkpoint(save(TENSORS, tmp_path / "c.pth", fmt="pth")).metadata == {}


@pytest.mark.parametrize("length", [*range(600, 600 + 256, 8), 0x4B50])
def test_any_header_length_is_a_safetensors_file(length: int, tmp_path: Path) -> None:
    """A header length whose bytes look like the start of a pickle or a zip archive is just that."""
    tensors = {"weight": np.arange(4, dtype=np.float32)}
    path = tmp_path / "c.safetensors"
    header = {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode().ljust(length)
    path.write_bytes(struct.pack("<Q", length) + text + tensors["weight"].tobytes())

    assert_same(load_checkpoint(path).tensors, tensors)


# --- what must be refused -----------------------------------------------------------------


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    """What is not there, and what is a folder, is said to be so."""
    assert "cannot read checkpoint" in refusal(tmp_path / "absent.safetensors")
    assert "directory" in refusal(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    """A file of no bytes is called empty."""
    path = tmp_path / "c.safetensors"
    path.touch()

    assert "empty" in refusal(path)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100, 5000])
def test_random_bytes_are_refused(count: int, tmp_path: Path) -> None:
    """Noise of any length is not a checkpoint, whatever magic bytes stand in front of it."""
    noise = np.random.default_rng(count).bytes(count)
    for index, magic in enumerate((b"", b"PK", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00")):
        path = tmp_path / f"{index}.pth"
        path.write_bytes((magic + noise)[: max(count, len(magic))])
        refusal(path)


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_truncated_files_are_refused(fmt: str, share: float, tmp_path: Path) -> None:
    """A download that stopped anywhere is refused, never loaded in part."""
    path = save(TENSORS, tmp_path / "c", fmt=fmt)
    data = path.read_bytes()
    path.write_bytes(data[: max(1, int(len(data) * share))])

    refusal(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_truncated_legacy_pickles_are_refused(share: float, tmp_path: Path) -> None:
    """The same for files from before PyTorch 1.6."""
    path = tmp_path / "c.pth"
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])

    refusal(path)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**62, 2**64 - 1])
def test_lying_header_lengths_are_refused(length: int, tmp_path: Path) -> None:
    """A safetensors header that claims an impossible length is refused without allocating it."""
    path = save(TENSORS, tmp_path / "c.safetensors")
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}x",
        b'{"w": 5}',
        b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}',
        b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"w": {"dtype": "C64", "shape": [2], "data_offsets": [0, 16]}}',
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"a": {}}}',
        b'{"\xff": 1}',
    ],
)
def test_nonsense_headers_are_refused(header: bytes, tmp_path: Path) -> None:
    """A header that is not what the format says is refused in one line."""
    path = tmp_path / "c.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))

    refusal(path)


class _Payload:
    """Unpickles into a call of ``os.system``."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch '{self.canary}'",)


def hostile_pickles(canary: Path) -> dict[str, bytes]:
    """Return files that run a command when a plain unpickler opens them."""
    document = {"params": {**state(), "evil": _Payload(canary)}}
    files: dict[str, bytes] = {}
    for name, zipped in (("zip", True), ("legacy", False)):
        buffer = io.BytesIO()
        torch.save(document, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        files[f"raw {protocol}"] = pickle.dumps(_Payload(canary), protocol)
    return files


HOSTILE = ["zip", "legacy", *(f"raw {p}" for p in range(2, pickle.HIGHEST_PROTOCOL + 1))]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pickle_with_code_in_it_runs_none_of_it(kind: str, tmp_path: Path) -> None:
    """A file that would run a command is refused and nothing has run; its call is named where it can be."""
    canary = tmp_path / "canary"
    path = tmp_path / "c.pth"
    path.write_bytes(hostile_pickles(canary)[kind])

    message = refusal(path)

    assert not canary.exists()
    assert "run code" in message
    assert "safetensors" in message
    if kind in ("zip", "legacy", "raw 2"):
        assert "system" in message


def test_the_hostile_pickle_is_really_hostile(tmp_path: Path) -> None:
    """The canary does appear when the same bytes go through a plain unpickler."""
    canary = tmp_path / "canary"

    pickle.loads(hostile_pickles(canary)["raw 2"])

    assert canary.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_pickles_of_the_oldest_protocols_run_nothing(protocol: int, tmp_path: Path) -> None:
    """A text pickle is not even looked into."""
    canary = tmp_path / "canary"
    path = tmp_path / "c.pth"
    path.write_bytes(pickle.dumps(_Payload(canary), protocol))

    refusal(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), float("-inf")], ids=["nan", "inf", "-inf"]
)
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_weights_that_are_not_finite_are_refused(bad: float, fmt: str, tmp_path: Path) -> None:
    """One value of one tensor is enough, and the tensor is named."""
    tensors = {name: array.copy() for name, array in TENSORS.items()}
    tensors["conv_mid.weight"][1, 2, 0, 0] = bad

    assert "conv_mid.weight" in refusal(save(tensors, tmp_path / "c", fmt=fmt))


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Names that differ by a prefix only cannot both be meant."""
    tensors = {**TENSORS, "module.conv_in.weight": TENSORS["conv_in.weight"]}

    message = refusal(save(tensors, tmp_path / "c.safetensors"))

    assert "conv_in.weight" in message
    assert "twice" in message


def test_an_onnx_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    """A model that was exported already is refused."""
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("a", "b")]
    node = helper.make_node("Identity", ["a"], ["b"])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), path)

    assert "not a checkpoint" in refusal(path)


def _cyclic() -> dict[str, Any]:
    document: dict[str, Any] = {}
    document["params"] = document
    return document


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"epoch": 3},
        {"params": {}},
        {"params": {"epoch": 3}},
        {"conv.weight": torch.ones(2), "epoch": 3},
        {"params": None},
        [torch.ones(2)],
        torch.ones(2),
        "text",
        None,
        _cyclic(),
    ],
    ids=str,
)
def test_a_pickle_without_a_state_dict_is_refused(document: Any, tmp_path: Path) -> None:
    """A file of PyTorch's that holds no tensors by name says what was found instead."""
    path = tmp_path / "c.pth"
    torch.save(document, path)

    refusal(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=["sparse", "meta"],
)
def test_tensors_without_plain_values_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    """Sparse and storage-less tensors are legal in a file and useless here."""
    path = tmp_path / "c.pth"
    torch.save({"conv.weight": tensor}, path)

    refusal(path)


def test_a_safetensors_file_without_tensors_loads_as_nothing(tmp_path: Path) -> None:
    """It is whole; that no network has no tensors is for the families to say."""
    assert load_checkpoint(save({}, tmp_path / "c.safetensors")).tensors == {}


def test_loading_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Reading changes nothing on disk."""
    path = tiny_checkpoint(tmp_path / "c.pth", fmt="pth", container="params")
    before = path.read_bytes()

    load_checkpoint(path)

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


# --- what trainers store beside the weights ------------------------------------------------


RECORDED = {"scale": 2, "upsampler_alpha": 0.0, "attention_mode": "sdpa"}


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_hyperparameters_of_trainner_redux_are_read(kind: str, tmp_path: Path) -> None:
    """As its ``save_network`` writes them: JSON in the header, or a dict beside the weights."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    path = tmp_path / f"c.{kind}"
    if kind == "pth":
        weights = {name: torch.from_numpy(array) for name, array in tensors.items()}
        torch.save({"metadata": RECORDED, "params": weights}, path)
    else:
        safetensors.numpy.save_file(tensors, path, metadata={"metadata": json.dumps(RECORDED)})

    option = load_network(path).spec.options["upsampler_alpha"]

    assert (option.value, option.source) == (0.0, "metadata")


@pytest.mark.parametrize("key", ["scale", "network_g", "metadata"])
def test_metadata_that_contradicts_the_tensors_is_refused(key: str, tmp_path: Path) -> None:
    """As an option file of another network is."""
    table = json.dumps({"type": "paragonsr2_photo"} if key == "network_g" else {"scale": 4})
    metadata = {key: "4" if key == "scale" else table}
    path = tiny_checkpoint(tmp_path / "c.safetensors", metadata=metadata)

    with pytest.raises(PlanError, match="the metadata of the checkpoint"):
        load_network(path)


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod.", "module.netG."])
def test_an_averaged_model_is_read(prefix: str, tmp_path: Path) -> None:
    """``torch.optim.swa_utils.AveragedModel`` counts in ``n_averaged``."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    saved = {f"{prefix}{name}": array for name, array in tensors.items()}
    saved["n_averaged"] = np.array(7, np.int64)
    safetensors.numpy.save_file(saved, tmp_path / "c.safetensors")

    assert set(load_checkpoint(tmp_path / "c.safetensors").tensors) == set(tensors)


def test_a_counter_without_averaged_weights_stays(tmp_path: Path) -> None:
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["n_averaged"] = np.array(7, np.int64)
    safetensors.numpy.save_file(tensors, tmp_path / "c.safetensors")

    assert "n_averaged" in load_checkpoint(tmp_path / "c.safetensors").tensors


def test_which_weights_are_used_is_said(tmp_path: Path) -> None:
    arrays = tiny_tensors(tiny_hyperparameters("realtime"))
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"params": weights, "params_ema": weights}, tmp_path / "both.pth")
    torch.save({"params": weights}, tmp_path / "one.pth")

    both, one = (load_network(tmp_path / f"{name}.pth").spec.notes for name in ("both", "one"))

    assert "the weights are those of params_ema; params of the file are not used" in both
    assert not any("the weights are those" in note for note in one)
