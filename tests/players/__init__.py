"""Tests of scripts for players, as far as they need no player; the others are in ``tests/clients``."""
