"""Networks of others, by spandrel: right at every size, or refused in one line."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.errors import (
    CheckpointError,
    PlanError,
    RunError,
    TraceError,
    UnsupportedNetworkError,
)
from paragon_export.graph.onnx_io import read_onnx_file
from paragon_export.graph.simplify import simplify
from paragon_export.graph.torch_export import export_by_torch
from paragon_export.graph.trace import trace
from paragon_export.networks.describe import LoadedNetwork, load_network
from paragon_export.networks.ops import reflected
from paragon_export.networks.spandrel import SpandrelArchitecture, forwards, library
from paragon_export.networks.spandrel import module as spandrel_module
from paragon_export.networks.spandrel.module import PaddedNetwork, ReferenceNetwork
from paragon_export.networks.spandrel.norms import RowwiseGroupNorm, replace_group_norms
from paragon_export.networks.spandrel.traits import traits_of
from paragon_export.parity.candidates import leaving_padding, open_onnx
from paragon_export.parity.check import check_parity
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.build import build_engine
from paragon_export.pipeline.export import export_onnx, make_onnx
from paragon_export.pipeline.results import ExportResult
from paragon_export.precision.half import to_precision
from paragon_export.specs.network import Port
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size, Tracer
from paragon_export.testing.foreign import QUICK, REFUSED, SLOW, foreign_checkpoint, foreign_network
from tests.conftest import RunHere
from tests.graph.test_trace import run, session


@pytest.fixture
def as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export the code of networks as it is: PyTorch's TorchScript exporter is wrong for some."""
    monkeypatch.setattr(forwards, "_substituted", lambda kind: None)


def network_of(name: str, folder: Path) -> LoadedNetwork:
    return load_network(foreign_checkpoint(folder / "net.pth", name))


def exported(network: LoadedNetwork, folder: Path, **changes: object) -> ExportResult:
    plan = ExportPlan(checkpoint=network.checkpoint.path, output=folder / "net.onnx")
    return make_onnx(network, replace(plan, **changes))


# --- parts of pictures ---------------------------------------------------------------------

OF_FULL_SIZE = [
    name for name, (package, _, _) in {**QUICK, **SLOW}.items() if traits_of(package).reduction == 1
]
"""Networks that are judged on parts of large pictures that begin anywhere."""


def smallest_map(network: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return the least height and width of the maps inside a network for an image of a size."""
    least = [size]

    def see(layer: nn.Module, inputs: Any, output: Any) -> None:
        is_map = isinstance(output, torch.Tensor) and output.dim() == 4
        if is_map and not isinstance(layer, nn.AdaptiveAvgPool2d) and output.shape[2:] != (1, 1):
            least.append((output.shape[2], output.shape[3]))

    for layer in network.modules():
        layer.register_forward_hook(see)
    with torch.no_grad():
        network(torch.rand(1, 3, *size))
    return min(h for h, _ in least), min(w for _, w in least)


@pytest.mark.parametrize("name", OF_FULL_SIZE)
def test_maps_of_these_networks_are_not_reduced(name: str, tmp_path: Path) -> None:
    """Except by a pixel unshuffle, to whose factor their images are padded."""
    network = network_of(name, tmp_path)
    assert isinstance(network.module, ReferenceNetwork)
    factor = network.module.requirements.multiple_of
    assert network.spec.excerpt_step in (factor, 0)
    height, width = smallest_map(network.module, (16, 24))
    assert height * factor >= 16
    assert width * factor >= 24


def test_reduced_maps_are_seen(tmp_path: Path) -> None:
    assert smallest_map(network_of("NAFNet", tmp_path).module, (16, 24)) < (16, 24)
    assert network_of("NAFNet", tmp_path).spec.excerpt_step % 4 == 0


# --- exports -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_exports_pass_their_verdict(name: str, tmp_path: Path) -> None:
    """At every size from 1x1 on, whatever size the network itself asks for."""
    result = exported(network_of(name, tmp_path), tmp_path)
    assert result.passed
    assert any(row.size == Size(1, 1) for row in result.parity.rows)
    (made,) = [remark for remark in result.remarks if "the graph was made by" in remark]
    assert made in result.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_exports_pass_their_verdict(name: str, tmp_path: Path) -> None:
    assert exported(network_of(name, tmp_path), tmp_path).passed


@pytest.mark.parametrize(
    "name", ["Compact", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ESRGAN", "SwinIR"))]
)
def test_half_precision_passes(name: str, tmp_path: Path) -> None:
    assert exported(network_of(name, tmp_path), tmp_path, precision=Precision.FP16).passed


@pytest.mark.parametrize(
    "tracer", [Tracer.TORCHSCRIPT, pytest.param(Tracer.DYNAMO, marks=pytest.mark.slow)]
)
def test_graphs_do_not_say_where_they_were_made(tracer: Tracer) -> None:
    """Exporters write files and lines of the machine, and names of their own, into nodes."""
    ports = (
        Port("input", ("batch", 3, "height", "width")),
        Port("output", ("batch", 3, "height", "width")),
    )
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()).eval()
    graph = export_by_torch(module, ports[:1], ports[1:], 20, tracer)
    assert [node.op_type for node in graph.graph] == ["Conv", "Relu"]
    for node in graph.graph:
        assert not node.doc_string
        assert not node.metadata_props
        assert all(not value.metadata_props for value in node.outputs)
    assert not graph.metadata_props


def test_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    """No trace of the machine, of the run or of the exporter's own names of axes."""
    first, second = (
        exported(network_of("ESRGAN x2", tmp_path), tmp_path, tracer=tracer).file.data
        for tracer in (Tracer.TORCHSCRIPT, Tracer.TORCHSCRIPT)
    )
    assert first == second
    assert str(Path(torch.__file__).parent).encode() not in first


@pytest.mark.usefixtures("as_published")
@pytest.mark.slow  # 40 s: PyTorch's dynamo exporter
def test_a_graph_that_fails_in_the_range_audit_is_not_the_end(tmp_path: Path) -> None:
    """TorchScript's graph of DITN runs at the size of the trace alone."""
    result = exported(network_of("DITN", tmp_path), tmp_path, precision=Precision.FP16)
    assert result.passed
    assert "the graph was made by PyTorch's dynamo exporter" in result.remarks


@pytest.mark.usefixtures("as_published")
@pytest.mark.slow  # 13 s: PyTorch's dynamo exporter
def test_the_slower_exporter_is_taken_where_the_other_is_wrong(tmp_path: Path) -> None:
    """DySample makes a constant of the size in TorchScript's exporter. The verdict sees it."""
    result = exported(network_of("RealPLKSR with DySample", tmp_path), tmp_path)
    assert result.remarks == (
        "the graph was made by PyTorch's dynamo exporter",
        "no ONNX lowering for arange (at arange)",
        "the graph of torchscript is not right at every size",
    )


@pytest.mark.usefixtures("as_published")
def test_an_export_that_is_right_at_no_size_is_not_written(tmp_path: Path) -> None:
    network = network_of("RealPLKSR with DySample", tmp_path)
    only = replace(network, spec=replace(network.spec, tracers=(Tracer.TORCHSCRIPT,)))
    result = export_onnx(only, tmp_path / "net.onnx")
    assert not result.passed
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.usefixtures("as_published")
@pytest.mark.slow  # 10 s: PyTorch's dynamo exporter
@pytest.mark.parametrize("command", [("audit",), ("plan", "--size", "32x32", "--card", "3060")])
def test_flows_that_do_not_judge_take_the_right_graph(
    command: tuple[str, ...], tmp_path: Path, run_here: RunHere
) -> None:
    """TorchScript's graph of DITN runs at one size; nothing else says so to these commands."""
    foreign_checkpoint(tmp_path / "net.pth", "DITN")
    name, *options = command
    done = run_here(name, "net.pth", *options)
    assert done.code == 0, done.stderr


def test_an_engine_is_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    network = network_of("Compact", tmp_path)
    largest = Size(48, 64)
    profile = Profile(smallest=Size(1, 1), optimal=largest, largest=largest)
    result = build_engine(network, tmp_path / "net.engine", targets=["sm86"], profile=profile,
                          precision="fp16")  # fmt: skip
    assert result.passed
    assert (tmp_path / "net.engine").exists()


def test_norms_stay_float32_in_half_precision() -> None:
    """In float16 the sums of a norm overflow, and TensorRT warns of it."""
    ports = (
        Port("input", ("batch", 3, "height", "width")),
        Port("output", ("batch", 3, "height", "width")),
    )
    module = nn.Sequential(
        RowwiseGroupNorm(nn.GroupNorm(3, 3)), nn.Conv2d(3, 3, 3, padding=1)
    ).eval()
    graph = export_by_torch(module, ports[:1], ports[1:], 20, Tracer.TORCHSCRIPT)
    half = to_precision(simplify(graph), Precision.FP16, Precision.FP32)
    types = {
        node.op_type: node.inputs[0].dtype for node in half.graph if node.inputs[0] is not None
    }
    assert types["ReduceMean"] == types["Sqrt"] == ir.DataType.FLOAT
    assert types["Conv"] == ir.DataType.FLOAT16


class Normalized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1)


def test_vectors_of_zeros_have_a_direction_in_half_precision() -> None:
    """The least length, 1e-12, is 0 in float16, and 0 / 0 is NaN."""
    ports = (
        Port("input", ("batch", 3, "height", "width")),
        Port("output", ("batch", 3, "height", "width")),
    )
    graph = simplify(
        export_by_torch(Normalized().eval(), ports[:1], ports[1:], 20, Tracer.TORCHSCRIPT)
    )
    half = to_precision(graph, Precision.FP16, Precision.FP32)
    pixels = np.zeros((1, 3, 2, 2), np.float32)
    assert np.array_equal(run(session(half), pixels), pixels)


# --- the reference -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ESRGAN x2", "SwinIR", "RCAN"])
def test_the_reference_is_what_spandrel_computes(name: str, tmp_path: Path) -> None:
    """Apart from the clamp to [0, 1]. The image that is given stays as it is."""
    network = network_of(name, tmp_path)
    descriptor = library.describe(library.find(network.checkpoint), network.checkpoint)
    image = np.random.default_rng(0).random((1, 3, 13, 18), dtype=np.float32)
    before = image.copy()
    found = build_reference(network).runner("float32").infer({"input": image})["output"]
    assert np.array_equal(image, before)
    expected = descriptor(torch.from_numpy(image)).numpy()  # RCAN writes into what it is given
    assert np.array_equal(found.clip(0, 1), expected)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_masks_have_the_type_of_the_run(dtype: str, tmp_path: Path) -> None:
    """SwinIR makes its masks without naming a dtype; PyTorch's default is what it was afterwards."""
    runner = build_reference(network_of("SwinIR", tmp_path)).runner(dtype)
    image = np.zeros((1, 3, 17, 9), np.float32)
    assert runner.infer({"input": image})["output"].shape == (1, 3, 34, 18)
    assert torch.get_default_dtype() is torch.float32


# --- the frame and the mends ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("extent", "padded"), [(1, 1), (1, 8), (2, 8), (5, 8), (8, 8), (9, 16), (3, 32)]
)
def test_rows_are_reflected_then_repeated(extent: int, padded: int) -> None:
    """Compared with PyTorch's own padding: reflection as far as it goes, then the last row."""
    image = torch.arange(1.0, extent + 1).reshape(1, 1, extent, 1)
    whole = min(padded - extent, extent - 1)
    expected = F.pad(image, (0, 0, 0, whole), "reflect")
    expected = F.pad(expected, (0, 0, 0, padded - extent - whole), "replicate")
    assert torch.equal(image.index_select(2, reflected(image, 2, padded)), expected)


def test_indices_lie_where_the_image_does() -> None:
    """The reference pads with them too, and may run on a GPU."""
    image = torch.empty(1, 3, 5, 6, device="meta")
    assert reflected(image, 2, 8).device == image.device


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (5, 4)])
def test_padding_without_a_branch_is_that_of_spandrel(mode: str, size: tuple[int, int]) -> None:
    library.library()
    helpers = importlib.import_module("spandrel.architectures.__arch_helpers.padding")
    patched = helpers.pad_to_multiple
    original = inspect.getclosurevars(patched).nonlocals["original"]
    image = torch.rand(2, 3, *size)
    assert torch.equal(patched(image, 4, mode=mode), original(image, 4, mode=mode))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 16), (17, 8), (33, 21)])
def test_the_frame_computes_what_the_reference_computes(
    size: tuple[int, int], tmp_path: Path
) -> None:
    module = network_of("SwinIR", tmp_path).module.double()
    assert isinstance(module, ReferenceNetwork)
    image = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    padded = module.padded()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            assert (padded(image) - module(image)).abs().max() < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


SYMBOLIC = ("SAFMN", "SAFMNBCIE", "FBCNN", "CUGAN 2x", "CUGAN 2x fast", "CUGAN 3x", "CUGAN 4x")
"""Networks that can be traced symbolically because their code is changed for the export."""

LARGE = ("FBCNN", "CUGAN 2x fast", "CUGAN 3x")
"""Those of them that have no small form: over a second each."""


def marked(names: Sequence[str]) -> list[Any]:
    """Put the large networks behind ``slow``."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in names]


SUBSTITUTED = (*SYMBOLIC, "DITN", "RealPLKSR with DySample", "FDAT with DySample")
"""Networks whose code is changed for the export, and for it alone."""


@pytest.mark.parametrize("name", marked(SUBSTITUTED))
def test_substituted_code_computes_what_the_reference_computes(name: str, tmp_path: Path) -> None:
    module = network_of(name, tmp_path).module.double()
    assert isinstance(module, ReferenceNetwork)
    padded = module.padded()
    assert any("forward" in vars(part) for part in padded.modules())
    assert not any("forward" in vars(part) for part in module.modules())
    image = torch.rand(
        2, 3, 33, 38, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        assert (padded(image) - module(image)).abs().max() < 1e-12


@pytest.mark.slow  # 5 s each
@pytest.mark.parametrize("name", ["DITN", "RealPLKSR with DySample", "FDAT with DySample"])
def test_substituted_code_is_right_by_torchscript(name: str, tmp_path: Path) -> None:
    network = network_of(name, tmp_path)
    assert exported(network, tmp_path, tracer=Tracer.TORCHSCRIPT).passed


@pytest.mark.parametrize("name", marked([*SYMBOLIC, "MixDehazeNet"]))
def test_substituted_code_is_traced_symbolically(name: str, tmp_path: Path) -> None:
    network, architecture = network_of(name, tmp_path), SpandrelArchitecture()
    inputs, outputs = architecture.ports(network.spec, video=False)
    graph = trace(architecture.exportable(network.module), inputs, outputs, 20)
    assert any(node.op_type == "Conv" for node in graph.graph)


def test_batches_are_counted_in_whole_numbers() -> None:
    """All functions that count them in floating point were replaced when spandrel was loaded."""
    library.library()
    arches = (
        "SwinIR.SwinIR",
        "Swin2SR.Swin2SR",
        "HAT.HAT",
        "DAT.DAT",
        "DRCT.drct_arch",
        "CRAFT.CRAFT",
    )
    for name in arches:
        package, module = name.split(".")
        arch = importlib.import_module(f"spandrel.architectures.{package}.__arch.{module}")
        function = getattr(arch, "window_reverse", None) or arch.windows2img
        assert "int" not in function.__code__.co_names, name
    windows = torch.rand(2 * 6, 4, 4, 3)
    swinir = importlib.import_module("spandrel.architectures.SwinIR.__arch.SwinIR")
    assert swinir.window_reverse(windows, 4, 8, 12).shape == (2, 8, 12, 3)


@pytest.mark.slow  # 6 s; that the batch is counted rightly is tested above
def test_an_unpatched_batch_is_seen_by_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original function makes a constant of the batch, and the error is silent elsewhere."""
    network = network_of("Swin2SR", tmp_path)
    from spandrel.architectures.Swin2SR.__arch import Swin2SR

    def original(windows: torch.Tensor, window_size: int, H: int, W: int) -> torch.Tensor:  # noqa: N803
        B = int(windows.shape[0] / (H * W / window_size / window_size))  # noqa: N806
        x = windows.view(B, H // window_size, W // window_size, window_size, window_size, -1)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(B, H, W, -1)

    monkeypatch.setattr(Swin2SR, "window_reverse", original)
    monkeypatch.setattr(spandrel_module, "replace_blocks", lambda network: 0)  # these count rightly
    result = exported(network, tmp_path, tracer=Tracer.TORCHSCRIPT)
    assert not result.passed


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (1, 8, 5, 7), (3, 8, 40, 24)])
def test_group_norms_by_rows_are_equal(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape, dtype=torch.float64)
    assert (RowwiseGroupNorm(norm)(x) - norm(x)).abs().max() < 1e-12


def test_all_group_norms_are_replaced() -> None:
    assert replace_group_norms(foreign_network("RealPLKSR")) == 2
    assert isinstance(PaddedNetwork(network_module("RealPLKSR")).model, nn.Module)


def network_module(name: str) -> ReferenceNetwork:
    from types import SimpleNamespace

    none = SimpleNamespace(multiple_of=1, minimum=0, square=False)
    return ReferenceNetwork(
        SimpleNamespace(
            model=foreign_network(name),
            _call_fn=lambda m, x: m(x),
            size_requirements=none,
            scale=2,
            architecture=SimpleNamespace(name=name),
        )
    )


# --- files ---------------------------------------------------------------------------------


def test_the_names_in_the_file_reach_spandrel(tmp_path: Path) -> None:
    """Old ESRGAN files begin every name with ``model.``, which is part of the names."""
    path = foreign_checkpoint(tmp_path / "net.pth", "ESRGAN")
    state = torch.load(path)
    assert all(name.startswith("model.") for name in state)
    spec = load_network(path).spec
    assert (spec.architecture, spec.scale, spec.variant) == ("ESRGAN", 4, "16nf 1nb")
    assert spec.generation == "spandrel"
    assert set(load_checkpoint(path).stored) == set(state)


def test_inspect_shows_what_spandrel_says(tmp_path: Path, run_here: RunHere) -> None:
    foreign_checkpoint(tmp_path / "net.pth", "SwinIR")
    done = run_here("inspect", "net.pth")
    assert done.code == 0
    assert "SwinIR small s16w8" in done.stdout
    assert "generation spandrel" in done.stdout
    assert "option" not in done.stdout
    assert done.stderr.startswith("note: SwinIR is loaded by spandrel ")


@pytest.mark.parametrize("name", REFUSED)
def test_known_networks_that_cannot_be_exported_are_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    architecture = name.split(" with ")[0]
    with pytest.raises(
        UnsupportedNetworkError, match=f"{architecture}, which spandrel loads, is not exported: "
    ):
        network_of(name, tmp_path)


def test_a_network_that_does_not_run_in_pytorch_is_one_error(tmp_path: Path) -> None:
    """Some ask for CUDA, others view tensors as their memory does not allow."""

    def call(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nsecond line")

    module = network_of("Compact", tmp_path).module
    assert isinstance(module, ReferenceNetwork)
    module.call = call
    with pytest.raises(
        UnsupportedNetworkError,
        match=r"Compact as spandrel.*\[1, 3, 4, 4\]: first line second line",
    ):
        module(torch.zeros(1, 3, 4, 4))


def test_unknown_networks_are_refused_by_both(tmp_path: Path, run_here: RunHere) -> None:
    torch.save({"a.weight": torch.zeros(3, 3)}, tmp_path / "net.pth")
    done = run_here("inspect", "net.pth")
    assert done.code != 0
    assert "supported are: ParagonSR2, MUNet, Glyph, and what spandrel loads" in done.stderr


def test_tensors_that_spandrel_cannot_load_are_an_error_in_one_line(tmp_path: Path) -> None:
    path = foreign_checkpoint(tmp_path / "net.pth", "Compact")
    state = torch.load(path)
    state["body.2.weight"] = state["body.2.weight"][:, :1]
    torch.save(state, path)
    with pytest.raises(
        CheckpointError, match="RealESRGAN Compact, and spandrel cannot load"
    ) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["60000", "9" * 30])
@pytest.mark.parametrize("name", ["Compact", "ESRGAN"])
def test_names_that_count_too_far_are_refused(name: str, number: str, tmp_path: Path) -> None:
    """Spandrel would build that many layers first: a small file could take gigabytes and minutes."""
    path = foreign_checkpoint(tmp_path / "net.pth", name)
    state = torch.load(path)
    last = list(state)[-1]
    state[".".join(number if p.isdecimal() else p for p in last.split("."))] = state.pop(last)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"counts to .* it is damaged"):
        load_network(path)


def test_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="has no temporal input"):
        exported(network_of("Compact", tmp_path), tmp_path, video=True)


def test_what_no_exporter_can_trace_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of("KBNet S", tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("torch.onnx.export", fails)
    with pytest.raises(
        TraceError, match=r"branches on a value.*torchscript exporter fails.*dynamo exporter fails"
    ) as caught:
        exported(network, tmp_path)
    assert "\n" not in str(caught.value)


def test_the_stand_in_for_torchvision_is_gone() -> None:
    """PyTorch's exporters look for torchvision, and fail on a module without a specification."""
    library.library()
    found = sys.modules.get("torchvision")
    assert found is None or found.__spec__ is not None


# --- files of others that leave padding to their caller ------------------------------------


def without_padding(name: str, folder: Path, **changes: object) -> tuple[Path, Path]:
    """Write a checkpoint, and the file that others make of it: one image, no padding."""
    network = network_of(name, folder)
    module = copy.deepcopy(network.module).model
    for path, value in changes.items():
        module.get_parameter(path.replace("__", ".")).data.mul_(value)
    traced = folder / "theirs.onnx"
    torch.onnx.export(
        module, (torch.rand(1, 3, 64, 96),), traced, dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {2: "h", 3: "w"}},
    )  # fmt: skip
    return network.checkpoint.path, traced


@pytest.fixture
def unpatched_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give spandrel its own padding, whose branch TorchScript's exporter makes a constant."""
    library.library()
    own = importlib.import_module("spandrel.architectures.__arch_helpers.padding")
    rrdb = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")
    monkeypatch.setattr(
        rrdb, "pad_to_multiple", inspect.getclosurevars(own.pad_to_multiple).nonlocals["original"]
    )


@pytest.mark.usefixtures("unpatched_padding")
def test_files_that_leave_padding_to_their_caller_are_judged_at_multiples(tmp_path: Path) -> None:
    """ESRGAN x2 runs at multiples of 2, and spandrel pads to multiples of 4."""
    report = check_parity(*paired(without_padding("ESRGAN x2", tmp_path)), at=())
    assert report.passed
    assert {(row.size.height % 4, row.size.width % 4) for row in report.rows} == {(0, 0)}
    assert any("multiples of 4; it is judged there only" in note for note in report.notes)


@pytest.mark.usefixtures("unpatched_padding")
def test_files_without_padding_are_judged_all_the_same(tmp_path: Path) -> None:
    wrong = without_padding("ESRGAN x2", tmp_path, model__0__bias=1.5)
    assert not check_parity(*paired(wrong), at=()).passed


@pytest.mark.usefixtures("unpatched_padding")
def test_own_files_must_take_every_size(tmp_path: Path) -> None:
    """Files that say that they are of this tool are not excused."""
    checkpoint, file = without_padding("ESRGAN x2", tmp_path)
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {"tool": "paragon-export 0.1.0"})
    onnx.save(model, file)
    assert not check_parity(checkpoint, [file], at=()).passed


class TakesMultiples:
    """A runner that fails at sizes that are no multiples."""

    name = "stub"

    def __init__(self, multiple: int) -> None:
        self.multiple = multiple

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if any(extent % self.multiple for extent in feeds["input"].shape[2:]):
            raise RunError("cannot reshape")
        return {"output": feeds["input"]}


@pytest.mark.parametrize(
    ("name", "takes", "found"),
    [
        ("ESRGAN x2", 1, 1),
        ("ESRGAN x2", 2, 4),  # spandrel pads to multiples of 4
        ("ESRGAN x2", 8, 8),
        ("ESRGAN x2", 5, 1),  # 64 is no multiple of it
        ("ESRGAN x2", 10**6, 1),
        ("Compact", 16, 16),
    ],
)
def test_the_least_multiple_is_found(name: str, takes: int, found: int, tmp_path: Path) -> None:
    network = network_of(name, tmp_path)
    path = tmp_path / "any.onnx"
    copied = [
        onnx.helper.make_tensor_value_info(port, onnx.TensorProto.FLOAT, [1, 3, "h", "w"])
        for port in ("x", "y")
    ]
    nodes = [onnx.helper.make_node("Identity", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", copied[:1], copied[1:])
    onnx.save(
        onnx.helper.make_model(
            graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)]
        ),
        path,
    )
    opened = open_onnx(read_onnx_file(path), build_reference(network).outputs)
    stub = replace(opened.candidate, runner=TakesMultiples(takes))
    judged = leaving_padding(replace(opened, candidate=stub), network.spec)
    assert judged.multiple == found


def paired(files: tuple[Path, Path]) -> tuple[Path, list[Path]]:
    checkpoint, file = files
    return checkpoint, [file]
