"""Entry point of ``python -m paragon_export`` and of the ``paragon-export`` command."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C prints no traceback during the imports below; ``signals.listen`` replaces this handler.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system import signals, streams, supervised


def main() -> None:
    """Handle signals, then import and run the command line.

    Everything that changes the whole process is set up here: signal handlers, closed standard
    streams, and the child process that is used where memory is limited.
    """
    streams.fill_gaps()
    supervised.run_in_child_if_memory_is_limited()
    signals.listen()
    try:
        from paragon_export.cli import app as cli

        cli.main()
    except SystemExit as end:
        supervised.report_end(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except MemoryError:  # too little memory left to format an error message
        os.write(2, b"paragon-export: not enough memory\n")
        os._exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
