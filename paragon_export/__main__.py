"""``python -m paragon_export``, and what the ``paragon-export`` command calls."""

from paragon_export import signals, streams


def main() -> None:
    """Listen to Ctrl-C before anything that takes time is imported, and run the command line."""
    streams.fill_gaps()
    signals.listen()
    from paragon_export import cli

    cli.main()


if __name__ == "__main__":
    main()
