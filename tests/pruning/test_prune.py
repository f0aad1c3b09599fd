"""Pruning: what remains fits, is judged on other photographs, and is refused if it loses much."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import paragon_export as pe
from paragon_export.assets import CHECKPOINT
from paragon_export.networks.paragonsr2.v9_v11.layout import HEADS, Widths, full_widths
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2
from paragon_export.pruning import prune as flow
from paragon_export.pruning.choose import Order
from paragon_export.pruning.pictures import read_photographs
from paragon_export.pruning.prune import prune
from paragon_export.pruning.refit import refit
from paragon_export.pruning.report import MAX_LOSS_DB
from paragon_export.pruning.statistics import branches_of, gram_of, measure
from paragon_export.pruning.surgery import _root, cut
from paragon_export.rewrite.rules import rewrite
from paragon_export.specs.types import Runtime
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.tiny import tiny_checkpoint, tiny_hyperparameters, tiny_tensors
from tests.conftest import RunHere

VARIANTS = ("realtime", "stream", "photo", "pro")


def _network(variant: str, **changes: Any) -> tuple[ParagonSR2, Any]:
    hp = tiny_hyperparameters(variant, **{"features": 16, "window_size": 8, **changes})
    module = ParagonSR2(hp).requires_grad_(False).eval()
    module.load_state_dict({n: torch.from_numpy(a) for n, a in tiny_tensors(hp).items()})
    return module, hp


def _crops(side: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, side, side, generator=generator) for _ in range(3)]


def _orders(module: ParagonSR2) -> tuple[dict[Any, Order], dict[Any, Any]]:
    measured = {(one.block, one.kind): one for one in measure(module, _crops(), 0)}
    orders = {
        key: flow.removal_order(one, HEADS if key[1] == "heads" else len(one.weight))
        for key, one in measured.items()
    }
    return orders, measured


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_nothing_reads_is_cut_without_a_change(variant: str) -> None:
    module, hp = _network(variant)
    for index, _, branch in branches_of(module):
        if index == 1 and branch.output is not None:
            columns = branch.output.weight.shape[1]
            branch.output.weight[:, columns // 2 :] = 0.0
    widths = [
        full_widths(16),
        Widths(hidden=16, heads=HEADS // 2 if hp.attention else 4, context=16),
    ]
    smaller, shape, _ = cut(module, hp, widths, *_orders(module))
    assert shape.widths == tuple(widths)
    x = _crops()[0][:, :, :13, :11]
    assert float((smaller(x) - module(x)).abs().max()) < 1e-5
    for runtime in Runtime:
        fast = rewrite(smaller, runtime).module
        assert float((fast(x) - module(x)).abs().max()) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_and_output_are_the_branch(variant: str) -> None:
    module, _ = _network(variant)
    x = torch.rand(1, 16, 19, 13)
    for _, _, branch in branches_of(module):
        if branch.features is not None and branch.output is not None:
            rows = branch.features(x).permute(0, 2, 3, 1)
            matrix = branch.output.weight.flatten(1)
            expected = (rows @ matrix.T + branch.output.bias).permute(0, 3, 1, 2)
            assert torch.allclose(branch.compute(x), expected, atol=1e-5)


def test_blocks_left_out_give_an_ordinary_network() -> None:
    module, hp = _network("stream", blocks=3)
    none = Widths(hidden=0, heads=4, context=16)
    smaller, shape, blocks = cut(
        module, hp, [full_widths(16), none, full_widths(16)], *_orders(module)
    )
    assert (shape.widths, shape.groups, shape.blocks, blocks) == ((), 1, 2, [0, 2])
    x = torch.rand(1, 3, 9, 8)
    state = module.conv_in(x)
    for index in (0, 2):
        state = module.body[0].blocks[index](state)
    assert torch.allclose(smaller.upscale(x, smaller.conv_in(x)),
                          module.base(x) + module.detail_gain * module.conv_out(
                              module.up(module.conv_mid(state))), atol=1e-6)  # fmt: skip


def test_empty_blocks_of_photo_keep_the_shift_of_the_others() -> None:
    module, hp = _network("photo", blocks=3)
    none = Widths(hidden=0, heads=0, context=16)
    smaller, _, _ = cut(module, hp, [full_widths(16), none, full_widths(16)], *_orders(module))
    shifts = [block.attn.shift for block in smaller.body[0].blocks if block.has_attention]
    assert shifts == [0, 0]
    x = torch.rand(1, 16, 16, 16)
    assert torch.equal(smaller.body[0].blocks[1](x), x)


def test_context_of_low_rank_is_compressed_without_a_change() -> None:
    module, hp = _network("stream", features=16)
    block: Any = module.body[0].blocks[1]
    block.fuse.weight[8:] = torch.einsum("ij,jkyx->ikyx", torch.randn(8, 8), block.fuse.weight[:8])
    narrow = Widths(hidden=32, heads=4, context=8)
    smaller, _, _ = cut(module, hp, [full_widths(16), narrow], *_orders(module))
    x = _crops()[0]
    # The trained borders as well: what is left of the mean is in biases.
    assert float((smaller(x) - module(x)).abs().max()) < 1e-3


@pytest.mark.parametrize("bias", [0.0, 3.0])
@pytest.mark.parametrize("dead", [slice(None), slice(0, 12)])
def test_constant_context_is_compressed_without_a_change(dead: slice, bias: float) -> None:
    """The variance of constant channels is rounding error, which may be negative."""
    module, hp = _network("stream", features=16)
    block: Any = module.body[0].blocks[1]
    block.fuse.weight[dead] = 0.0
    block.fuse.bias[dead] = bias * torch.linspace(-1, 1, 16)[dead]
    narrow = Widths(hidden=32, heads=4, context=8)
    smaller, _, _ = cut(module, hp, [full_widths(16), narrow], *_orders(module))
    x = _crops()[0]
    assert float((smaller(x) - module(x)).abs().max()) < 1e-3


def test_a_covariance_of_rounding_errors_has_a_root() -> None:
    """Of 64 constant channels, as in Stream of published size."""
    generator = torch.Generator().manual_seed(0)
    constant = 3 * torch.randn(1, 64, 1, 1, generator=generator)
    gram = gram_of(constant + 1e-7 * torch.randn(2, 64, 64, 64, generator=generator))
    mean, squares = gram[-1, :64], gram[:64, :64]
    covariance, square = squares - torch.outer(mean, mean), squares.diagonal().mean()
    assert torch.linalg.eigvalsh(covariance)[0] < -1e-6 * square
    root = _root(covariance, square)
    assert (root.diagonal() > 0).all()
    assert (root @ root.T - covariance).abs().max() < 0.01 * square


@pytest.mark.parametrize("variant", VARIANTS)
def test_fitting_brings_the_picture_closer(variant: str) -> None:
    module, hp = _network(variant, blocks=3)
    heads = 2 if hp.attention else 4
    widths = [full_widths(16), Widths(hidden=8, heads=heads, context=8 if variant == "stream" else 16),
              full_widths(16)]  # fmt: skip
    crops = _crops(32)
    smaller, _, blocks = cut(module, hp, widths, *_orders(module))
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(9))
    before = float((smaller(x) - module(x)).square().mean())
    refit(module, smaller, blocks, crops)
    after = float((smaller(x) - module(x)).square().mean())
    assert after < 0.9 * before


def test_what_remains_takes_over_from_its_copies() -> None:
    module, hp = _network("realtime")
    block: Any = module.body[0].blocks[1]
    for layer in (block.conv1, block.dw):
        layer.weight[16:], layer.bias[16:] = layer.weight[:16], layer.bias[:16]
    narrow = Widths(hidden=16, heads=4, context=16)
    smaller, _, blocks = cut(module, hp, [full_widths(16), narrow], *_orders(module))
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(9))
    before = float((smaller(x) - module(x)).square().mean())
    refit(module, smaller, blocks, _crops(32))
    assert float((smaller(x) - module(x)).square().mean()) < 1e-5 * before


def test_fitting_a_network_to_itself_changes_nothing() -> None:
    module, hp = _network("photo")
    same, shape, blocks = cut(module, hp, [full_widths(16)] * 2, *_orders(module))
    assert shape == replace(hp, widths=())
    refit(module, same, blocks, _crops())
    x = _crops()[0]
    assert float((same(x) - module(x)).abs().max()) < 1e-4


def test_photographs_judged_on_are_not_fitted_on(folder: Path) -> None:
    photographs = read_photographs(folder)
    assert (len(photographs.fitted), len(photographs.judged)) == (6, 2)
    fitted = {image.tobytes() for image in photographs.fitted}
    assert not any(image.tobytes() in fitted for image in photographs.judged)
    first, again, other = (
        [pair.large.tobytes() for pair in photographs.crops(2, 32, 12, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(first) == 12


def test_a_photograph_counts_once(folder: Path, tmp_path: Path) -> None:
    """A copy would be fitted on and judged on."""
    for index in range(8):
        copied = folder / f"{0 if index == 7 else index}.png"
        (tmp_path / f"{index}.png").write_bytes(copied.read_bytes())
    photographs = read_photographs(tmp_path)
    assert (len(photographs.fitted), len(photographs.judged)) == (6, 1)
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes((folder / f"{index % 3}.png").read_bytes())
    with pytest.raises(pe.PlanError, match="holds 3 different pictures"):
        read_photographs(tmp_path)


@pytest.fixture
def few_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "CROPS", 6)
    monkeypatch.setattr("paragon_export.pruning.report.TIMED_RUNS", 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "photo.safetensors"
    return tiny_checkpoint(path, "photo", features=16, metadata={"window_size": "16"})


@pytest.mark.usefixtures("few_crops")
def test_pruned_checkpoint_is_written_loaded_and_exported(
    checkpoint: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paragon_export.pruning.report._estimate", lambda network, card: None)
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    results = [prune(checkpoint, file, data=folder, keep=0.6, accept_loss=True) for file in files]
    result = results[0]
    assert files[0].read_bytes() == files[1].read_bytes() == result.data
    assert result.after.parameters < result.before.parameters
    assert result.after.flops_per_pixel < result.before.flops_per_pixel
    assert result.photographs == 2
    loaded = pe.load_network(files[0])
    assert loaded.spec.structure["hyperparameters"].widths
    assert any(note.startswith("pruned: ") for note in loaded.spec.notes)
    exported = pe.export_onnx(loaded, tmp_path / "a.onnx", static="16x16")
    assert exported.passed
    with pytest.raises(pe.UnsupportedNetworkError, match="was pruned before"):
        prune(files[0], tmp_path / "c.safetensors", data=folder)


@pytest.mark.usefixtures("few_crops")
def test_loss_is_refused_unless_accepted(
    folder: Path, tmp_path: Path, run_here: RunHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("paragon_export.pruning.report._estimate", lambda network, card: 2.0)
    output = tmp_path / "out.safetensors"
    given = ("prune", CHECKPOINT, "--data", folder, "--keep", "0.2", "-o", output)

    def spoiled(*arguments: Any) -> None:
        arguments[1].conv_mid.bias += 0.5

    monkeypatch.setattr(flow, "refit", spoiled)
    refused = run_here(*given, "--json")
    told = json.loads(refused.stdout)
    assert (refused.code, told["passed"], output.exists()) == (1, False, False)
    assert told["lost_db"] > MAX_LOSS_DB
    shown = run_here(*given)
    assert "dB lost; at most 0.2 are allowed; --accept-loss writes the file" in shown.stdout
    assert "engine ms" in shown.stdout
    accepted = run_here(*given, "--accept-loss")
    assert (accepted.code, output.exists()) == (0, True)
    assert f"wrote {output}" in accepted.stdout


def test_bad_input_is_one_line(
    checkpoint: Path, folder: Path, tmp_path: Path, run_here: RunHere
) -> None:
    output, empty, few = tmp_path / "out.safetensors", tmp_path / "empty", tmp_path / "few"
    empty.mkdir()
    few.mkdir()
    for index in range(3):
        (few / f"{index}.png").write_bytes((folder / f"{index}.png").read_bytes())
    glyph = small_checkpoint(tmp_path / "glyph.pt")
    gray = tiny_checkpoint(tmp_path / "gray.safetensors", "realtime", in_channels=1)
    cases = {
        "is not a folder": (checkpoint, tmp_path / "none"),
        "holds no picture": (checkpoint, empty),
        "holds 3 different pictures of 128x128": (checkpoint, few),
        "prune is for Realtime": (glyph, folder),
        "prune is for RGB": (gray, folder),
    }
    for reason, (source, data) in cases.items():
        failed = run_here("prune", source, "--data", data, "-o", output)
        assert failed.code == 3, reason
        assert reason in failed.stderr
        assert failed.stderr.count("\n") == 1
    wrong = {
        "give a share above 0": ("--keep", "0"),
        "is not known; use one of": ("--card", "none"),
        "is also the source": ("-o", checkpoint),
        "must end in .safetensors": ("-o", tmp_path / "out.onnx"),
        "--seed 9223372036854775808: give a number from 0": ("--seed", str(2**63)),
    }
    for reason, arguments in wrong.items():
        failed = run_here("prune", checkpoint, "--data", folder, "-o", output, *arguments)
        assert (failed.code, failed.stderr.count("\n")) == (3, 1), failed.stderr
        assert reason in failed.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.usefixtures("few_crops")
def test_a_network_that_computes_nan_is_refused(
    folder: Path, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever loss is accepted, by both commands."""
    monkeypatch.setattr("paragon_export.pruning.report._estimate", lambda network, card: None)

    bias = 3e38  # infinite after a convolution, whose sums are no numbers then

    def spoil(module: ParagonSR2) -> None:
        module.conv_mid.bias[:] = bias

    monkeypatch.setattr(flow, "refit", lambda trained, smaller, *rest: spoil(smaller))
    monkeypatch.setattr(
        "paragon_export.pruning.distill.train", lambda network, *rest: spoil(network)
    )
    output = tmp_path / "out.safetensors"
    for arguments in (("prune", "--accept-loss"), ("distill", "--to", "realtime", "--steps", "1")):
        command, *rest = arguments
        done = run_here(command, CHECKPOINT, "--data", folder, "-o", output, *rest)
        assert done.code == 1
        assert "FAILED: an output is not a number" in done.stdout
        assert "--accept-loss" not in done.stdout
        bias = float("nan")
        done = run_here(command, CHECKPOINT, "--data", folder, "-o", output, *rest)
        assert (done.code, done.stderr.count("\n")) == (3, 1)
        assert "the smaller network has NaN or infinity in conv_mid.bias" in done.stderr
        bias = 3e38
        assert not output.exists()
