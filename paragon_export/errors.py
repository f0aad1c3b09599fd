"""The errors that a user can cause. The command line ends with exit code 3 for each of them.

::

    ParagonExportError
    +-- CheckpointError               the file is not a usable checkpoint
    |   +-- UnsupportedNetworkError   the checkpoint holds a network that is not supported
    +-- PlanError                     the request is impossible or contradicts itself
    +-- MissingDependencyError        an optional dependency is not installed
    +-- StageError                    a library failed in one stage of the flow
        +-- TraceError
        +-- RunError
        +-- OutOfMemoryError          no verdict about the artifact is possible
        +-- EngineBuildError

A message says what was asked, what was found, and what to do. A failed parity check raises no
error: it is a result.
"""

from __future__ import annotations

COULD_NOT_RUN = 3
"""Exit code of a command that ends with an error."""


class ParagonExportError(Exception):
    """Base of every error that a user can cause. Its text is one line."""


class CheckpointError(ParagonExportError):
    """The file cannot be read, or its tensors do not form a complete network."""


class UnsupportedNetworkError(CheckpointError):
    """The tensors belong to a network that this tool does not support."""


class PlanError(ParagonExportError):
    """The request contradicts itself, the checkpoint, or the machine."""


class InexactTilesError(PlanError):
    """Tiles do not give what the whole picture gives, or it cannot be found out that they do."""


class MissingDependencyError(ParagonExportError):
    """An optional dependency is missing. The text names the extra that installs it."""


class StageError(ParagonExportError):
    """A stage of the flow failed. The text contains the message of the library that failed."""


class TraceError(StageError):
    """The network cannot be converted to an ONNX graph."""


class RunError(StageError):
    """An artifact could not be run on an input that it should accept."""


class OutOfMemoryError(StageError):
    """A runtime ran out of memory.

    It is no ``RunError``, because that counts as a failed parity check.
    """


class EngineBuildError(StageError):
    """TensorRT rejected the model or the profile."""


OUT_OF_MEMORY_MESSAGES = ("allocate memory", "Failed to allocate", "bad_alloc", "bad allocation",
                          "not enough memory", "failed to map segment", "out of memory",
                          "DefaultCPUAllocator")  # fmt: skip
"""Parts of the messages of PyTorch, ONNX Runtime, OpenVINO and the C++ library."""


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, whichever library raised it."""
    return isinstance(error, MemoryError) or any(
        message in str(error) for message in OUT_OF_MEMORY_MESSAGES
    )


def reason_of(error: Exception) -> str:
    """Return the text to show the user for any error, including unexpected ones."""
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
