"""Files for ncnn: a checkpoint in, a verified pair of ``.param`` and ``.bin`` out.

May import everything except the command line, ``players`` and ``testing``. ncnn and pnnx are optional; they are
imported where they are used.
"""
