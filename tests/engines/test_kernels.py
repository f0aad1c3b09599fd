"""Kernels: what TensorRT-RTX compiled is read completely, and counted as worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paragon_export.engines.kernels.cards import (
    CARDS,
    LAUNCH_SECONDS,
    card_of_gpu,
    find_card,
    seconds,
)
from paragon_export.engines.kernels.compile import compile_kernels
from paragon_export.engines.kernels.count import GROUPS, Work, work_of
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.kernels.listing import Kernel, read_listing
from paragon_export.errors import EngineBuildError, PlanError
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.reports.plots.kernels import COLORS
from paragon_export.specs.types import Size

IN = (1, 8, 64, 64)
MAP = 8 * 64 * 64 * 2
"""Bytes of the input in float16."""

WEIGHTS = {
    "w": np.ones((16, 8, 3, 3), np.float16),
    "up": np.ones((8, 16, 4, 4), np.float16),
    "dw": np.ones((8, 1, 3, 3), np.float16),
    "m": np.ones((64, 32), np.float16),
    "rows": np.array([3, 1, 5, 60]),
    "columns": np.broadcast_to(np.arange(4), (1, 8, 64, 4)).copy(),
    "start": np.array([0]),
    "end": np.array([4]),
    "axis": np.array([3]),
}


def kernels_of(
    folder: Path, nodes: list[onnx.NodeProto], out: tuple[int, ...], *, dynamic: bool = False
) -> tuple[Kernel, ...]:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT16, [1, 8, "h", "w"] if dynamic else IN)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT16, [1, out[1], "h", "w"] if dynamic else out)],
        [numpy_helper.from_array(a, n) for n, a in WEIGHTS.items() if n in used],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return compile_kernels(read_onnx_file(path), "sm86", Size(64, 64) if dynamic else None)


def only(kernels: tuple[Kernel, ...], group: str) -> Work:
    (found,) = [w for w in map(work_of, kernels) if w.group == group]
    return found


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_convolution(tmp_path: Path, dynamic: bool) -> None:
    """It reads a map and its weights, writes a map, and sums 8 x 3 x 3 products an element."""
    nodes = [helper.make_node("Conv", ["input", "w"], ["output"], pads=[1] * 4)]
    kernels = kernels_of(tmp_path, nodes, (1, 16, 64, 64), dynamic=dynamic)
    found = only(kernels, "convolution")

    assert found.flops == 2 * 16 * 64 * 64 * 8 * 9
    assert found.written == 2 * MAP
    assert found.read == MAP + 16 * 8 * 9 * 2 + 8  # and two float32 factors
    assert [work_of(k).moved for k in kernels if work_of(k).group == "copy"] == [2 * MAP, 4 * MAP]


def test_a_depthwise_convolution(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["input", "dw"], ["output"], pads=[1] * 4, group=8)]

    assert only(kernels_of(tmp_path, nodes, IN), "convolution").flops == 2 * 8 * 64 * 64 * 9


def test_a_transposed_convolution(tmp_path: Path) -> None:
    """Every input goes to 4x4 places of 16 channels."""
    nodes = [
        helper.make_node("ConvTranspose", ["input", "up"], ["output"], strides=[2, 2], pads=[1] * 4)
    ]
    found = only(kernels_of(tmp_path, nodes, (1, 16, 128, 128)), "convolution")
    assert found.flops == 2 * 8 * 64 * 64 * 16 * 4 * 4


def test_a_product(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["input", "m"], ["output"])]
    found = only(kernels_of(tmp_path, nodes, (1, 8, 64, 32)), "product")

    assert (found.flops, found.written) == (2 * 512 * 32 * 64, 512 * 32 * 2)
    assert found.read == MAP + 64 * 32 * 2 + 8


def test_a_chain_is_one_kernel(tmp_path: Path) -> None:
    """Its input is used twice and read once; what is between the nodes is not written."""
    nodes = [
        helper.make_node("Mul", ["input", "input"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("Add", ["b", "input"], ["output"]),
    ]
    (kernel,) = kernels_of(tmp_path, nodes, IN)

    assert (work_of(kernel).read, work_of(kernel).written) == (MAP, MAP)


def test_a_gather_reads_what_it_takes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["input", "rows"], ["output"], axis=2)]
    (kernel,) = kernels_of(tmp_path, nodes, (1, 8, 4, 64))
    part = 8 * 4 * 64 * 2

    assert (work_of(kernel).read, work_of(kernel).written) == (part + 4 * 4, part)


def test_a_scatter_in_place_leaves_the_rest(tmp_path: Path) -> None:
    """It reads its updates and their positions, and writes as many elements as it has updates."""
    nodes = [
        helper.make_node("Relu", ["input"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Slice", ["p", "start", "end", "axis"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["u"]),
        helper.make_node("ScatterElements", ["p", "columns", "u"], ["output"], axis=3),
    ]
    (kernel,) = [k for k in kernels_of(tmp_path, nodes, IN) if "Scat" in k.name]
    updates = 8 * 64 * 4

    assert (work_of(kernel).read, work_of(kernel).written) == (updates * (2 + 8), updates * 2)


def test_a_call_of_a_library_is_a_kernel() -> None:
    """A concatenation may be one. It is launched, and moves what it reads and writes."""
    listing = LINE.replace("kgen", "runtime_function").replace("_Mul_", "_Conc_")
    (kernel,) = read_listing("Layers:\n" + listing)

    assert kernel.is_launch
    assert (work_of(kernel).group, work_of(kernel).moved) == ("copy", 2 * 8 * 2)


LINE = (
    "Name: __myl_Mul_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,8], "
    "Strides: [8,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format "
    "}], Constants: [], Outputs: [ { Name: y, Dimensions: [1,8], Strides: [8,1], StrideOrder: [1,0], "
    "Datatype: Half, Format: (Linear) Row major linear format }], TacticName: t, StreamId: 2, "
    "Metadata: [ONNX Layer: a][ONNX Layer: b]"
)


@pytest.mark.parametrize("operators", ["GathRedu", "GathMeanMul", "SlicSum"])
def test_a_gather_that_reduces_reads_more_than_it_writes(operators: str) -> None:
    listing = LINE.replace("__myl_Mul_", f"__myl_{operators}_")
    head, tail = listing.split("Outputs")
    shorter = tail.replace("[1,8]", "[1,1]").replace("[8,1]", "[1,1]")
    (kernel,) = read_listing(f"Layers:\n{head}Outputs{shorter}")

    assert (work_of(kernel).read, work_of(kernel).written) == (8 * 2, 2)


def test_flops_of_a_fused_product_are_not_zero() -> None:
    """The list does not tell the length of this one's sums."""
    (kernel,) = read_listing("Layers:\n" + LINE.replace("__myl_Mul_", "__myl_FcAdd_"))

    assert (work_of(kernel).group, work_of(kernel).flops) == ("product", None)


def test_a_fused_transposed_convolution_is_a_convolution() -> None:
    """Its name tells what it computes; the list has no weights here."""
    (kernel,) = read_listing("Layers:\n" + LINE.replace("__myl_Mul_", "__myl_DecoMulMax_"))

    assert (work_of(kernel).group, work_of(kernel).flops) == ("convolution", None)


def test_a_line_is_read() -> None:
    (kernel,) = read_listing("Layers:\n" + LINE)

    assert (kernel.nodes, kernel.stream, kernel.outputs[0].dims) == (("a", "b"), 2, (1, 8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kgen", "novelty"), ("Half", "Quarter"), ("StreamId: 2, ", ""), ("Constants", "Other"),
        ("[8,1]", "[8]"), ("[1,8]", "[-1,8]"), ("Name: x, ", ""), (LINE, LINE + "\nand more"),
        (LINE, ""),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_refused(old: str, new: str) -> None:
    """Nothing is skipped: the error quotes the line."""
    with pytest.raises(EngineBuildError, match="not understood"):
        read_listing("Layers:\n" + LINE.replace(old, new, 1))


def test_time_is_the_longer_of_moving_and_computing() -> None:
    card = CARDS["RTX 3060"]
    moving = Work(read=360_000_000, written=0, flops=0, group="copy")
    computing = Work(read=0, written=0, flops=25_500_000_000, group="convolution")

    assert seconds(card, moving) == pytest.approx(1e-3 + LAUNCH_SECONDS)
    assert seconds(card, computing) == pytest.approx(1e-3 + LAUNCH_SECONDS)


def test_an_estimate_adds_up_kernels() -> None:
    """Bytes, operations and the times of kernels of all streams; the longest group comes first."""
    card = CARDS["RTX 3060"]
    (kernel,) = read_listing("Layers:\n" + LINE)
    works = [
        Work(read=10, written=20, flops=0, group="copy"),
        Work(read=400_000_000, written=0, flops=7, group="convolution"),
        Work(read=1, written=2, flops=None, group="product"),
        Work(read=30, written=40, flops=0, group="copy"),
    ]
    kernels = [(replace(kernel, stream=i % 3), work) for i, work in enumerate(works)]
    found = Estimate.of(Size(8, 9), card, kernels)

    assert (found.bytes_read, found.bytes_written, found.flops) == (400_000_041, 62, 7)
    assert (found.launches, found.streams, found.kernels_of_unknown_flops) == (4, 3, 1)
    assert list(found.estimated_ms_by_group) == ["convolution", "copy", "product"]
    assert found.estimated_ms == pytest.approx(sum(seconds(card, work) for work in works) * 1e3)
    assert Estimate.from_document(json.loads(json.dumps(found.to_document()))) == found


def test_a_gpu_is_known_by_its_whole_name() -> None:
    """Other cards of a similar name have other figures."""
    assert card_of_gpu("NVIDIA GeForce RTX 4060") is CARDS["RTX 4060"]
    for name in ("NVIDIA GeForce RTX 4060 Ti", "NVIDIA GeForce RTX 4060 Laptop GPU", "", None):
        assert card_of_gpu(name) is None


def test_cards_are_found_by_number() -> None:
    assert find_card("rtx 3060") is find_card("3060")
    with pytest.raises(PlanError, match="RTX 4090"):
        find_card("1080")


def test_each_group_has_a_color() -> None:
    """The plot and its legend show the groups that have one."""
    assert tuple(COLORS) == GROUPS
