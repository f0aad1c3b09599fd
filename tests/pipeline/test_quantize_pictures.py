"""INT8 of super-resolution: what it costs is measured, and refused unless accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from paragon_export.assets import CHECKPOINT, PHOTOGRAPH
from paragon_export.networks.describe import LoadedNetwork, load_network, read_network
from paragon_export.parity.metrics import psnr_db
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.quantize_images import photographs
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.foreign import foreign_checkpoint
from tests.conftest import RunHere
from tests.int8 import KERNELS, largest_pair, session, weight_rows

pytestmark = pytest.mark.usefixtures("foreign_files_here")

ALPHA = ("--upsampler-alpha", "0")


def test_loss_is_told_and_refused_unless_accepted(run_here: RunHere, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    refused = run_here("onnx", CHECKPOINT, "--int8", *ALPHA, "-o", output, "--json")
    told = json.loads(refused.stdout)
    assert (refused.code, told["passed"], output.exists()) == (1, False, False)
    assert {row["failure"] for row in told["rows"]} == {"loss not accepted"}
    assert told["int8"]["photographs"] == 6
    # With any kernel 0.255 and 46.81 dB, as in float arithmetic between the quantization steps.
    assert 0.05 < told["int8"]["fidelity_lost_db"] < 0.4
    assert 46 < told["int8"]["psnr_to_float_db"] < 50
    assert "refused; --accept-loss writes the file" in refused.stderr

    accepted = run_here("onnx", CHECKPOINT, "--int8", "--accept-loss", *ALPHA, "-o", output)
    assert accepted.code == 0
    assert "the worst image on inputs held back" in accepted.stdout
    rows = list(weight_rows(onnx.load(output)))
    assert len(rows) == 15
    assert max(map(largest_pair, rows)) <= 2**15 - 1
    _check_all_kernels(output)


def _check_all_kernels(file: Path) -> None:
    """Whichever kernels ONNX Runtime takes, the picture is as far from float64's."""
    network = read_network(CHECKPOINT, NetworkOptions(flags={"upsampler_alpha": 0.0}))
    checkpoint, variant = network.checkpoint, network.spec
    picture = photographs(variant, None)[1].small
    exact = (
        build_reference(LoadedNetwork(checkpoint=checkpoint, spec=variant))
        .runner("float64")
        .infer({"input": picture})
    )
    found = [session(file, k).run(None, {"input": picture})[0] for k in KERNELS]
    far = [psnr_db(output - exact["output"]) for output in found]
    assert np.ptp(far) < 0.1, dict(zip(KERNELS, far, strict=True))


def test_photographs_are_the_users_own(run_here: RunHere, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    with Image.open(PHOTOGRAPH) as whole:
        for index in range(5):
            left = 32 * index
            whole.crop((left, 0, left + 192, 192)).save(folder / f"{index}.png")
    args = ("--int8", "--accept-loss", *ALPHA, "-o", tmp_path / "i.onnx", "--json")
    finished = run_here("onnx", CHECKPOINT, *args, "--calibrate", folder)
    assert finished.code == 0, finished.stderr
    assert json.loads(finished.stdout)["int8"]["photographs"] == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--accept-loss",), "need --int8"),
        (("--int8", "--calibrate", "absent"), "absent is not a folder of photographs"),
        (("--int8", "--calibrate", "few"), "holds 1 images of 192x192 pixels or more; give 4"),
        (("--int8", "--fp16"), "no other precision"),
    ],
)
def test_bad_requests_are_one_line(
    args: tuple[str, ...], reason: str, run_here: RunHere, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    Image.new("RGB", (200, 200)).save(few / "a.png")
    named = [str(few) if arg == "few" else arg for arg in args]
    refused = run_here("onnx", CHECKPOINT, *ALPHA, "-o", tmp_path / "i.onnx", *named)
    assert refused.code == 3
    assert reason in refused.stderr
    assert not (tmp_path / "i.onnx").exists()


@pytest.mark.parametrize("name", ["Compact", pytest.param("SPAN", marks=pytest.mark.slow)])
def test_networks_of_others_are_quantized(name: str, run_here: RunHere, tmp_path: Path) -> None:
    """The reported loss is that of the file, whichever kernels ONNX Runtime takes."""
    checkpoint, output = foreign_checkpoint(tmp_path / "net.pth", name), tmp_path / "int8.onnx"
    refused = run_here("quantize", checkpoint, "-o", output)
    assert (refused.code, output.exists()) == (1, False)
    accepted = run_here("quantize", checkpoint, "--accept-loss", "-o", output, "--json")
    assert accepted.code == 0, accepted.stderr
    reported = json.loads(accepted.stdout)["int8"]
    model = onnx.load(output)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    rows = list(weight_rows(model))
    assert len(rows) == len(convolutions) >= 5
    assert max(map(largest_pair, rows)) <= 2**15 - 1
    network = load_network(checkpoint)
    pictures = [pair.small for pair in photographs(network.spec, None)[1::2]]
    exact = [
        build_reference(network).runner("float64").infer({"input": p})["output"] for p in pictures
    ]
    for kernels in KERNELS:
        run = session(output, kernels).run
        gaps = [run(None, {"input": p})[0] - e for p, e in zip(pictures, exact, strict=True)]
        assert abs(min(map(psnr_db, gaps)) - reported["psnr_to_float_db"]) < 0.3
