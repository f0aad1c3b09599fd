"""A checkpoint and photographs in, a smaller checkpoint and what it loses out.

Nothing here is parity: the picture changes, and the change is measured on photographs. May import
everything except the command line, ``serving``, ``ncnn``, ``players`` and ``testing``.
"""
