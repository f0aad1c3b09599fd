"""Tests in programs of others, which live in an environment of their own: ``make test-clients``."""
