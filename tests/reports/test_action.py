"""The GitHub Action: its shell steps run as GitHub runs them, in a repository of their own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from paragon_export.pipeline.export import export
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import Size
from paragon_export.testing.tiny import tiny_checkpoint
from tests.conftest import LONGEST_RUN_S, ROOT, shell_environment

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))

STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "run" in step}

EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}")

HOSTILE = "$(touch hacked) `touch hacked` @all <b>&;'\".onnx"
"""A name that a shell would run and that Markdown would show as markup."""

GIT = (
    "git",
    "-c",
    "user.name=n",
    "-c",
    "user.email=e@example.org",
    "-c",
    "init.defaultBranch=main",
)


@dataclass
class Job:
    """A job of GitHub in a folder: a repository, and the files that steps write."""

    folder: Path
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def reports(self) -> list[str]:
        """Names of the reports, in order."""
        return sorted(path.name for path in (self.folder / "temp" / "paragon-export").iterdir())

    @property
    def summary(self) -> str:
        return (self.folder / "summary.md").read_text("utf-8")

    def git(self, *args: str) -> str:
        done = subprocess.run(
            [*GIT, *args], cwd=self.repository, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout.strip()

    def commit(self) -> str:
        """Commit everything, and return the commit."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "c")
        return self.git("rev-parse", "HEAD")

    def value(self, expression: str) -> str:
        """Return the value of an expression in a step's environment."""
        kind, _, name = expression.partition(".")
        if kind == "inputs":
            return self.inputs.get(name, ACTION["inputs"][name]["default"])
        assert expression == "steps.choose.outputs.reports"
        return self.outputs["reports"]

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a step in the repository."""
        step, output = STEPS[name], self.folder / "output"
        output.write_text("")
        own = {n: EXPRESSION.sub(lambda m: self.value(m[1]), v) for n, v in step["env"].items()}
        environment = shell_environment(
            GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(self.folder / "summary.md"),
            GITHUB_ACTION_PATH=str(ROOT), RUNNER_TEMP=str(self.folder / "temp"),
            PATH=f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(ROOT), **own,
        )  # fmt: skip
        script = self.folder / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script],
            cwd=self.repository, env=environment, capture_output=True, encoding="utf-8",
            timeout=LONGEST_RUN_S, check=False,
        )  # fmt: skip
        for line in output.read_text("utf-8").splitlines():
            key, _, value = line.partition("=")
            self.outputs[key] = value
        return done

    def judge(self, **inputs: str) -> int:
        """Choose and judge files, and return the exit code of the job."""
        self.inputs = {
            "options": "--sizes 20x24",
            **{n.replace("_", "-"): v for n, v in inputs.items()},
        }
        chosen = self.run("Choose files")
        assert chosen.returncode == 0, chosen.stderr
        return self.run("Judge files").returncode

    @property
    def chosen(self) -> list[str]:
        text = (self.folder / "temp" / "paragon-export-files").read_text("utf-8")
        return text.split("\0")[:-1]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job with an empty repository and this program on its path."""
    for name in ("repository", "temp", "bin"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "paragon-export"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m paragon_export "$@"\n')
    program.chmod(0o755)
    (tmp_path / "summary.md").write_text("")
    made = Job(tmp_path)
    made.git("init", "-q")
    return made


# --- the file ----------------------------------------------------------------------------------


def test_values_reach_the_shell_as_variables_alone() -> None:
    """A value in the text of a script could be a command: names of branches are chosen by others."""
    assert not [name for name, step in STEPS.items() if EXPRESSION.search(step["run"])]


def test_the_action_is_composite_and_its_inputs_are_used() -> None:
    text = (ROOT / "action.yml").read_text("utf-8")
    assert ACTION["runs"]["using"] == "composite"
    assert {name for name in ACTION["inputs"] if f"inputs.{name} " not in text} == set()
    assert all(step.get("shell") == "bash" for step in STEPS.values())
    uses = [step["uses"] for step in ACTION["runs"]["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", use) for use in uses)
    upload = ACTION["runs"]["steps"][-1]
    assert "always()" in upload["if"], "reports of failures are uploaded too"


# --- choosing ------------------------------------------------------------------------------------


@pytest.mark.processes
def test_changed_files_are_chosen(job: Job) -> None:
    """Those that were added or changed since the base, of the kinds that were asked for."""
    folder = job.repository / "a" / "b"
    folder.mkdir(parents=True)
    for name in ("same.onnx", "changed.onnx", "gone.onnx", "read.md"):
        (folder / name).write_text(name)
    base = job.commit()
    (folder / "changed.onnx").write_text("2")
    (folder / "read.md").write_text("2")
    (folder / "gone.onnx").unlink()
    (job.repository / HOSTILE).write_text("new")
    (job.repository / "old.safetensors").write_text("new")
    job.commit()

    def chosen(**inputs: str) -> set[str]:
        job.inputs = {name.replace("_", "-"): value for name, value in inputs.items()}
        done = job.run("Choose files")
        assert done.returncode == 0, done.stderr
        return set(job.chosen)

    assert chosen(base=base) == {"a/b/changed.onnx", HOSTILE, "old.safetensors"}
    everything = {"a/b/same.onnx", "a/b/changed.onnx", HOSTILE, "old.safetensors"}
    for unknown in ("", "0" * 40):
        assert chosen(base=unknown) == everything
    assert chosen(base=base, changed_only="false") == everything
    assert chosen(base=base, files="a/**\n:(exclude)**/*.md\n") == {"a/b/changed.onnx"}
    (job.repository / ".gitignore").write_text("*.onnx")
    (job.repository / "built.onnx").write_text("of this job")
    assert "built.onnx" in chosen(changed_only="false")


@pytest.mark.processes
def test_install_takes_the_action_itself_or_what_is_asked_for(job: Job) -> None:
    """Its arguments are passed on whole; what pip does with them is not tried here."""
    python = job.folder / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    first, second = installed(job)
    assert first == shlex.split(ACTION["inputs"]["torch"]["default"])
    assert second == [str(ROOT)]
    job.inputs = {"torch": "torch==2.9", "package": "paragon-export[rtx] @ x; touch hacked"}
    assert installed(job) == [["torch==2.9"], ["paragon-export[rtx] @ x; touch hacked"]]


def installed(job: Job) -> list[list[str]]:
    """Return the arguments of each call of pip, after its own options."""
    calls = job.run("Install").stdout.split("-m\npip\ninstall\n--quiet\n")[1:]
    return [call.splitlines() for call in calls]


# --- judging -------------------------------------------------------------------------------------


@pytest.mark.processes
def test_models_and_checkpoints_are_judged(job: Job) -> None:
    """A right model passes and a wrong one fails the job; both have page, table and JUnit."""
    base = job.commit()
    for name in ("good", "wrong"):
        checkpoint = tiny_checkpoint(job.repository / f"{name}.safetensors")
        size = Size(20, 24)
        export(
            ExportPlan(checkpoint=checkpoint, output=job.repository / f"{name}.onnx", static=size)
        )
    os.rename(job.repository / "good.onnx", job.repository / HOSTILE)
    tiny_checkpoint(job.repository / "wrong.safetensors", seed=1)
    job.commit()

    assert job.judge(base=base, files="**/*.onnx") == 3, "the checkpoint of wrong.onnx has changed"
    assert job.summary.count("### ✅ paragon-export parity: passed") == 1
    assert job.summary.count("### ❌ paragon-export parity could not run") == 1
    assert "was exported from" in job.summary
    stems = {name.rpartition(".")[0] for name in job.reports}
    assert len(stems) == 1, "what was refused has no report"
    assert {name.rpartition(".")[2] for name in job.reports} == {"html", "md", "xml"}
    (junit,) = (job.folder / "temp" / "paragon-export").glob("*.xml")
    assert ElementTree.parse(junit).getroot().get("failures") == "0"
    assert not list(job.folder.rglob("hacked"))
    assert HOSTILE.replace("`", "") in job.summary.replace("`", "")


@pytest.mark.processes
def test_a_changed_checkpoint_is_judged_with_its_models(job: Job) -> None:
    """Or exported, if it has none: a failed verdict is exit code 1."""
    job.commit()
    checkpoint = tiny_checkpoint(job.repository / "net.safetensors")
    model = job.repository / "net_20x24.onnx"
    export(ExportPlan(checkpoint=checkpoint, output=model, static=Size(20, 24)))
    tiny_checkpoint(checkpoint, seed=1)
    alone = tiny_checkpoint(job.repository / "alone.safetensors")
    job.commit()
    options = {"options": "--other-checkpoint", "export_options": "--static 20x24"}

    assert job.judge(changed_only="false", files="*.safetensors", **options) == 1
    assert "### ❌ paragon-export parity: failed\n\n`net_20x24.onnx` failed: " in job.summary
    assert "### ✅ paragon-export onnx: passed" in job.summary
    assert alone.with_suffix(".onnx").exists() is False


@pytest.mark.processes
def test_nothing_to_judge_is_no_failure(job: Job) -> None:
    base = job.commit()
    assert job.judge(base=base) == 0
    assert job.summary == "No checkpoint or model to judge.\n"
