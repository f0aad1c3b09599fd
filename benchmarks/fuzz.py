"""Fuzz: thousands of broken and hostile files through the real commands; nothing may go wrong.

::

    python benchmarks/fuzz.py                      # 10,000 cases, about 20 minutes on a busy core
    python benchmarks/fuzz.py --cases 500 --seed 7
    python benchmarks/fuzz.py --only "onnx fields"       # one kind again, as many cases
    python benchmarks/fuzz.py --only "onnx fields:123"   # one case again, its files kept
    python benchmarks/fuzz.py --self-test          # the harness itself, on planted faults

Each case makes files, runs one command on them in a worker process and has to end with exit code
0, 1, 2 or 3, in 60 s, below 4 GiB of resident memory, with one printable line on stderr if the
code is 3, without a traceback, and with nothing in its folder but what was there and what was
asked for. An audit hook reports programs started, sockets, names looked up by an unpickler and
files opened for writing elsewhere. The same seed makes the same cases.

Linux. Writes ``fuzz.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

MOST_SECONDS = 60.0

MOST_MIB = 4096.0

HARD_LIMIT_BYTES = 10 * 2**30
"""Of the worker's data: the machine survives what is found."""

ONE_OF = {0: "ok", 1: "verdict failed", 2: "usage", 3: "refused"}

FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.startfile",
    "subprocess.Popen", "pty.spawn", "socket.connect", "socket.bind", "socket.sendto",
    "pickle.find_class", "webbrowser.open", "urllib.Request", "ctypes.dlopen",
}  # fmt: skip

ALLOWED = ("libcuda", "tensorrt_rtx_libs", "paragon_export.isolated_worker")
"""Libraries that are loaded to see whether there is a GPU and to build engines, and the child
process in which files of others are run."""

AS_COMMANDS_RUN = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What the command line sets before PyTorch is imported. Without it PyTorch's half-precision
convolutions, of many small parallel steps, take minutes on a machine that does something else."""

CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod",
           "os.truncate", "shutil.rmtree", "shutil.move", "shutil.copyfile"}  # fmt: skip

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Command = list[str]


@dataclass
class Outcome:
    """What one case did."""

    kind: str
    index: int
    code: int | None = None
    seconds: float = 0.0
    peak_mib: float = 0.0
    violations: list[str] = field(default_factory=list)


# --- cases --------------------------------------------------------------------------------


class Seeds:
    """Good files from which bad ones are made; made once, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        import torch

        from tests import hostile, test_munet, test_older
        from tests.glyph import SMALL_CELLS, small_checkpoint
        from tests.tiny import ATTENDING, save, tiny_checkpoint

        self.folder, self.hostile = folder, hostile
        folder.mkdir(exist_ok=True)
        variants = ("realtime", "stream", *ATTENDING)
        facts = {"upsampler_alpha": "0.25", "network_g": '{"window_size": 8, "scale": 2}'}
        paths = [
            tiny_checkpoint(folder / f"{v}.safetensors", v, blocks=1, metadata=facts)
            for v in variants
        ]
        self.realtime = paths[0]
        older = {n: test_older.weights_of(n) for n in ("v0c_nano_x2_24x20", "v5_nano_x2_40x56_win",
                                                       "v6_stream_x4_20x24")}  # fmt: skip
        older["munet"] = test_munet.weights_of(test_munet.SMALL["munet1"])
        paths += [save(weights, folder / f"{name}.safetensors") for name, weights in older.items()]
        self.safetensors = [path.read_bytes() for path in paths]
        self.zipped, self.legacy = [], []
        from safetensors.torch import load

        for data in self.safetensors:
            state = {"params": load(data), "epoch": 3, "metrics": {"psnr": [30.5]}}
            self.zipped.append(hostile.saved(state))
            self.legacy.append(hostile.saved(state, zipped=False))
        self.phases = [folder / "phase1.pt", folder / "phase2.pt"]
        small_checkpoint(self.phases[0], SMALL_CELLS)
        small_checkpoint(self.phases[1])
        self.zipped += [path.read_bytes() for path in self.phases]
        self.snippets = [*hostile.code_values(folder.parent / "canary").values()]
        self.hostile_files = {
            **hostile.code_files(folder.parent / "canary"),
            **hostile.bombs(),
        }
        self.exports = [self._exported(path) for path in paths[:2]]
        self.onnx = [path.read_bytes() for path in self.exports]
        self.onnx_phases = [self._exported(path) for path in self.phases]
        self.good = self._good(paths[:2])
        del torch

    def _good(self, paths: Sequence[Path]) -> list[tuple[Path, Path]]:
        """Return checkpoints and exports of every kind: still, half, video, static and glyphs."""
        from paragon_export.plan import Precision, Size

        kinds: dict[str, dict[str, Any]] = {
            "half": {"precision": Precision.FP16},
            "video": {"video": True},
            "static": {"static": Size(5, 7)},
        }
        more = [(path, self._exported(path, name, **options))
                for path in paths for name, options in kinds.items()]  # fmt: skip
        plain = zip((*paths, *self.phases), (*self.exports, *self.onnx_phases), strict=True)
        return [*plain, *more]

    def _exported(self, path: Path, name: str = "", **options: Any) -> Path:
        from paragon_export.pipeline import export
        from paragon_export.plan import ExportPlan

        output = self.folder / f"{path.stem}{name}.onnx"
        export(ExportPlan(checkpoint=path, output=output, **options))
        return output


Maker = Callable[[random.Random, Seeds, Path], Command]
KINDS: dict[str, tuple[int, Maker]] = {}


def kind(name: str, share: int) -> Callable[[Maker], Maker]:
    """Register a kind of case and its share of 10,000."""

    def register(make: Maker) -> Maker:
        KINDS[name] = (share, make)
        return make

    return register


def _inspect(folder: Path, data: bytes, name: str, rng: random.Random) -> Command:
    (folder / name).write_bytes(data)
    return ["inspect", name, *(["--json"] if rng.random() < 0.3 else [])]


@kind("safetensors bytes", 1400)
def safetensors_bytes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes

    return _inspect(folder, mutate_bytes(rng, rng.choice(seeds.safetensors)), "c.safetensors", rng)


@kind("safetensors header", 1600)
def safetensors_header(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_header

    return _inspect(folder, mutate_header(rng, rng.choice(seeds.safetensors)), "c.safetensors", rng)


@kind("zip bytes", 1000)
def zip_bytes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes

    return _inspect(folder, mutate_bytes(rng, rng.choice(seeds.zipped)), "c.pth", rng)


@kind("legacy bytes", 700)
def legacy_bytes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes

    return _inspect(folder, mutate_bytes(rng, rng.choice(seeds.legacy)), "c.pth", rng)


@kind("pickle opcodes", 1600)
def pickle_opcodes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_pickled

    data = mutate_pickled(rng, rng.choice(seeds.zipped), seeds.snippets)
    return _inspect(folder, data, "c.pt", rng)


@kind("hostile pickles", 300)
def hostile_pickles(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes

    data = seeds.hostile_files[rng.choice(list(seeds.hostile_files))]
    data = mutate_bytes(rng, data) if rng.random() < 0.5 else data
    return _inspect(folder, data, "c.pth", rng)


@kind("odd tensors", 300)
def odd_tensors(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Well-formed files whose tensors describe absurd networks."""
    import torch
    from safetensors.torch import load

    from tests.mutate import NUMBERS

    state = load(rng.choice(seeds.safetensors))
    for name in rng.sample(list(state), min(len(state), rng.choice((1, 2, 8)))):
        shape = list(state[name].shape)
        if shape:
            extent = rng.choice((0, 1, 3, 7, 64, 5000, *(n for n in NUMBERS if 0 <= n < 10**5)))
            shape[rng.randrange(len(shape))] = extent
        dtypes = (torch.float16, torch.float64, torch.int8, torch.complex64, torch.bool,
                  torch.float8_e4m3fn, torch.bfloat16, torch.float32)  # fmt: skip
        size = min(int(torch.tensor(shape).prod()) if shape else 1, 10**6)
        value = torch.zeros(size).to(rng.choice(dtypes))
        odd = value.reshape(shape) if size == value.numel() and _fits(shape, size) else value
        state[rng.choice((name, name + rng.choice(seeds.hostile.control_names())))] = odd
    if rng.random() < 0.3:
        state = {name.replace(".0.", f".{rng.choice((7, 10**9))}."): t for name, t in state.items()}
    return _inspect(folder, seeds.hostile.saved({"params": state}), "c.pth", rng)


def _fits(shape: Sequence[int], size: int) -> bool:
    product = 1
    for extent in shape:
        product *= extent
    return product == size


OPTIONS: dict[str, Any] = {
    "name": "x", "scale": 2, "use_amp": True, "datasets": {"train": {"gt_size": 128}},
    "network_g": {"type": "paragonsr2_photo", "upsampler_alpha": 0.4, "window_size": 16,
                  "attention_mode": "sdpa", "export_safe": False, "use_norm": True},
    "network_d": {"type": "munet", "slope": 0.2},
}  # fmt: skip

GLYPH_CONFIG: dict[str, Any] = {
    "input": {"primitive_vocab_size": 40, "embedding_dim": 8, "normalize_embeddings": False},
    "model": {"architecture": "cnn", "cnn": {
        "stages": [12, 16], "blocks_per_stage": [1, 1], "kernel_size": 3, "stem_kernel_size": 3,
        "stem_stride": 1, "downsample": "conv", "activation": "gelu", "bn_eps": 1e-5,
        "classifier_hidden_dim": 10}},
}  # fmt: skip


@kind("option files", 900)
def option_files(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_yaml

    of_glyph = rng.random() < 0.3
    (folder / "o.yml").write_bytes(mutate_yaml(rng, GLYPH_CONFIG if of_glyph else OPTIONS))
    source = seeds.phases[1] if of_glyph else rng.choice(
        [seeds.realtime, *seeds.folder.glob("*.safetensors")]
    )  # fmt: skip
    return ["inspect", str(source), "--config", "o.yml"]


def _json(tree: Any) -> str:
    try:
        return json.dumps(tree)
    except RecursionError:
        return "[" * 10_000


@kind("metadata", 300)
def metadata(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Header entries of a safetensors file that speak of switches."""
    from safetensors.torch import load, save

    from tests.mutate import TEXTS, mutate_tree

    facts = {"network_g": _json(mutate_tree(rng, OPTIONS["network_g"]))}
    for name in ("window_size", "upsampler_alpha", "export_safe", "attention_mode", "scale"):
        if rng.random() < 0.4:
            facts[name] = rng.choice((*TEXTS[:-6], "1e9", "[" * 900, '{"a": 1}', "NaN", "1" * 5000))
    facts = {n: t.encode("utf-8", "ignore").decode() for n, t in facts.items()}
    data = save(load(rng.choice(seeds.safetensors)), facts)
    return _inspect(folder, data, "c.safetensors", rng)


@kind("recipes", 200)
def recipes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import TEXTS, mutate_bytes

    value = rng.choice(('"1x1"', "1", "nan", "[[[[1]]]]", "1979-05-27", "true", '"0x0"', "{}"))
    text = f'[profile]\nmin = {value}\nopt = "720x1280"\nmax = "1080x1920"\nbatch = 1\n'
    text += rng.choice(("", f'"{rng.choice(TEXTS[:8])}" = 1\n', "x = " + "[" * 3000 + "\n"))
    (folder / "r.toml").write_bytes(mutate_bytes(rng, text.encode("utf-8", "ignore")))
    return ["trt", "absent.pth", "-o", "x.engine", "--recipe", "r.toml"]


@kind("flags", 100)
def flags(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import TEXTS, YAML_TRICKS

    value = rng.choice((*TEXTS, *YAML_TRICKS[:9])).encode("utf-8", "ignore").decode()
    value = value.replace("\0", "")[:3000]
    name = rng.choice(("generation", "use_norm", "bn_eps", "stem_stride", "activation", "x"))
    more = rng.choice((["--set", f"{name}={value}"], ["--upsampler-alpha", value],
                       ["--attention-mode", value], ["--window-size", value]))  # fmt: skip
    path = rng.choice((*seeds.folder.glob("*.safetensors"), *seeds.phases))
    return ["inspect", str(path), *more]


@kind("onnx bytes", 500)
def onnx_bytes(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes

    return _parity(rng, seeds, folder, mutate_bytes)


@kind("onnx fields", 900)
def onnx_fields(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_onnx

    return _parity(rng, seeds, folder, mutate_onnx)


def _parity(
    rng: random.Random,
    seeds: Seeds,
    folder: Path,
    mutate: Callable[[random.Random, bytes], bytes],
) -> Command:
    at = rng.randrange(len(seeds.exports))
    reference = seeds.exports[at].with_suffix(".safetensors")
    (folder / "m.onnx").write_bytes(mutate(rng, seeds.onnx[at]))
    return ["parity", str(reference), "m.onnx", "--sizes", "5x7"]


BUILD = ("--target", "sm86", "--min", "1x1", "--opt", "5x7", "--max", "8x8")


@kind("onnx metadata", 500)
def onnx_metadata(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Good models that say something else of themselves."""
    from tests.mutate import mutate_metadata

    return _any_command(rng, seeds, folder, mutate_metadata)


@kind("onnx ports", 500)
def onnx_ports(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Good models with other ports."""
    from tests.mutate import mutate_ports

    return _any_command(rng, seeds, folder, mutate_ports)


def _any_command(
    rng: random.Random,
    seeds: Seeds,
    folder: Path,
    mutate: Callable[[random.Random, bytes], bytes],
) -> Command:
    """Run one of the commands that take an ONNX file on a good one that was changed."""
    checkpoint, good = rng.choice(seeds.good)
    (folder / "m.onnx").write_bytes(mutate(rng, good.read_bytes()))
    if rng.random() < 0.3:
        shutil.copy(checkpoint, folder)
    build = ["trt", "m.onnx", "-o", "e.engine"]
    commands = [
        *[["parity", str(checkpoint), "m.onnx", *rng.choice(([], ["--sizes", "5x7"]))]] * 3,
        ["parity", str(checkpoint), "m.onnx", "--json", "--other-checkpoint"],
        ["parity", "m.onnx"],
        *[["audit", "m.onnx", *rng.choice(([], ["--bf16"]))]] * 3,
        ["bench", "m.onnx", "--json", *rng.choice(([], ["--size", "5x7"], ["--batch", "2"]))],
        rng.choice((["inspect", "m.onnx"], ["onnx", "m.onnx"])),
        ["glyphs", "m.onnx", str(rng.choice(seeds.onnx_phases)), "raster.png"],
        [*build, *BUILD, *rng.choice(([], ["--fp16"], ["--checkpoint", str(checkpoint)]))],
    ]
    command = rng.choice(commands)
    if command[0] == "glyphs":
        _raster(folder)
    return command


@kind("onnx of glyphs", 150)
def onnx_of_glyphs(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes, mutate_onnx

    _raster(folder)
    good, bad = rng.sample(seeds.onnx_phases, 2)
    data = rng.choice((mutate_bytes, mutate_onnx))(rng, bad.read_bytes())
    (folder / "bad.onnx").write_bytes(data)
    return ["glyphs", str(good), "bad.onnx", "raster.png"]


def _raster(folder: Path) -> None:
    from PIL import Image

    Image.linear_gradient("L").resize((128, 128)).save(folder / "raster.png")


@kind("label maps", 150)
def label_maps(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes, mutate_tree

    _raster(folder)
    tree = mutate_tree(rng, {f"label {i}": i for i in range(23)})
    data = _json(tree).encode("utf-8", "surrogatepass")
    (folder / "l.json").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)
    return ["glyphs", *map(str, seeds.onnx_phases), "raster.png", "--label-map", "l.json"]


@kind("manifests", 100)
def manifests(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    from tests.mutate import mutate_bytes, mutate_tree

    engine = b"no engine at all"
    (folder / "e.engine").write_bytes(engine)
    manifest = {"engine_sha256": hashlib.sha256(engine).hexdigest(), "backend": "rtx",
                "precision": "fp32", "profile": {"min": "1x1", "opt": "2x2", "max": "3x3", "batch": 1},
                "onnx_metadata": {"classes": 3, "vocabulary": 4}, "parity": {"passed": True}}  # fmt: skip
    data = _json(mutate_tree(rng, manifest)).encode("utf-8", "surrogatepass")
    data = mutate_bytes(rng, data) if rng.random() < 0.3 else data
    (folder / "e.engine.json").write_bytes(data)
    return ["parity", str(seeds.realtime), "e.engine", "--sizes", "5x7"]


@kind("manifests with a digest", 300)
def whole_manifests(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Everything that a manifest says, one entry wrong, behind a digest that is right."""
    from paragon_export.manifest import DIGEST, digest_of
    from paragon_export.onnx_file import metadata_of, read_onnx
    from tests.mutate import mutate_tree

    _, good = rng.choice(seeds.good)
    engine = b"no engine at all"
    (folder / "e.engine").write_bytes(engine)
    shutil.copy(good, folder / "m.onnx")
    manifest = {
        "source": "m.onnx", "backend": "rtx", "precision": "fp32", "target": "sm86",
        "profile": rng.choice(({"min": "1x1", "opt": "5x7", "max": "8x8", "batch": 1},
                               {"min": 1, "opt": 2, "max": 3})),
        "switches": {}, "video": False, "rewrite": None, "onnx": "m.onnx", "engine": "e.engine",
        "onnx_sha256": hashlib.sha256(good.read_bytes()).hexdigest(),
        "onnx_metadata": metadata_of(read_onnx(good)).to_document(),
        "planned_device_memory_bytes": 1, "tensorrt_warnings": ["a warning"],
        "parity": {"passed": True, "judged": "it", "seen_on_gpu": False, "worst": {"max_abs": 0}},
        "environment": {"cores": 1},
    }  # fmt: skip
    changed = mutate_tree(rng, manifest)
    if isinstance(changed, dict):
        changed |= {"engine_sha256": hashlib.sha256(engine).hexdigest()}
        with contextlib.suppress(RecursionError):
            changed[DIGEST] = digest_of(changed)
    (folder / "e.engine.json").write_text(_json(changed), encoding="utf-8")
    return rng.choice((["parity", "e.engine"], ["parity", str(seeds.realtime), "e.engine"],
                       ["bench", "e.engine", "--json"], ["bench", str(good), "e.engine", "--json"],
                       ["trt", "m.onnx", "-o", "e.engine", *BUILD]))  # fmt: skip


@kind("recipe values", 100)
def recipe_values(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Recipes that are TOML, with one value wrong or large."""
    from tests.mutate import NUMBERS

    sizes = ('"1x1"', '"5x7"', '"8x8"', '"16384x16384"', '"99999x1"', '"0x0"', "1", "nan", "[]",
             '"٣x٣"', '"1X1 "', "1979-05-27", "{}", "true", '""')  # fmt: skip
    entries = {name: rng.choice((good, rng.choice(sizes)))
               for name, good in (("min", '"1x1"'), ("opt", '"5x7"'), ("max", '"8x8"'))}  # fmt: skip
    entries["batch"] = str(rng.choice((1, 2, True, *NUMBERS))).lower()
    text = "[profile]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
    (folder / "r.toml").write_text(text, encoding="utf-8")
    return ["trt", "absent.pth", "-o", "x.engine", "--recipe", "r.toml"]


@kind("pictures", 200)
def pictures(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    import io

    from PIL import Image

    from tests.mutate import mutate_bytes

    (folder / "images").mkdir()
    buffer = io.BytesIO()
    suffix, name = rng.choice((("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP"),
                               ("tif", "TIFF"), ("png", "GIF"), ("png", "EPS"), ("jpg", "PPM")))  # fmt: skip
    Image.linear_gradient("L").resize((9, 11)).convert("RGB").save(buffer, name)
    data = mutate_bytes(rng, buffer.getvalue())
    (folder / "images" / f"a.{suffix}").write_bytes(data)
    if rng.random() < 0.3:
        _raster(folder)
        (folder / "raster.png").write_bytes(data)
        return ["glyphs", *map(str, seeds.onnx_phases), "raster.png"]
    return ["parity", str(seeds.realtime), str(seeds.exports[0]), "--sizes", "5x7",
            "--images", "images"]  # fmt: skip


@kind("things that are no files", 100)
def no_files(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    import socket

    name = f"x{rng.choice(('.onnx', '.pth', '.png', '.yml'))}"
    path = folder / name
    where = rng.choice(("fifo", "socket", "folder", "loop", "/dev/zero", "/dev/urandom",
                        "/proc/self/mem", "/proc/self/maps", "/proc/kmsg", "/dev/null", "absent",
                        "/proc/self/environ"))  # fmt: skip
    if where == "fifo":
        os.mkfifo(path)
    elif where == "socket":
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):
            listener.bind(name)
    elif where == "folder":
        path.mkdir()
    elif where != "absent":
        path.symlink_to(name if where == "loop" else where)
    good, onnx = str(seeds.realtime), str(seeds.exports[0])
    return rng.choice((["inspect", name], ["inspect", good, "--config", name],
                       ["parity", good, name], ["parity", name, onnx], ["onnx", name],
                       ["trt", "absent.pth", "--recipe", name], ["parity", good, onnx, "--images", name],
                       ["glyphs", *map(str, seeds.onnx_phases), name],
                       ["trt", name, "-o", "e.engine"]))  # fmt: skip


@kind("exports", 80)
def exports(rng: random.Random, seeds: Seeds, folder: Path) -> Command:
    """Good tensors with odd values, through the whole way to an ONNX file."""
    import torch
    from safetensors.torch import load, save

    state = load(rng.choice(seeds.safetensors))
    for name in rng.sample(list(state), min(3, len(state))):
        factor = rng.choice((0.0, 1e-38, 1e30, 1e38, -1.0, 3e4))
        state[name] = torch.clamp(state[name] * factor, -3e38, 3e38).contiguous()
    facts = {"window_size": str(rng.choice((1, 2, 7, 16, 33, 64)))}
    (folder / "c.safetensors").write_bytes(save(state, facts))
    more = rng.choice(([], ["--static", "5x7"], ["--fp16"], ["--no-rewrite"], ["--scale", "2"]))
    return ["onnx", "c.safetensors", "-o", "out.onnx", *more]


# --- one case -----------------------------------------------------------------------------


class Watch:
    """Audit hook: what Python does while a command runs. Hooks stay for ever, so there is one."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.seen: list[str] = []
        self.active = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in FORBIDDEN and not any(name in str(arguments) for name in ALLOWED):
            self._report(f"{event} {arguments!r:.200}")
        elif event in ("exec", "compile", "marshal.loads", "import") and _is_unpickling():
            self._report("code run by an unpickler")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._check(event, arguments[0])
        elif event in CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link", "shutil.move") else 1]:
                self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            whole = os.path.realpath(os.fsdecode(path))
            if not whole.startswith(self.allowed):
                self._report(f"{event} of {whole} outside its folder")

    def _report(self, what: str) -> None:
        self.seen.append(what)


def _is_unpickling() -> bool:
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_filename.endswith(("_weights_only_unpickler.py", "/pickle.py")):
            return True
    return False


def listing(folder: Path) -> dict[str, str]:
    """Return everything in a folder by name, with a digest of its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_file = path.is_file() and not path.is_symlink()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if is_file else "no file"
        found[str(path.relative_to(folder))] = digest
    return found


@contextlib.contextmanager
def captured(out: Path, err: Path) -> Iterator[None]:
    """Send both outputs of the process, C++ included, to files."""
    saved = [os.dup(1), os.dup(2)]
    try:
        for number, path in ((1, out), (2, err)):
            with path.open("wb") as file:
                os.dup2(file.fileno(), number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, OSError, UnicodeError):
                stream.flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def run_case(
    name: str, index: int, make: Callable[[Path], Command], base: Path, watch: Watch, main: Any
) -> Outcome:
    """Run one case in a folder of its own and say what was wrong with how it ended."""
    folder, temporary = base / "case", base / "tmp"
    for path in (folder, temporary):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    outcome = Outcome(name, index)
    try:
        command = make(folder)
    except Exception:  # noqa: BLE001 - a fault of this script, which must not pass unseen
        outcome.violations.append(f"no case was made: {traceback.format_exc()[-800:]}")
        return outcome
    before, around = listing(folder), set(os.listdir(base)) | {"out", "err"}
    os.chdir(folder)
    watch.seen, watch.allowed = (
        [],
        (str(folder), str(temporary), "/dev/null", f"/proc/{os.getpid()}/"),
    )
    reset_peak()
    start = time.perf_counter()
    with captured(base / "out", base / "err"):
        watch.active = True
        outcome.code = _ended(main, command, outcome)
        watch.active = False
    os.chdir(base)
    outcome.seconds = time.perf_counter() - start
    outcome.peak_mib = peak_mib()
    outcome.violations += watch.seen
    outcome.violations += _wrong_words(outcome.code, base / "out", base / "err")
    asked = {command[command.index("-o") + 1]} if "-o" in command and outcome.code == 0 else set()
    asked |= {name + more for name in asked if command[0] == "trt" for more in (".json", ".onnx")}
    after = listing(folder)
    strange = {n for n in {*before, *after} if before.get(n) != after.get(n)} - asked
    strange |= {n for n in os.listdir(base) if n not in around} | set(listing(temporary))
    if strange:
        outcome.violations.append(f"left or changed {sorted(strange)[:5]}")
    return outcome


def _ended(main: Any, command: Command, outcome: Outcome) -> int | None:
    sys.argv = ["paragon-export", *command]
    try:
        main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0
    except BaseException:  # noqa: BLE001 - whatever escapes is what is looked for
        outcome.violations.append(f"escaped: {traceback.format_exc()[-1500:]}")
        return None
    return 0


def _wrong_words(code: int | None, out: Path, err: Path) -> list[str]:
    said, told = (p.read_text("utf-8", "backslashreplace") for p in (out, err))
    wrong = []
    if code not in (*ONE_OF, None):
        wrong.append(f"exit code {code}")
    lines = told.splitlines()
    if code == 3 and (len(lines) != 1 or not told.startswith("paragon-export: ")):
        wrong.append(f"not one line: {told[:500]!r}")
    if "Traceback (most recent" in told or "Traceback (most recent" in said:
        wrong.append(f"traceback: {told[-500:]!r}")
    if any(not (c.isprintable() or c == "\n") for c in told + said):
        wrong.append(f"control characters: {(told + said)[:500]!r}")
    return wrong


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


# --- planted faults -----------------------------------------------------------------------


def _stray(path: str) -> None:
    Path(path).write_text("x", encoding="ascii")


def _refuse(text: str) -> None:
    os.write(2, text.encode())
    sys.exit(3)


def _segfault() -> None:
    import signal

    os.kill(os.getpid(), signal.SIGSEGV)


def _unpickle() -> None:
    import pickle

    pickle.loads(b"cposix\ngetcwd\n)R.")


def _execute() -> None:
    import pickle

    pickle._loads(b"c__builtin__\nexec\n(X\x01\x00\x00\x001tR.")  # type: ignore[attr-defined]


def _connect() -> None:
    import socket

    with socket.socket() as mine, contextlib.suppress(OSError):
        mine.connect(("127.0.0.1", 9))


PLANTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "traceback": ("escaped", lambda: {}["absent"]),
    "exit code": ("exit code 7", lambda: sys.exit(7)),
    "crash": ("died", _segfault),
    "hang": ("hangs", lambda: time.sleep(3600)),
    "memory": ("MiB", lambda: len(b"x" * (700 * 2**20))),
    "write outside": ("outside its folder", lambda: _stray("../stray")),
    "leftover": ("left or changed", lambda: _stray("stray")),
    "input changed": ("left or changed", lambda: _stray("input")),
    "temporary left": ("left or changed", lambda: _stray("../tmp/stray")),
    "write by another program": ("left or changed", lambda: os.open("x", os.O_CREAT | os.O_WRONLY)),
    "program": ("os.system", lambda: os.system("true")),
    "subprocess": ("subprocess.Popen", lambda: subprocess.run(["true"], check=False)),
    "unpickled name": ("pickle.find_class", _unpickle),
    "unpickled code": ("code run by an unpickler", _execute),
    "socket": ("socket.connect", _connect),
    "two lines": ("not one line", lambda: _refuse("paragon-export: a\nb\n")),
    "no name": ("not one line", lambda: _refuse("a\n")),
    "silent": ("not one line", lambda: _refuse("")),
    "control characters": ("control characters", lambda: _refuse("paragon-export: \x1b[31m\n")),
    "printed traceback": ("traceback", lambda: os.write(2, b"Traceback (most recent call last)\n")),
}
"""Fault, the word that its report must hold, and how it is made."""


# --- the worker ---------------------------------------------------------------------------


def work(base: Path, seed: str, answers: int, is_planted: bool) -> None:
    """Run the cases whose kind and number come on stdin, one a line; answer with one line each."""
    import resource

    os.environ["TMPDIR"] = tempfile.tempdir = str(base / "tmp")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (HARD_LIMIT_BYTES, hard))
    (base / "tmp").mkdir(exist_ok=True)
    seeds = None if is_planted else _warm(base)
    watch = Watch()
    for line in sys.stdin:
        name, index = json.loads(line)
        if seeds is None:
            main, make = PLANTS[name][1], _planted
        else:
            from paragon_export.cli import main

            make = _maker(name, index, seed, seeds)
        outcome = run_case(name, index, make, base, watch, main)
        os.write(answers, (json.dumps(vars(outcome)) + "\n").encode())


def _planted(folder: Path) -> Command:
    (folder / "input").write_text("good", encoding="ascii")
    return ["inspect", "input"]


def _maker(name: str, index: int, seed: str, seeds: Seeds) -> Callable[[Path], Command]:
    rng = random.Random(f"{seed}/{name}/{index}")
    return lambda folder: KINDS[name][1](rng, seeds, folder)


def _warm(base: Path) -> Seeds:
    """Make the seeds, and let every library import what it imports when it is first used."""
    import functools

    import typer.main

    # Nine tenths of a short command are spent on reading the signatures of all commands again.
    typer.main.get_command = functools.cache(typer.main.get_command)
    seeds = Seeds(base / "seeds")
    from paragon_export.cli import main

    folder = base / "warm"
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    with captured(base / "out", base / "err"):
        for name, (_, make) in KINDS.items():
            for index in range(2):
                place = folder / f"{name} {index}"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                os.chdir(place)
                _ended(main, make(rng, seeds, place), Outcome(name, 0))
    os.chdir(base)
    shutil.rmtree(folder)
    return seeds


# --- the parent ---------------------------------------------------------------------------


class Worker:
    """A process that runs cases, made anew after one that hung or crashed."""

    def __init__(self, base: Path, seed: str, is_planted: bool = False) -> None:
        self.base, self.seed, self.is_planted = base, seed, is_planted
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        reading, writing = os.pipe()
        more = ["--planted"] if self.is_planted else []
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", str(self.base), "--seed", self.seed,
             "--answers", str(writing), *more],
            stdin=subprocess.PIPE, pass_fds=[writing], cwd=REPOSITORY,
            env={**os.environ, **AS_COMMANDS_RUN},
        )  # fmt: skip
        os.close(writing)
        self.answers = os.fdopen(reading, "rb", 0)

    def run(self, name: str, index: int, seconds: float) -> Outcome:
        """Run one case; a hang or a crash is an outcome too."""
        grace = 0.0
        if self.process is None:
            self._start()
            grace = 5.0 if self.is_planted else 300.0  # imports and seeds
        assert self.process is not None
        assert self.process.stdin is not None
        start = time.perf_counter()
        self.process.stdin.write((json.dumps([name, index]) + "\n").encode())
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            ready = selector.select(seconds + grace)
        line = self.answers.readline() if ready else b""
        if line:
            return Outcome(**json.loads(line))
        self.stop()
        taken = time.perf_counter() - start
        code = self.last_code
        fault = f"hangs for over {seconds:g} s" if not ready else f"the process died ({code})"
        return Outcome(name, index, None, taken, 0.0, [fault])

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self.process.stdin is not None
                with contextlib.suppress(OSError):
                    self.process.stdin.close()
                self.process.wait(1)
            self.process.kill()
            self.last_code = self.process.wait()
            self.answers.close()
            self.process = None


def judged(outcome: Outcome, most_mib: float = MOST_MIB) -> Outcome:
    """Add what only the parent decides: memory."""
    if outcome.peak_mib > most_mib:
        outcome.violations.append(f"{outcome.peak_mib:.0f} MiB, more than {most_mib:.0f}")
    return outcome


def self_test() -> list[str]:
    """Return the planted faults that were not reported, or not as what they are."""
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder), "0", is_planted=True)
        for name, (word, _) in PLANTS.items():
            seconds = 1.0 if name == "hang" else MOST_SECONDS
            outcome = judged(worker.run(name, 0, seconds), 600)
            if not any(word in told for told in outcome.violations):
                missed.append(f"{name}: {outcome.violations}")
            (Path(folder) / "stray").unlink(missing_ok=True)
        worker.stop()
    return missed


def shares(cases: int) -> dict[str, int]:
    """Return how many cases of each kind make up ``cases``."""
    whole = sum(share for share, _ in KINDS.values())
    counts = {name: max(1, cases * share // whole) for name, (share, _) in KINDS.items()}
    largest = max(counts, key=lambda name: counts[name])
    counts[largest] += max(0, cases - sum(counts.values()))
    return counts


def row_of(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    codes = Counter(outcome.code for outcome in outcomes)
    return {
        "kind": name,
        "cases": len(outcomes),
        **{word: codes[code] for code, word in ONE_OF.items()},
        "violations": sum(bool(outcome.violations) for outcome in outcomes),
        "worst s": max(outcome.seconds for outcome in outcomes),
        "peak MiB": round(max(outcome.peak_mib for outcome in outcomes)),
    }


def main(
    cases: Annotated[int, typer.Option(min=1)] = 10_000,
    seed: Annotated[str, typer.Option(help="The same seed makes the same cases.")] = "0",
    only: Annotated[str, typer.Option(help="KIND, or KIND:NUMBER for one case.")] = "",
    test: Annotated[bool, typer.Option("--self-test", help="Planted faults alone.")] = False,
    worker: Annotated[Path | None, typer.Option(hidden=True)] = None,
    answers: Annotated[int, typer.Option(hidden=True)] = -1,
    planted: Annotated[bool, typer.Option("--planted", hidden=True)] = False,
) -> None:
    if worker is not None:
        work(worker.resolve(), seed, answers, planted)
        return
    missed = self_test()
    print(f"self-test: {len(PLANTS) - len(missed)} of {len(PLANTS)} planted faults are reported")
    if missed:
        print("\n".join(missed))
        raise typer.Exit(1)
    if test:
        return
    name, _, number = only.partition(":")
    wanted = {name: shares(cases)[name]} if only else shares(cases)
    found = fuzz(wanted, seed, int(number) if number else None)
    rows = [row_of(name, outcomes) for name, outcomes in found.items()]
    if not number:  # one case alone is no result
        save(rows)
    raise typer.Exit(int(any(row["violations"] for row in rows)))


def save(rows: list[dict[str, Any]]) -> None:
    """Write the rows of kinds that were run, and what all kinds in the file come to."""
    from common import RESULTS, write

    write("fuzz", rows, ("kind",))
    document = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    known = [row for row in document["rows"] if row["kind"] in KINDS]
    worst = {name: max(row[name] for row in known) for name in ("worst s", "peak MiB")}
    sums = {
        name: sum(row[name] for row in known) for name in known[0] if name not in ("kind", *worst)
    }
    write("fuzz", [{"kind": "all", **sums, **worst}], ("kind",))


def fuzz(
    wanted: Mapping[str, int], seed: str, number: int | None = None
) -> dict[str, list[Outcome]]:
    """Run so many cases of each kind, or case ``number`` of each; print what goes wrong."""
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        worker = Worker(Path(folder), seed)
        for name, count in wanted.items():
            found[name] = []
            for index in [number] if number is not None else range(count):
                outcome = judged(worker.run(name, index, MOST_SECONDS))
                found[name].append(outcome)
                if outcome.violations or number is not None:
                    print(
                        f"{name}:{index} ends in {outcome.code}: {outcome.violations}", flush=True
                    )
            print(json.dumps(row_of(name, found[name])), flush=True)
        if number is not None:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
            shutil.copytree(Path(folder) / "case", kept, symlinks=True, dirs_exist_ok=True)
            print((Path(folder) / "err").read_text(encoding="utf-8", errors="replace"))
            print(f"its files: {kept}")
        worker.stop()
    return found


if __name__ == "__main__":
    typer.run(main)
