"""``--html`` and ``--markdown``: written for every verdict, refused before any work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here")

HOSTILE = "<script>alert(1)<&\"'`|.safetensors"

BOTH = ("--html", "r.html", "--markdown", "r.md")


def test_parity_writes_a_page_and_a_table(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """Whatever the files are called. A file that is replaced is named."""
    checkpoint = Path(shutil.copy(tiny_realtime, tmp_path / HOSTILE))
    model = ExportPlan(checkpoint=checkpoint, output=tmp_path / "m.onnx", static=Size(20, 24))
    export(model)
    (tmp_path / "r.html").write_text("old")
    done = run_here("parity", checkpoint, model.output, *BOTH, "--junit", "j.xml")
    page, table = ((tmp_path / name).read_text("utf-8") for name in ("r.html", "r.md"))

    assert done.code == 0
    assert (tmp_path / "j.xml").exists()
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)&lt;&amp;" in page
    assert page.count("data:image/png") == 4
    assert "<code>m.onnx</code> passed" in page
    assert table.startswith("### ✅ paragon-export parity: passed\n\n`m.onnx` passed on ")
    assert "paragon-export parity" in table.split("`command`: ")[1]
    assert "note: replaced r.html\n" in done.stderr
    assert "replaced r.md" not in done.stderr


def test_onnx_writes_a_page_of_its_verdict(
    tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """With the ranges of a half-precision file."""
    arguments = ("--fp16", "--static", "20x24", "-o", "m.onnx")
    assert run_here("onnx", tiny_realtime, *arguments, *BOTH).code == 0
    page = (tmp_path / "r.html").read_text("utf-8")

    assert "<code>m.onnx</code> passed on" in page
    assert "it was written.</p>" in page
    assert "Ranges against fp16" in page
    assert page.count("data:image/png") == 4
    assert (tmp_path / "r.md").read_text("utf-8").startswith("### ✅ paragon-export onnx: passed")


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("parity", ("--html", "r.md"), ".html"),
        ("parity", ("--markdown", "r.txt"), ".md"),
        ("parity", ("--html", "gone/r.html"), "does not exist"),
        ("parity", ("--html", "r.html", "--junit", "r.html"), "choose another output"),
        ("onnx", ("--html", "r.md"), ".html"),
        ("onnx", ("--int8", "--html", "r.html"), "--int8"),
        ("bench", ("--markdown", "gone/r.md"), "does not exist"),
        ("bench", ("--report", "r.md", "--markdown", "r.md"), "choose another output"),
        ("plan", ("--html", "gone/r.html"), "does not exist"),
        ("audit", ("--html", "gone/r.html"), "does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    command: str, given: tuple[str, ...], said: str, tmp_path: Path, run_here: RunHere
) -> None:
    """The checkpoint is never read: it is none."""
    (tmp_path / "no.onnx").write_bytes(b"none")
    done = run_here(command, "no.onnx", *given)

    assert (done.code, done.stdout) == (3, "")
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["no.onnx"]
