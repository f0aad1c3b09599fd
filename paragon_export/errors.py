"""Everything that ends in exit code 3.

::

    ParagonExportError
    +-- CheckpointError               the file is not a usable checkpoint
    |   +-- UnsupportedNetworkError   it is one, of a network that is not served
    +-- PlanError                     what was asked for is impossible or contradicts itself
    +-- MissingDependencyError        an optional part is not installed
    +-- StageError                    a stage failed in a library that it owns
        +-- TraceError
        +-- RunError
        +-- OutOfMemoryError          no verdict: it says nothing about the artifact
        +-- EngineBuildError

A message says what was asked, what was found, and what to do. A failed parity is not here:
it is a verdict, and verdicts are data.
"""

from __future__ import annotations

COULD_NOT_RUN = 3
"""Exit code of a command that ended in an error."""


class ParagonExportError(Exception):
    """Base of every error that a user can cause; its text is one line for people."""


class CheckpointError(ParagonExportError):
    """The file cannot be read, or its tensors do not make up a network."""


class UnsupportedNetworkError(CheckpointError):
    """The tensors are those of a network that this tool does not serve."""


class PlanError(ParagonExportError):
    """The request contradicts itself, the checkpoint, or the machine."""


class MissingDependencyError(ParagonExportError):
    """An optional dependency is needed; the text names the extra that brings it."""


class StageError(ParagonExportError):
    """A stage failed; the text keeps the message of the library it used."""


class TraceError(StageError):
    """The network cannot be written as an ONNX graph."""


class RunError(StageError):
    """An artifact could not be run on an input that it should accept."""


class OutOfMemoryError(StageError):
    """A runtime got no memory. Not a RunError: that would be a failed verdict."""


class EngineBuildError(StageError):
    """TensorRT refused the model or the profile."""


NO_MEMORY = ("allocate memory", "Failed to allocate", "bad_alloc", "bad allocation",
             "not enough memory", "failed to map segment", "out of memory",
             "DefaultCPUAllocator")  # fmt: skip
"""What the libraries say when they get no memory."""


def is_memory_error(error: BaseException) -> bool:
    """Tell whether an error of any library means that there was no memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def reason_of(error: Exception) -> str:
    """Return what to tell a user of an error, also of one that nobody foresaw."""
    if isinstance(error, ParagonExportError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None:
        if is_memory_error(cause):
            reason = str(cause).split("\n")[0][:200] or "MemoryError"
            return f"not enough memory ({reason}); free some, or ask for a smaller size"
        cause = cause.__cause__ or cause.__context__
    return (
        f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback, "
        "and report it"
    )
