"""Run commands in processes that need not load the large libraries: ``python -m tests.forked``.

Loading PyTorch, ONNX and ONNX Runtime takes 3 s of processor time, and unloading them 0.5 s. This
process loads them once, then forks for every request that it reads: a JSON object a line with
``args``, ``cwd``, ``stdout`` and ``stderr`` (the files to write), ``env`` (variables to set),
``fewer_sizes`` (whether to judge as the fixture of this name lets tests judge) and ``seconds`` (the
time limit). It answers each with the exit code. The child runs ``python -m paragon_export`` and the
functions registered for its end, then leaves without unloading modules. Of the tool itself nothing is
loaded before the fork.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, ClassVar

import onnx_ir  # noqa: F401 - loaded for those that are forked
import onnxruntime  # noqa: F401
import onnxsim  # noqa: F401
import PIL.Image  # noqa: F401
import rich.progress
import rich.table  # noqa: F401
import torch.fx  # noqa: F401
import typer._adapters  # noqa: F401
import yaml  # noqa: F401


def become(request: dict[str, Any]) -> None:
    """Set up what a shell sets up for a new process."""
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for handle, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        opened = os.open(name, os.O_RDONLY if handle == 0 else os.O_WRONLY)
        os.dup2(opened, handle)
        os.close(opened)
    sys.path[0] = request["cwd"]  # as ``python -m`` has it
    sys.argv = ["paragon_export", *request["args"]]
    if request["fewer_sizes"]:
        sys.meta_path.insert(0, FewerSizes())


class FewerSizes(MetaPathFinder):
    """Changes the modules that hold the sizes to judge at when the tool loads them."""

    CHANGES: ClassVar[dict[str, Callable[[Any], dict[str, Any]]]] = {
        "paragon_export.inputs.large": lambda module: {"LARGE": module.Size(24, 32)},
        "paragon_export.inputs.sizes": lambda _: {"residue_sizes": lambda *_: []},
    }

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in self.CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_changed(module: Any) -> None:
            load(module)
            vars(module).update(self.CHANGES[name](module))

        loader.exec_module = load_changed
        return spec


def run_the_tool() -> int:
    """Run the command line and return the exit code that Python would end with.

    Any other exception than the end of the program is left to end it with a traceback.
    """
    code: Any = 0
    try:
        runpy.run_module("paragon_export", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    return code if isinstance(code, int) else int(code is not None)


def wait(child: int, seconds: float) -> int:
    """Return the exit code of a child, negative if a signal ended it; kill it when time is up."""
    end = time.monotonic() + seconds
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(found[1])


def main() -> None:
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            code = run_the_tool()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(wait(child, request["seconds"]), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
