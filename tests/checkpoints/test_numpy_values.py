"""NumPy's numbers and arrays in a checkpoint are read; nothing else of NumPy's is."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.checkpoints.numpy_values import PlainType, UnusedArray, scalar
from paragon_export.checkpoints.pickle_scan import scan
from paragon_export.errors import CheckpointError
from paragon_export.testing.hostile import (
    DOUBLE,
    EIGHT_BYTES,
    archive,
    call,
    numbers,
    numpy_array,
    saved,
    state_of,
    text,
    whole,
)

NAMES = (b"numpy.core.multiarray", b"numpy._core.multiarray")
"""Of NumPy 1 and of NumPy 2, whose pickles differ in nothing else."""

NUMBERS = {
    "best_metric": np.float64(31.25),
    "epoch": np.int64(-7),
    "is_best": np.bool_(True),
    "loss": np.float32(0.5),
    "half": np.float16(0.25),
    "seed": np.uint8(200),
    "name": np.str_("né"),
}

ARRAYS = {
    "random": np.random.RandomState(0).get_state(),
    "columns": np.ones((2, 3), order="F"),
    "scalar": np.array(1.5),
}


def trainer_file(zipped: bool, module: bytes) -> bytes:
    """Return what a trainer saves, with the names of one version of NumPy."""
    weights = OrderedDict(weight=torch.arange(4.0))
    document = {"metrics": NUMBERS, "params": weights, "epoch": np.int64(3), **ARRAYS}
    data = saved(document, zipped=zipped)
    if not zipped:
        return named(data, module)
    with zipfile.ZipFile(io.BytesIO(data)) as stored:
        records = {n.partition("/")[2]: stored.read(n) for n in stored.namelist()}
    return archive(named(records.pop("data.pkl"), module), records)


def named(data: bytes, module: bytes) -> bytes:
    for name in NAMES:
        data = data.replace(b"c" + name + b"\n", b"c" + module + b"\n")
    assert data.count(b"c" + module + b"\n") >= 2
    return data


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("module", NAMES, ids=["NumPy 1", "NumPy 2"])
def test_numbers_and_arrays_in_a_checkpoint_are_read(
    module: bytes, zipped: bool, tmp_path: Path
) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(trainer_file(zipped, module))

    found = load_checkpoint(path)

    np.testing.assert_array_equal(found.tensors["weight"], np.arange(4, dtype=np.float32))
    assert found.extra["epoch"] == 3
    metrics = found.extra["metrics"]
    assert metrics == NUMBERS
    assert {type(value) for value in metrics.values()} == {float, int, bool, str}


def test_metadata_of_numpy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    document = {"params": {"weight": torch.ones(1)}, "metadata": {"alpha": np.float64(0.25)}}
    torch.save(document, path)

    assert load_checkpoint(path).metadata == {"metadata": '{"alpha": 0.25}'}


def test_arrays_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({"params": {"weight": np.ones(3)}}, path)

    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_checkpoint(path)


def test_a_byte_order_is_obeyed() -> None:
    kind = PlainType("i4", False, True)
    kind.__setstate__((3, ">", None, None, None, -1, -1, 0))

    assert scalar(kind, b"\0\0\0\2") == 2


SCALAR = "numpy.core.multiarray.scalar"


def with_state(*values: bytes) -> bytes:
    return DOUBLE + b"(" + b"".join(values) + b"tb"


def of_type(code: bytes) -> bytes:
    return call(SCALAR, call("numpy.dtype", code, b"\x89", b"\x88"), EIGHT_BYTES)


REFUSED = {
    "objects": of_type(text("O8")),
    "a record": of_type(text("V8")),
    "fields": of_type(text("f8,f8")),
    "a nested type": of_type(text("(1000000,1000000)f8")),
    "a long text": of_type(text("U99999999")),
    "a number of another machine": of_type(text("f16")),
    "a list as type": of_type(b"]"),
    "no type": call("numpy.dtype"),
    "no bytes": call(SCALAR, DOUBLE),
    "a text for bytes": call(SCALAR, DOUBLE, text("\0" * 8)),
    "a text for a type": call(SCALAR, text("f8"), EIGHT_BYTES),
    "more than a number": call(SCALAR, DOUBLE, EIGHT_BYTES, EIGHT_BYTES),
    "an order that is none": with_state(whole(3), text("?"), b"NNN"),
    "fields in the state": with_state(whole(3), text("<"), b"N", b"}", b"}"),
    "a short state": with_state(whole(3)),
    "a state that is no tuple": DOUBLE + b"}b",
    "another class": numpy_array(DOUBLE, EIGHT_BYTES, b"ctorch\nTensor\n"),
    "an array of objects": numpy_array(DOUBLE, b"]"),
    "an array of no type": numpy_array(text("f8"), EIGHT_BYTES),
    "a large array": call(
        "numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", numbers(2**40), EIGHT_BYTES
    ),
    "the class itself": call("numpy.ndarray", numbers(2**40)),
    "another function": call("numpy.core.multiarray.zeros", numbers(2**40)),
    "another module": call("numpy.core.numeric.scalar", DOUBLE, EIGHT_BYTES),
    "the state of a number": call(SCALAR, DOUBLE, EIGHT_BYTES) + b"}b",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused(name: str, tmp_path: Path) -> None:
    data = archive(state_of(REFUSED[name]))
    with pytest.raises(pickle.UnpicklingError, match="Unsupported"):
        scan(data)
    path = tmp_path / "c.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="would run code or build objects"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "form", [call(SCALAR, DOUBLE, EIGHT_BYTES), numpy_array(DOUBLE, EIGHT_BYTES)]
)
def test_the_forms_that_these_are_changed_from_are_read(form: bytes) -> None:
    scan(archive(state_of(form)))


@pytest.mark.parametrize("count", [0, 7, 9, 16])
def test_bytes_that_are_not_one_number_are_refused(count: int, tmp_path: Path) -> None:
    stored = call("_codecs.encode", text("\0" * count), text("latin1"))
    path = tmp_path / "c.pth"
    path.write_bytes(archive(state_of(call(SCALAR, DOUBLE, stored))))

    with pytest.raises(CheckpointError, match="not a complete PyTorch checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("code", ["O8", "V8", "f16", "U0", "", "f8,f8", ["f8"], None])
def test_the_type_alone_refuses_all_but_plain_ones(code: Any) -> None:
    with pytest.raises(ValueError, match="NumPy's type"):
        PlainType(code)


def test_what_an_application_allows_is_kept_and_not_used(tmp_path: Path) -> None:
    """NumPy's own functions are not called, though an application allows them, as PyTorch advises."""
    path = tmp_path / "c.pth"
    torch.save({"params": {"weight": torch.ones(1)}, "epoch": np.int64(3)}, path)
    before, called = get_safe_globals(), []
    module = np.int64(3).__reduce__()[0].__module__
    own = (called.append, f"{module}.scalar")
    try:
        add_safe_globals([own])
        assert load_checkpoint(path).extra["epoch"] == 3
        assert called == []
        assert set(get_safe_globals()) == {*before, own}
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def test_an_array_holds_nothing() -> None:
    made = UnusedArray()
    made.__setstate__((1, (2,), None, False, b""))
    assert vars(made) == {}
