"""Run a network on the pictures that people have: files and folders in, files and folders out.

May import everything but ``cli``.
"""
