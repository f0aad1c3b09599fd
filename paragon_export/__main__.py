"""``python -m paragon_export``."""

from paragon_export.cli import main

if __name__ == "__main__":
    main()
