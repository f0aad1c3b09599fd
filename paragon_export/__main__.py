"""``python -m paragon_export``, and what the ``paragon-export`` command calls."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Quiet from the first line on; ``signals.listen`` takes over once it is imported.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))

from paragon_export.errors import COULD_NOT_RUN
from paragon_export.system import signals, streams, supervised


def main() -> None:
    """Listen to Ctrl-C before anything that takes time is imported, and run the command line."""
    streams.fill_gaps()
    supervised.run_in_child_if_memory_is_limited()
    signals.listen()
    try:
        from paragon_export.cli import app as cli

        cli.main()
    except MemoryError:  # there was not even enough to say so in the usual way
        os.write(2, b"paragon-export: not enough memory\n")
        os._exit(COULD_NOT_RUN)


if __name__ == "__main__":
    main()
