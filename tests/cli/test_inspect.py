"""``inspect``: what a checkpoint is, as one JSON object or as a table, notes apart."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from paragon_export.assets import CHECKPOINT
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import RunHere

KEYS = {
    "family", "generation", "variant", "scale", "in_channels", "out_channels", "parameters",
    "sha256", "switches",
}  # fmt: skip


def test_the_shipped_checkpoint_is_what_it_says(run_here: RunHere) -> None:
    """The shipped file carries its own alpha, so nothing is assumed and nothing is noted."""
    done = run_here("inspect", CHECKPOINT, "--json")

    assert done.code == 0
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["family"] == "ParagonSR2"
    assert (found["generation"], found["variant"], found["scale"]) == ("v11", "realtime", 2)
    assert (found["in_channels"], found["out_channels"]) == (3, 3)
    assert found["sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert found["switches"]["upsampler_alpha"] == {"value": 0.0, "source": "metadata"}


def test_the_shipped_checkpoint_is_small() -> None:
    """It stays under the 300 KB that a package may carry."""
    assert CHECKPOINT.stat().st_size < 300_000


@pytest.mark.parametrize("variant", ["realtime", "photo", "pro"])
def test_json_is_alone_on_stdout(
    variant: str, tiny_checkpoints: dict[str, Path], run_here: RunHere
) -> None:
    """Stdout is one JSON object from first to last byte; what was assumed stands on stderr."""
    done = run_here("inspect", tiny_checkpoints[variant], "--json")

    found, end = json.JSONDecoder().raw_decode(done.stdout)
    assert done.stdout[end:] == "\n"
    assert found.keys() >= KEYS
    assert found["variant"] == variant
    for setting in found["switches"].values():
        assert setting.keys() == {"value", "source"}
    assumed = [n for n, s in found["switches"].items() if s["source"] == "default"]
    assert "upsampler_alpha" in assumed
    assert "upsampler_alpha" in done.stderr
    assert ("window_size" in done.stderr) == (variant in ("photo", "pro"))


def test_flags_and_option_file_reach_the_switches(tiny_photo: Path, run_here: RunHere) -> None:
    """Every switch of the command line is settled and shown with its source."""
    config = tiny_photo.parent / "train.yml"
    config.write_text("network_g:\n  type: paragonsr2_photo\n  upsampler_alpha: 0.2\n")

    done = run_here(
        "inspect", tiny_photo, "--json", "--config", config, "--window-size", "8",
        "--attention-mode", "flex", "--no-export-safe",
    )  # fmt: skip

    switches = json.loads(done.stdout)["switches"]
    assert switches["upsampler_alpha"] == {"value": 0.2, "source": "config"}
    assert switches["window_size"] == {"value": 8, "source": "flag"}
    assert switches["attention_mode"] == {"value": "flex", "source": "flag"}
    assert switches["export_safe"] == {"value": False, "source": "flag"}
    assert done.stderr == ""


def test_a_name_says_nothing(tmp_path: Path, run_here: RunHere) -> None:
    """A checkpoint with another network's name is described by its tensors alone."""
    path = tiny_checkpoint(tmp_path / "4xParagonSR2_Pro.safetensors", "stream", 3)

    found = json.loads(run_here("inspect", path, "--json").stdout)

    assert (found["variant"], found["scale"]) == ("stream", 3)


def test_the_table_shows_what_was_assumed(tiny_photo: Path, run_here: RunHere) -> None:
    """People see variant, scale, size and the source of every switch; notes go to stderr."""
    done = run_here("inspect", tiny_photo)

    assert done.code == 0
    for word in ("ParagonSR2", "photo", "2x", "v11", "upsampler_alpha", "window_size", "default"):
        assert word in done.stdout
    assert hashlib.sha256(tiny_photo.read_bytes()).hexdigest() in done.stdout
    assert "is assumed" in done.stderr
    assert "is assumed" not in done.stdout


def test_a_file_whose_name_looks_like_markup_is_read(tiny_realtime: Path, tmp_path: Path,
                                                     run_here: RunHere) -> None:  # fmt: skip
    """File names are never taken for formatting."""
    path = shutil.copy(tiny_realtime, tmp_path / "[bold]x[v2].safetensors")

    assert run_here("inspect", path).code == 0
    missing = run_here("inspect", tmp_path / "[red]absent.pth")
    assert "[red]absent.pth" in missing.stderr


def test_probe_ranks_what_weights_cannot_tell(tiny_photo: Path, run_here: RunHere) -> None:
    """Every value is tried and ranked by the picture it gives, the distance to the best shown."""
    done = run_here("inspect", tiny_photo, "--probe", "--json")

    assert done.code == 0
    fits = json.loads(done.stdout)["probe"]
    names = {"upsampler_alpha", "window_size"}
    assert all(
        fit.keys() == names | {"psnr_y_db", "over_bicubic_db", "below_best_db"} for fit in fits
    )
    assert {fit["window_size"] for fit in fits} == {8, 16}
    assert {0.0, 0.3, 0.4} <= {fit["upsampler_alpha"] for fit in fits}
    values = [fit["psnr_y_db"] for fit in fits]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 1
    for fit in fits:
        assert fit["below_best_db"] == pytest.approx(values[0] - fit["psnr_y_db"])


def test_probe_keeps_a_switch_that_was_given(tiny_photo: Path, run_here: RunHere) -> None:
    """A value the user is sure of is not varied."""
    done = run_here("inspect", tiny_photo, "--probe", "--json", "--upsampler-alpha", "0.1")

    fits = json.loads(done.stdout)["probe"]
    assert {fit["window_size"] for fit in fits} == {8, 16}
    assert all("upsampler_alpha" not in fit for fit in fits)


def test_probe_with_nothing_left_to_try_works(tiny_realtime: Path, run_here: RunHere) -> None:
    """Where every switch was given there is one row: how well the network does with them."""
    done = run_here("inspect", tiny_realtime, "--probe", "--upsampler-alpha", "0.1")

    assert done.code == 0, done.stderr


def test_probe_finds_the_alpha_of_the_shipped_checkpoint(run_here: RunHere) -> None:
    """The network that was trained with alpha 0 fits best with alpha 0."""
    done = run_here("inspect", CHECKPOINT, "--probe", "--json")

    best, second = json.loads(done.stdout)["probe"][:2]
    assert best["upsampler_alpha"] == 0.0
    assert second["below_best_db"] > 0


def test_probe_of_a_grey_network_works(tmp_path: Path, run_here: RunHere) -> None:
    """A network of one channel is probed like any other, or refused in one line."""
    path = tiny_checkpoint(tmp_path / "grey.safetensors", in_channels=1)

    done = run_here("inspect", path, "--probe", "--json")

    assert done.code in (0, 3)
    if done.code == 0:
        assert json.loads(done.stdout)["probe"]
