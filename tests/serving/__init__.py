"""Tests of what servers load, as far as they need no server; the others are in ``tests/clients``."""
