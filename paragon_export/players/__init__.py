"""Scripts that run an exported model in a video player.

May import everything except the command line and ``testing``. Nothing of a player is imported here: the
script that is written runs in the player's own Python.
"""
