"""The command line: global options, and one module for each command.

Heavy libraries are imported inside commands.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

import paragon_export
from paragon_export.cli import (
    audit,
    bench,
    demo,
    inspect,
    onnx,
    parity,
    plan,
    quantize,
    trt,
)
from paragon_export.cli.deploy import ncnn, script, serve_config
from paragon_export.cli.run import glyphs, upscale
from paragon_export.cli.show.held_notes import take_notes
from paragon_export.cli.shrink import distill, prune
from paragon_export.errors import COULD_NOT_RUN, reason_of
from paragon_export.system.streams import guarded
from paragon_export.system.text import one_line

NAME = "paragon-export"

GLOBAL = ("--debug", "--verbose", "--quiet")
"""Options that may stand anywhere on the command line."""

OF_PYTORCH = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
"""Environment variables by default, but for ``bench``, which leaves PyTorch as its users have it.

PyTorch's threads spin while they wait; on a busy machine a judgement that takes a third of a second
then takes fourteen. Its memory is in small pages; of a large picture their first access takes about
as long as the arithmetic, in large pages half of that.
"""

app = typer.Typer(
    name=NAME,
    help="From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing Rich would take longer than all the rest
)
app.command()(inspect.inspect)
app.command()(onnx.onnx)
app.command()(quantize.quantize)
app.command()(prune.prune)
app.command()(distill.distill)
app.command()(audit.audit)
app.command()(trt.trt)
app.command()(plan.plan)
app.command()(parity.parity)
app.command()(bench.bench)
app.command()(upscale.upscale)
app.command()(glyphs.glyphs)
app.command()(script.script)
app.command()(serve_config.serve_config)
app.command()(ncnn.ncnn)
app.command()(demo.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{NAME} {paragon_export.__version__}\n")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Also print the traceback of an error.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print each step and its seconds on stderr.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print no notes and no progress on stderr.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """From a trained super-resolution checkpoint to verified ONNX models and TensorRT engines."""
    if verbose and quiet:
        raise typer.BadParameter("give --verbose or --quiet, not both")
    is_benchmark = context.invoked_subcommand == "bench"
    if not is_benchmark:
        for name, value in OF_PYTORCH.items():
            os.environ.setdefault(name, value)
    if "--help" in sys.argv[1:]:
        return
    if quiet:
        from paragon_export.cli.show import console

        context.with_resource(console.quiet())
        return
    live = sys.stderr.isatty() and "--json" not in sys.argv[1:]
    if live or verbose or any(argument.startswith("--images") for argument in sys.argv):
        from paragon_export.cli.show.progress import StderrReporter
        from paragon_export.system.progress import reporting

        reporter = StderrReporter(live=live, log=verbose, in_background=not is_benchmark)
        context.with_resource(reporting(reporter))


def main() -> None:
    """Run the command line. Whatever is raised is one line and exit code 3."""
    take_notes()  # of a command that failed earlier in this process
    arguments = upscale.with_address(_global_first(sys.argv[1:]))
    with guarded():
        try:
            app(args=arguments, prog_name=NAME)
        except Exception as error:  # the last place where it can be reported
            if "--debug" in arguments:
                traceback.print_exc()
            reason = one_line(reason_of(error))
            if "--json" in arguments:
                from paragon_export.cli.show.console import show_error

                show_error(reason)
            print(f"{NAME}: {reason}", file=sys.stderr)
            sys.exit(COULD_NOT_RUN)


def _global_first(arguments: list[str]) -> list[str]:
    """Move the global options to the front; what comes after ``--`` is left alone."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = arguments[:end], arguments[end:]
    moved = [argument for argument in options if argument in GLOBAL]
    return [*moved, *(a for a in options if a not in GLOBAL), *rest]
