"""Options: flag beats option file beats metadata beats default, and every value says its source."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.checkpoints.load import Checkpoint
from paragon_export.errors import PlanError
from paragon_export.networks.describe import load_network
from paragon_export.networks.options import (
    Resolver,
    attention_mode,
    blend_factor,
    parse_option,
    read_option_file,
    whole_number,
    yes_or_no,
)
from paragon_export.networks.registry import architecture_of
from paragon_export.specs.network import NetworkSpec, ResolvedOption
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.tiny import tiny_checkpoint, tiny_hyperparameters, tiny_tensors

PHOTO = tiny_tensors(tiny_hyperparameters("photo"))

DEFAULTS = {"upsampler_alpha": 0.4, "window_size": 16}

GIVEN = {
    "flag": {"upsampler_alpha": 0.1, "window_size": 4},
    "config": {"upsampler_alpha": 0.2, "window_size": 8},
    "metadata": {"upsampler_alpha": 0.3, "window_size": 12},
}


def settled(
    folder: Path,
    flag: dict[str, Any] | None = None,
    config: dict[str, Any] | str | None = None,
    metadata: dict[str, Any] | None = None,
) -> dict[str, ResolvedOption]:
    """Describe a photo network with these sources."""
    path = None
    if config is not None:
        path = folder / "train.yml"
        network = config if isinstance(config, str) else json.dumps({"network_g": config})
        path.write_text(network, encoding="utf-8")
    checkpoint = Checkpoint(
        path=folder / "c.safetensors",
        sha256="",
        tensors=PHOTO,
        metadata={
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in (metadata or {}).items()
        },
    )
    switches = NetworkOptions(flags=flag or {}, config=path)
    return dict(architecture_of(checkpoint).describe(checkpoint, switches).options)


SOURCES = [
    sources
    for n in range(4)
    for sources in itertools.combinations(("flag", "config", "metadata"), n)
]


@pytest.mark.parametrize("sources", SOURCES, ids=lambda sources: "+".join(sources) or "nothing")
@pytest.mark.parametrize("name", DEFAULTS)
def test_the_strongest_source_wins_and_is_told(
    name: str, sources: tuple[str, ...], tmp_path: Path
) -> None:
    """Of all sources that name a switch the strongest decides, and the setting remembers which."""
    given = {source: {name: GIVEN[source][name]} for source in sources}

    setting = settled(tmp_path, **given)[name]

    strongest = sources[0] if sources else "default"
    assert setting.source == strongest
    assert setting.value == (GIVEN[strongest][name] if sources else DEFAULTS[name])
    assert setting.is_assumed == (not sources)


def test_each_switch_is_settled_on_its_own(tmp_path: Path) -> None:
    """A source that names one switch says nothing about the other."""
    found = settled(
        tmp_path,
        flag={"window_size": 4},
        config={"upsampler_alpha": 0.2},
        metadata=GIVEN["metadata"],
    )

    assert found["window_size"] == ResolvedOption(4, "flag")
    assert found["upsampler_alpha"] == ResolvedOption(0.2, "config")


def test_a_flag_of_zero_is_a_value(tmp_path: Path) -> None:
    """Zero and false are answers, not absences."""
    found = settled(
        tmp_path,
        flag={"upsampler_alpha": 0.0, "export_safe": False},
        config={"upsampler_alpha": 0.2, "export_safe": True},
    )

    assert found["upsampler_alpha"] == ResolvedOption(0.0, "flag")
    assert found["export_safe"] == ResolvedOption(False, "flag")


def test_whole_alphas_are_numbers(tmp_path: Path) -> None:
    """An option file may say 0 where it means 0.0."""
    setting = settled(tmp_path, config={"upsampler_alpha": 0})["upsampler_alpha"]

    assert setting == ResolvedOption(0.0, "config")
    assert isinstance(setting.value, float)


# --- metadata ------------------------------------------------------------------------------


def test_network_g_in_the_metadata_is_read(tmp_path: Path) -> None:
    """A trainer may store its network table as JSON; a plain entry beside it is the stronger."""
    network = {"network_g": {"upsampler_alpha": 0.3, "window_size": 12}}

    assert settled(tmp_path, metadata=network)["window_size"] == ResolvedOption(12, "metadata")
    for metadata in ({**network, "window_size": 8}, {"window_size": 8, **network}):
        found = settled(tmp_path, metadata=metadata)
        assert found["window_size"] == ResolvedOption(8, "metadata")
        assert found["upsampler_alpha"] == ResolvedOption(0.3, "metadata")


@pytest.mark.parametrize("text", ["pt", "{", "[1, 2", "", "1e999", "[" * 100_000, "9" * 10_000])
def test_metadata_that_says_nothing_of_switches_is_left_alone(text: str, tmp_path: Path) -> None:
    """Header entries of other tools, however odd, do not get in the way."""
    assert settled(tmp_path, metadata={"format": text})["window_size"].source == "default"


@pytest.mark.parametrize("text", ["high", "NaN", "-0.1", "true", "null", "[0.1]", '"0.1"', "1e999"])
def test_impossible_values_in_the_metadata_are_refused(text: str, tmp_path: Path) -> None:
    """A broken value is not skipped in favour of a weaker source; it is named with its source."""
    with pytest.raises(PlanError, match=r"upsampler_alpha.*from the metadata"):
        settled(tmp_path, metadata={"upsampler_alpha": text})


# --- impossible values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -0.5, True, "0.3", None, [0.3], 1 + 2j]
)
def test_impossible_factors_are_refused(value: Any, tmp_path: Path) -> None:
    """A blend is a finite number that is not negative."""
    with pytest.raises(PlanError, match=r"upsampler_alpha.*from the flag.*impossible"):
        settled(tmp_path, flag={"upsampler_alpha": value})


@pytest.mark.parametrize("value", [0, -8, 257, 8.0, 8.5, True, "8", None, float("nan")])
def test_impossible_windows_are_refused(value: Any, tmp_path: Path) -> None:
    """A window is a whole number of pixels between 1 and 256."""
    with pytest.raises(PlanError, match=r"window_size.*from the flag.*impossible"):
        settled(tmp_path, flag={"window_size": value})


@pytest.mark.parametrize("value", ["yes", 1, None, "true"])
def test_impossible_on_off_switches_are_refused(value: Any, tmp_path: Path) -> None:
    """On or off is nothing else."""
    with pytest.raises(PlanError, match="export_safe"):
        settled(tmp_path, flag={"export_safe": value})


@pytest.mark.parametrize("value", ["SDPA", "flash", "", 3, True, ["sdpa"]])
def test_impossible_attention_modes_are_refused(value: Any, tmp_path: Path) -> None:
    """The modes are three words."""
    with pytest.raises(PlanError, match="attention_mode"):
        settled(tmp_path, flag={"attention_mode": value})


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (blend_factor, 0, 0.0),
        (blend_factor, 1.5, 1.5),
        (whole_number, 1, 1),
        (whole_number, 256, 256),
        (yes_or_no, False, False),
        (attention_mode, None, "none"),
        (attention_mode, "flex", "flex"),
    ],
)
def test_possible_values_pass(check: Any, value: Any, expected: Any) -> None:
    """The edges of what is allowed are allowed."""
    assert check(value) == expected
    assert type(check(value)) is type(expected)


@pytest.mark.parametrize("yaml_value", [".nan", ".inf", "-1", "yes", "'0.3'", "[1]", "~", "{}"])
def test_impossible_values_in_the_option_file_are_refused(yaml_value: str, tmp_path: Path) -> None:
    """The option file is held to the same rules, and the message says that it was the file."""
    with pytest.raises(PlanError, match=r"upsampler_alpha.*from the config"):
        settled(tmp_path, config=f"network_g:\n  upsampler_alpha: {yaml_value}\n")


# --- the option file -----------------------------------------------------------------------


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "train.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PlanError) as caught:
        read_option_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def test_network_g_is_read_with_the_files_scale(tmp_path: Path) -> None:
    """The network's table comes back whole; the scale above it counts where it has none."""
    text = "name: run\nscale: 2\nnetwork_g:\n  type: paragonsr2_photo\n  window_size: 8\n"
    expected = {"type": "paragonsr2_photo", "window_size": 8}

    assert read_option_file(written(tmp_path, text)) == {**expected, "scale": 2}
    assert read_option_file(written(tmp_path, text + "  scale: 4\n")) == {**expected, "scale": 4}


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    """Option files share values by YAML's anchors."""
    text = (
        "alpha: &alpha 0.25\n"
        "common: &common\n  window_size: 8\n  upsampler_alpha: 0.5\n"
        "network_g:\n  <<: *common\n  upsampler_alpha: *alpha\n"
    )

    found = read_option_file(written(tmp_path, text))

    assert found == {"window_size": 8, "upsampler_alpha": 0.25}


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """What cannot be read is said to be so."""
    assert "cannot read" in refusal(tmp_path / "absent.yml")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "network_g: [",
        "network_g: {a: b",
        "a: b: c",
        "\tnetwork_g: {}",
        "network_g: *nowhere",
        "a: 1\n---\nb: 2\n",
        b"\xff\xfe\x00\x01",
        b"network_g: \x00",
        "network_g: {? [1]: 2}",
        "[" * 20_000,
        "network_g: {}\nday: 2025-13-45\n",
        "network_g: {}\ncount: !!int many\n",
        "network_g: {}\nshare: !!float much\n",
        "network_g: {}\nday: !!timestamp soon\n",
        "network_g: {}\nflag: !!bool perhaps\n",
    ],
)
def test_what_is_not_yaml_is_refused(text: str | bytes, tmp_path: Path) -> None:
    """Broken syntax, binary data and values that YAML itself cannot make end in one line."""
    assert "not YAML" in refusal(written(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["", "5", "- a\n- b\n", "scale: 2\n", "network_g: photo\n", "network_g:\n", "null"]
)
def test_a_file_without_network_g_is_refused(text: str, tmp_path: Path) -> None:
    """YAML of something else is told what is wanted."""
    assert "network_g" in refusal(written(tmp_path, text))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system",
        "!!python/object/new:os.system",
        "!!python/object/apply:subprocess.check_call",
    ],
)
def test_python_tags_run_nothing(tag: str, tmp_path: Path) -> None:
    """A file that asks for a command to be run is refused, and the command has not run."""
    canary = tmp_path / "canary"
    path = written(tmp_path, f"network_g:\n  type: {tag} ['touch {canary}']\n")

    refusal(path)

    assert not canary.exists()


def test_a_file_of_megabytes_is_refused(tmp_path: Path) -> None:
    """No option file is that large, and YAML is slow."""
    assert "bytes" in refusal(written(tmp_path, b"# " + bytes(2**20)))


SETTLE_A_BOMB = """
import resource, sys
from pathlib import Path
from paragon_export.errors import PlanError
from paragon_export.specs.plans import NetworkOptions
from paragon_export.networks.options import Resolver
from paragon_export.networks.options import blend_factor
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    Resolver(NetworkOptions(config=Path(sys.argv[1])), {}).resolve("upsampler_alpha", 0.0, blend_factor)
except PlanError as error:
    print("refused", len(str(error)) < 5000)
"""


def test_a_value_that_unfolds_to_gigabytes_is_refused_in_one_short_line(tmp_path: Path) -> None:
    """Nested anchors are small in memory; the message about them must be small as well."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12)]
    path = written(tmp_path, "\n".join(levels) + "\nnetwork_g:\n  upsampler_alpha: *a11\n")

    done = subprocess.run(
        [sys.executable, "-c", SETTLE_A_BOMB, path],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("refused True\n", "")


def test_the_resolver_reads_its_sources_once(tmp_path: Path) -> None:
    """A resolver answers for several switches, also after the option file is gone."""
    path = written(tmp_path, "network_g:\n  upsampler_alpha: 0.2\n  window_size: 8\n")
    resolver = Resolver(NetworkOptions(config=path), {"export_safe": "true"})
    path.unlink()

    assert resolver.resolve("upsampler_alpha", 0.0, blend_factor) == ResolvedOption(0.2, "config")
    assert resolver.resolve("window_size", 16, whole_number) == ResolvedOption(8, "config")
    assert resolver.resolve("export_safe", False, yes_or_no) == ResolvedOption(True, "metadata")
    assert resolver.resolve("detail", np.pi, blend_factor) == ResolvedOption(np.pi, "default")


# --- what the trainers read ---------------------------------------------------------------


def noted(folder: Path, text: str, name: str = "train.yml") -> tuple[NetworkSpec, str]:
    """Return a network described with an option file, and the first note on that file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    checkpoint = tiny_checkpoint(folder / "c.safetensors")
    spec = load_network(checkpoint, config=path).spec
    return spec, next((note for note in spec.notes if str(path) in note), "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("network_g:\n  upsampler_alpha: 0.3\n  upsampler_alpha: 0.0\n",
         "key 'upsampler_alpha' appears twice, on lines 2 and 3"),
        ("network_g: {upsampler_alpha: 0.0}\ntrain:\n  a: 1\n  b: 2\n  a: 3\n",
         "key 'a' appears twice, on lines 3 and 5"),
        ("network_g: {upsampler_alpha: 0.1}\nnetwork_g: {upsampler_alpha: 0.0}\n",
         "key 'network_g' appears twice, on lines 1 and 2"),
    ],
    ids=["in the table", "in another table", "a table"],
)  # fmt: skip
def test_the_last_of_two_keys_is_used_and_noted(text: str, words: str, tmp_path: Path) -> None:
    """As the trainer reads it; the note names the key and the lines."""
    spec, note = noted(tmp_path, text)

    assert spec.options["upsampler_alpha"] == ResolvedOption(0.0, "config")
    assert words in note


def test_an_option_on_the_command_line_has_no_key_twice() -> None:
    with pytest.raises(PlanError, match="not a YAML value"):
        parse_option("bn_eps={a: 1, a: 2}")


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_an_option_file_of_neosr_is_read(mark: str, tmp_path: Path) -> None:
    """It is TOML."""
    text = 'scale = 2\n[network_g]\ntype = "paragonsr2_realtime"\nupsampler_alpha = 0.0\n'
    spec, note = noted(tmp_path, mark + text, "train.toml")

    assert spec.options["upsampler_alpha"] == ResolvedOption(0.0, "config")
    assert note == ""


@pytest.mark.parametrize(
    "text",
    ["[network_g", "[network_g]\na = 1\na = 2\n", "x = " + "[" * 40_000, "x = " + "9" * 10_000, "\0"],
    ids=["unfinished", "a key twice", "deep", "digits", "nul"],
)  # fmt: skip
def test_a_file_that_is_not_toml_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is not TOML"):
        noted(tmp_path, text, "train.toml")


@pytest.mark.parametrize("key", ["upsampler_alfa", "upsampler_alpha_", "Upsampler_alpha"])
def test_a_misspelt_key_is_named(key: str, tmp_path: Path) -> None:
    """It has no effect, so the default is used."""
    spec, note = noted(tmp_path, f"network_g: {{type: paragonsr2_realtime, {key}: 0.0}}\n")

    assert spec.options["upsampler_alpha"].source == "default"
    assert f"'{key}' has no effect; did you mean upsampler_alpha?" in note


def test_keys_of_the_trainer_are_no_misspelt_options(tmp_path: Path) -> None:
    keys = (
        "type",
        "num_feat",
        "num_groups",
        "num_blocks",
        "ffn_expansion",
        "detail_gain",
        "upscale",
    )
    table = ", ".join(f"{key}: 1" for key in keys if key != "type")
    _, note = noted(tmp_path, f"network_g: {{type: paragonsr2_realtime, {table}}}\n")

    assert note == ""
