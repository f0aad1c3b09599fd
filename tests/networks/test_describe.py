"""Describing: every hyperparameter from the tensors, every doubt an error that names it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.checkpoints.load import Checkpoint, load_checkpoint
from paragon_export.errors import CheckpointError, PlanError, UnsupportedNetworkError
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.networks.paragonsr2.v9_v11.layout import (
    IGNORED,
    VARIANTS,
    Hyperparameters,
    expected_shapes,
)
from paragon_export.networks.registry import architecture_of
from paragon_export.parity.reference import build_reference, measure_drop
from paragon_export.specs.network import NetworkSpec
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.recorded import GOLDEN
from paragon_export.testing.tiny import (
    ATTENDING,
    Tensors,
    save,
    tiny_checkpoint,
    tiny_hyperparameters,
    tiny_tensors,
)

OTHERS: dict[str, dict[str, Any]] = json.loads(
    (GOLDEN / "other_signatures.json").read_text(encoding="utf-8")
)
"""Names and shapes of networks that are not served, and the generation each must be called."""


def checkpoint_of(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Checkpoint:
    return Checkpoint(path=Path("c.pth"), sha256="0" * 64, tensors=tensors, metadata=metadata or {})


def describe(
    tensors: Mapping[str, np.ndarray],
    flags: Mapping[str, Any] | None = None,
    config: Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> NetworkSpec:
    checkpoint = checkpoint_of(tensors, metadata)
    return architecture_of(checkpoint).describe(
        checkpoint, NetworkOptions(flags=flags or {}, config=config)
    )


def tensors_of(variant: str, **options: Any) -> Tensors:
    return tiny_tensors(tiny_hyperparameters(variant, **options))


def refusal(tensors: Mapping[str, np.ndarray], **given: Any) -> str:
    """Describe what must be refused; return the message, which is one line naming the file."""
    with pytest.raises(CheckpointError) as caught:
        describe(tensors, **given)
    message = str(caught.value)
    assert "c.pth" in message
    assert len(message.splitlines()) == 1
    return message


def option_file(folder: Path, text: str) -> Path:
    path = folder / "train.yml"
    path.write_text(text, encoding="utf-8")
    return path


# --- tensors tell everything ---------------------------------------------------------------

NETWORKS = [
    pytest.param(
        {"variant": v, "scale": s, "attention": a, "layer_scale": ls},
        id=f"{v}-x{s}{'-attention' if a else ''}{'' if ls else '-v10'}",
    )
    for v, s, a, ls in itertools.product(VARIANTS, (2, 3, 4, 8), (True, False), (True, False))
    if (v in ATTENDING or not a) and (v not in ATTENDING or ls)
]


@pytest.mark.parametrize("options", NETWORKS)
def test_hyperparameters_come_back_from_the_tensors(options: dict[str, Any]) -> None:
    """A network of any variant and scale, of random size, is described as what it was made as."""
    rng = np.random.default_rng(options["scale"])
    size = {
        "features": 4 * int(rng.integers(1, 5)),
        "groups": int(rng.integers(1, 4)),
        "blocks": int(rng.integers(1, 4)),
        "in_channels": int(rng.choice([1, 3, 4])),
    }
    made = tiny_hyperparameters(**options, **size, window_size=8, upsampler_alpha=0.25)

    variant = describe(tiny_tensors(made), {"window_size": 8, "upsampler_alpha": 0.25})

    found: Hyperparameters = variant.structure["hyperparameters"]
    # The window is read by attention alone, and the question of LayerScale is open only for
    # realtime and stream; elsewhere the two fields may hold anything.
    unread = () if made.attention else ("window_size",)
    unread += ("layer_scale",) if options["variant"] in ATTENDING else ()
    assert found == replace(made, **{name: getattr(found, name) for name in unread})
    assert (variant.architecture, variant.variant) == ("ParagonSR2", options["variant"])
    assert variant.scale == options["scale"]
    assert (variant.in_channels, variant.out_channels) == (size["in_channels"],) * 2
    assert variant.parameters == sum(a.size for a in tiny_tensors(made).values())
    assert variant.generation == ("v11" if options["layer_scale"] else "v9/v10")
    assert variant.window == (8 if made.attention else 1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1, 5])
def test_uncommon_scales_are_read_too(variant: str, scale: int) -> None:
    """Any whole scale that the tensors show is served, not a list of known ones."""
    assert describe(tensors_of(variant, scale=scale)).scale == scale


def test_buffers_that_nothing_reads_may_be_there_or_not() -> None:
    """The unused filter kernels that published files carry change neither verdict nor count."""
    plain = tensors_of("photo")
    buffers = {name: np.zeros(7, np.float32) for name in IGNORED}

    assert describe({**plain, **buffers}).parameters == describe(plain).parameters


def test_the_order_of_tensors_does_not_matter() -> None:
    """A state dict in reverse order is the same network."""
    tensors = tensors_of("pro")
    backwards = dict(reversed(list(tensors.items())))

    assert describe(backwards) == describe(tensors)


def test_detail_gain_is_shown_as_the_tensors_have_it() -> None:
    """The gain of the detail branch is trained and so is told by the tensors."""
    setting = describe(tensors_of("realtime")).options["detail_gain"]

    assert setting.value == pytest.approx(0.3)
    assert setting.source == "tensors"


# --- strictness ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("realtime", "conv_mid.bias"),
        ("realtime", "body.0.blocks.1.dw.weight"),
        ("realtime", "base.blur.v.weight"),
        ("realtime", "detail_gain"),
        ("stream", "body.0.blocks.0.dw3.bias"),
        ("stream", "up.0.bias"),
        ("photo", "body.0.blocks.1.attn.qkv.weight"),
        ("photo", "body.0.blocks.0.scale.gamma"),
        ("pro", "body.0.blocks.1.token_ca.token_dict"),
        ("pro", "body.0.blocks.0.norm3.scale"),
    ],
)
def test_a_missing_tensor_is_named(variant: str, name: str) -> None:
    """One tensor less is an error that names it."""
    tensors = tensors_of(variant)
    del tensors[name]

    message = refusal(tensors)

    assert name in message
    assert "missing" in message


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["conv_in.weight", "up.0.weight"])
def test_a_missing_tensor_that_tells_the_size_is_named(variant: str, name: str) -> None:
    """Tensors that the hyperparameters are read from are no exception."""
    tensors = tensors_of(variant)
    del tensors[name]

    assert name in refusal(tensors)


@pytest.mark.parametrize(
    "name",
    [
        "extra.weight",
        "body.0.blocks.0.mystery",
        "body.0.blocks.0.scale.beta",
        "body.0.norm.weight",
        "body.extra.weight",
        "body.weight",
        "body.0.blocks.x.conv1.weight",
        "body.0.blocks.0",
        "body.0.blocks.-1.conv1.weight",
        "up.1.weight",
        "base.sharp.kernel2",
    ],
)
@pytest.mark.parametrize("variant", ["realtime", "photo"])
def test_an_extra_tensor_is_named(variant: str, name: str) -> None:
    """One tensor more, wherever its name puts it, is an error that names it."""
    tensors = {**tensors_of(variant), name: np.ones(3, np.float32)}

    assert name in refusal(tensors)
    assert name in refusal(tensors, flags={"export_safe": True})


DESCRIBE_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from paragon_export.errors import CheckpointError
from paragon_export.specs.plans import NetworkOptions
from paragon_export.networks.describe import read_network
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    read_network(Path(sys.argv[1]), NetworkOptions())
except CheckpointError:
    print("refused")
"""


@pytest.mark.parametrize("index", [7, 10**9, 10**30])
def test_a_block_index_out_of_range_is_refused_at_once(index: int, tmp_path: Path) -> None:
    """A stray block is an error, and no list of a billion missing blocks is made for it."""
    name = f"body.0.blocks.{index}.conv1.weight"
    tensors = {**tensors_of("realtime"), name: np.ones((16, 8, 1, 1), np.float32)}
    path = save(tensors, tmp_path / "c.safetensors")

    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE_IN_LITTLE_MEMORY, path],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("realtime", "conv_out.weight"),
        ("realtime", "body.0.blocks.1.conv2.weight"),
        ("realtime", "detail_gain"),
        ("stream", "body.0.blocks.0.gate.weight"),
        ("photo", "body.0.blocks.1.attn.proj.bias"),
        ("pro", "body.0.blocks.0.channel_attn.fc.2.weight"),
    ],
)
def test_a_wrongly_shaped_tensor_is_named_with_both_shapes(variant: str, name: str) -> None:
    """A tensor of another shape is an error with what was found and what was expected."""
    tensors = tensors_of(variant)
    right = list(tensors[name].shape)
    wrong = [*right, 2]
    tensors[name] = np.ones(wrong, np.float32)

    message = refusal(tensors)

    assert f"{name} is {wrong}, expected {right}" in message


def test_all_faults_are_listed_together() -> None:
    """Missing, extra and misshapen tensors appear in one message, not one per attempt."""
    tensors = tensors_of("photo")
    del tensors["conv_mid.bias"]
    tensors["conv_out.bias"] = np.ones(5, np.float32)
    tensors["stranger"] = np.ones(1, np.float32)

    message = refusal(tensors)

    for word in ("1 missing: conv_mid.bias", "1 unexpected: stranger", "1 wrong: conv_out.bias"):
        assert word in message


def test_long_lists_of_faults_are_cut() -> None:
    """Hundreds of missing tensors are counted, the first few named."""
    tensors = tensors_of("pro", groups=3, blocks=3)
    for name in [n for n in tensors if n.startswith("body.2.blocks.1")]:
        del tensors[name]

    message = refusal(tensors)

    assert "more" in message
    assert len(message) < 2000


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64])
def test_tensors_that_are_not_floating_point_are_refused(dtype: type) -> None:
    """Integer weights are a fault of the file, never cast."""
    tensors = tensors_of("realtime")
    tensors["conv_mid.weight"] = np.ones((8, 8, 3, 3), dtype)

    message = refusal(tensors)

    assert "conv_mid.weight" in message
    assert np.dtype(dtype).name in message


@pytest.mark.parametrize("rows", [31, 33, 8 * 5, 4, 0])
def test_an_upsampler_of_no_whole_scale_is_refused(rows: int) -> None:
    """Rows that are no square number of times the features belong to no scale."""
    tensors = tensors_of("realtime")
    tensors["up.0.weight"] = np.ones((rows, 8, 3, 3), np.float32)
    tensors["up.0.bias"] = np.ones(rows, np.float32)

    assert "up.0.weight" in refusal(tensors)


def test_an_upsampler_of_another_scale_than_its_bias_is_refused() -> None:
    """The upsampler's weight decides the scale, and its bias must agree."""
    tensors = tensors_of("realtime", scale=2)
    tensors["up.0.weight"] = np.ones((8 * 9, 8, 3, 3), np.float32)

    assert "up.0.bias is [32], expected [72]" in refusal(tensors)


@pytest.mark.parametrize("variant", ATTENDING)
def test_features_that_the_heads_cannot_share_are_refused(variant: str) -> None:
    """Attention has four heads, so a trunk of six channels is no network of this family."""
    refusal(tensors_of(variant, features=6))


@pytest.mark.parametrize("name", ["conv_in.weight", "up.0.weight"])
@pytest.mark.parametrize("shape", [(), (8,), (8, 3), (0, 3, 3, 3), (8, 0, 3, 3)])
def test_impossible_shapes_of_the_tensors_that_tell_are_refused(
    name: str, shape: tuple[int, ...]
) -> None:
    """A tensor that a hyperparameter is read from must have the rank of a convolution."""
    tensors = tensors_of("realtime")
    tensors[name] = np.ones(shape, np.float32)

    assert name in refusal(tensors)


# --- other networks ------------------------------------------------------------------------


def other(version: str) -> Tensors:
    """Return weightless tensors with the layout of another generation."""
    return {
        name: np.broadcast_to(np.float32(0), shape)
        for name, shape in OTHERS[version]["shapes"].items()
    }


@pytest.mark.parametrize("version", [v for v in OTHERS if OTHERS[v]["generation"]])
def test_older_generations_are_named_and_refused(version: str) -> None:
    """A checkpoint of a generation that is not served is told which one it is."""
    with pytest.raises(UnsupportedNetworkError) as caught:
        describe(other(version))

    message = str(caught.value)
    assert f"{OTHERS[version]['generation']} network" in message
    assert "not supported" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "tensors",
    [
        {"down_blocks.0.attentions.0.weight": np.ones((3, 3), np.float32)},
        {},
        {"weight": np.ones(3, np.float32)},
        {"conv_first.weight": np.ones(3, np.float32), "body.0.rdb1.weight": np.ones(1, np.float32)},
    ],
    ids=["diffusion", "none", "one", "esrgan"],
)
def test_unknown_networks_are_refused(tensors: Tensors) -> None:
    """Tensors of a network that no family knows are refused with what is served."""
    with pytest.raises(UnsupportedNetworkError, match="supported are: ParagonSR2"):
        describe(tensors)


AUTHORS_RENAMES = {
    "base_upsampler.resample_conv.": "base.blur.",
    "base_upsampler.sharpen.": "base.sharp.",
    ".conv_h.": ".h.",
    ".conv_v.": ".v.",
    ".net.0.": ".conv1.",
    ".net.2.": ".dw.",
    ".net.4.": ".conv2.",
    "global_detail_gain": "detail_gain",
    "detail_upsampler.up_conv.": "up.0.",
    "conv_fuse.": "conv_mid.",
}


def renamed(tensors: Tensors) -> Tensors:
    """Rename as the tools of the field do."""
    result = {}
    for name, array in tensors.items():
        for old, new in AUTHORS_RENAMES.items():
            name = name.replace(old, new)
        result[name] = array
    return result


@pytest.mark.parametrize("version", ["v6", "v7", "v8"])
def test_no_rename_turns_an_old_checkpoint_into_a_new_one(version: str) -> None:
    """v6 to v8 stay what they are although renaming their tensors would load every one of v9's.

    A renamed network computes another picture: a real checkpoint falls from 24.7 to 17.6 dB.
    """
    tensors = other(version)
    v9 = expected_shapes(tiny_hyperparameters("realtime", layer_scale=False, features=16, blocks=3))
    shapes_after = {name: array.shape for name, array in renamed(tensors).items()}
    assert v9.items() <= shapes_after.items(), "the trap is not there: nothing is tested"

    assert describe(tensors).generation == version


# --- switches that drop attention ----------------------------------------------------------


def attention_names(variant: str) -> set[str]:
    """What the layout has with attention and not without, worked out from both."""
    whole, bare = (
        expected_shapes(tiny_hyperparameters(variant, attention=a)) for a in (True, False)
    )
    return set(whole) - set(bare)


@pytest.mark.parametrize("variant", ATTENDING)
@pytest.mark.parametrize("flags", [{"export_safe": True}, {"attention_mode": "none"}])
def test_dropping_attention_names_what_it_drops(variant: str, flags: dict[str, Any]) -> None:
    """Exactly the attention tensors are left out, counted in a note and listed in full."""
    described = describe(tensors_of(variant), flags)

    assert set(described.dropped) == attention_names(variant)
    (note,) = [note for note in described.notes if "drops" in note]
    assert next(iter(flags)) in note
    assert f"{len(described.dropped)} trained attention tensors" in note
    assert described.dropped[0] in note
    assert described.window == 1
    assert described.parameters == describe(tensors_of(variant, attention=False)).parameters


@pytest.mark.parametrize("variant", ATTENDING)
def test_a_dropped_branch_computes_what_the_bare_network_does(variant: str, tmp_path: Path) -> None:
    """Leaving attention out gives the network without it, and the loss is measured."""
    path = tiny_checkpoint(tmp_path / "c.safetensors", variant)
    checkpoint = load_checkpoint(path)
    switches = NetworkOptions(flags={"export_safe": True})
    dropped = architecture_of(checkpoint).describe(checkpoint, switches)
    kept = {n: a for n, a in checkpoint.tensors.items() if n not in attention_names(variant)}
    bare = checkpoint_of(kept)
    feeds = {"input": np.random.default_rng(0).random((1, 3, 9, 11), np.float32)}

    outputs = [
        build_reference(LoadedNetwork(checkpoint=c, spec=v))
        .runner("float32")
        .infer(feeds)["output"]
        for c, v in ((checkpoint, dropped), (bare, describe(kept)))
    ]

    np.testing.assert_array_equal(*outputs)
    assert (
        measure_drop(LoadedNetwork(checkpoint=checkpoint, spec=dropped, options=switches)).max_abs
        > 1e-3
    )


@pytest.mark.parametrize("variant", ATTENDING)
@pytest.mark.parametrize("mode", ["sdpa", "flex"])
def test_attention_is_kept_unless_told_otherwise(variant: str, mode: str) -> None:
    """Both attention modes keep every trained tensor, as saying nothing does."""
    for flags in ({}, {"attention_mode": mode}, {"export_safe": False}):
        described = describe(tensors_of(variant), flags)
        assert described.dropped == ()
        assert described.window == 16
        assert described.options["heads"].value == 4


@pytest.mark.parametrize("variant", ATTENDING)
@pytest.mark.parametrize("mode", ["sdpa", "flex"])
def test_attention_cannot_be_asked_of_a_checkpoint_without(variant: str, mode: str) -> None:
    """Weights that were never trained cannot be made up."""
    with pytest.raises(PlanError, match="holds no attention"):
        describe(tensors_of(variant, attention=False), {"attention_mode": mode})


@pytest.mark.parametrize("variant", ATTENDING)
def test_a_checkpoint_without_attention_is_taken_as_it_is(variant: str) -> None:
    """Its attention mode is what the tensors say, and nothing is dropped."""
    tensors = tensors_of(variant, attention=False)
    for flags in ({}, {"attention_mode": "none"}, {"export_safe": True}):
        described = describe(tensors, flags)
        setting = described.options["attention_mode"]
        assert (setting.value, setting.source) == ("none", "tensors")
        assert described.dropped == ()


@pytest.mark.parametrize("variant", ["realtime", "stream"])
@pytest.mark.parametrize("flags", [{"window_size": 8}, {"attention_mode": "none"}])
def test_switches_without_effect_are_told(variant: str, flags: dict[str, Any]) -> None:
    """A flag that this variant does not know changes nothing and says so."""
    described = describe(tensors_of(variant), flags)

    assert any(f"{next(iter(flags))} has no effect" in note for note in described.notes)
    assert "window_size" not in described.options


def test_export_safe_without_effect_is_told() -> None:
    """So is dropping attention from a checkpoint that has none."""
    notes = describe(tensors_of("realtime"), {"export_safe": True}).notes

    assert any("export_safe has no effect" in note for note in notes)


# --- assumed values ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_assumed_value_is_never_silent(variant: str) -> None:
    """Every switch that nobody gave and that matters has a note with name, value and remedy."""
    described = describe(tensors_of(variant))

    expected = {"upsampler_alpha": VARIANTS[variant].upsampler_alpha}
    if variant in ATTENDING:
        expected["window_size"] = 16
    for name, value in expected.items():
        assert described.options[name].is_assumed
        (note,) = [n for n in described.notes if n.startswith(name)]
        assert f"{name} = {value} is assumed" in note
        assert f"--{name.replace('_', '-')}" in note
    assert len(described.notes) == len(expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_value_that_was_given_needs_no_note(variant: str) -> None:
    """Nothing is said about switches that the user decided."""
    flags = {"upsampler_alpha": 0.0} | ({"window_size": 16} if variant in ATTENDING else {})

    assert describe(tensors_of(variant), flags).notes == ()


@pytest.mark.parametrize("variant", ATTENDING)
def test_a_window_that_nothing_reads_is_not_assumed(variant: str) -> None:
    """Without attention the window size does not matter and is not worth a note."""
    notes = describe(tensors_of(variant, attention=False)).notes

    assert not any("window_size" in note for note in notes)


# --- option files against tensors ----------------------------------------------------------


def test_an_option_file_for_the_network_is_taken(tmp_path: Path) -> None:
    """Type and scale that agree with the tensors are accepted, its switches used."""
    config = option_file(
        tmp_path,
        "scale: 2\nnetwork_g:\n  type: paragonsr2_photo\n  upsampler_alpha: 0.0\n  window_size: 8\n",
    )

    switches = describe(tensors_of("photo"), config=config).options

    assert (switches["upsampler_alpha"].value, switches["upsampler_alpha"].source) == (0, "config")
    assert (switches["window_size"].value, switches["window_size"].source) == (8, "config")


@pytest.mark.parametrize("told", ["paragonsr2_stream", "paragonsr2_pro", "esrgan"])
def test_an_option_file_for_another_network_is_refused(told: str, tmp_path: Path) -> None:
    """A file whose type is not what the tensors are cannot be the right one."""
    config = option_file(tmp_path, f"network_g:\n  type: {told}\n")

    with pytest.raises(PlanError, match=f"{told}.*paragonsr2_photo"):
        describe(tensors_of("photo"), config=config)


@pytest.mark.parametrize("text", ["scale: 4\nnetwork_g: {}\n", "network_g:\n  scale: 4\n"])
def test_an_option_file_for_another_scale_is_refused(text: str, tmp_path: Path) -> None:
    """The same for the scale, wherever the file says it."""
    with pytest.raises(PlanError, match=r"scale 4.*say 2"):
        describe(tensors_of("photo", scale=2), config=option_file(tmp_path, text))


@pytest.mark.parametrize("variant", ATTENDING)
def test_the_word_none_in_an_option_file_keeps_attention(variant: str, tmp_path: Path) -> None:
    """The trainer takes the string for a mode and trains attention, so it is kept, with a note."""
    config = option_file(tmp_path, "network_g:\n  attention_mode: none\n")

    described = describe(tensors_of(variant), config=config)

    assert described.dropped == ()
    assert described.options["attention_mode"].value == "sdpa"
    assert any("attention_mode: none" in note and "kept" in note for note in described.notes)


@pytest.mark.parametrize("text", ["null", "~", ""])
def test_a_null_in_an_option_file_drops_attention(text: str, tmp_path: Path) -> None:
    """A real null is no attention; dropping trained tensors for it is told."""
    config = option_file(tmp_path, f"network_g:\n  attention_mode: {text}\n")

    described = describe(tensors_of("photo"), config=config)

    assert set(described.dropped) == attention_names("photo")
    assert any("drops" in note for note in described.notes)
    assert described.options["attention_mode"].source == "config"


def test_a_flag_beats_the_option_files_attention(tmp_path: Path) -> None:
    """``--attention-mode none`` drops attention whatever the option file says, and the reverse."""
    keep = option_file(tmp_path, "network_g:\n  attention_mode: none\n")
    assert describe(tensors_of("photo"), {"attention_mode": "none"}, keep).dropped
    drop = option_file(tmp_path, "network_g:\n  attention_mode:\n")
    assert not describe(tensors_of("photo"), {"attention_mode": "sdpa"}, drop).dropped


def test_describing_changes_no_tensor() -> None:
    """A checkpoint is read-only: describing and building leave every value as it was."""
    tensors = tensors_of("photo")
    before = {name: array.copy() for name, array in tensors.items()}
    checkpoint = checkpoint_of(tensors)

    build_reference(
        LoadedNetwork(checkpoint=checkpoint, spec=describe(tensors, {"export_safe": True}))
    )

    assert tensors.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(tensors[name], array)
