"""Folders that servers load: an exported model in, its configuration and a copy of it out.

May import everything except the command line, ``ncnn``, ``players`` and ``testing``. No server is imported here.
"""
