"""Picture and video files in and out, at their own bit depth and with their colors.

May import ``system``, ``specs`` and what these import.
"""
