"""Videos: frames in, upscaled frames out; sound, subtitles, chapters and times as they were.

Each frame is RGB in [0, 1] by the matrix and the range that the file states.
"""

from paragon_export.media.videos.flow import (
    SUFFIXES,
    Upscaler,
    VideoForm,
    VideoResult,
    upscale_video,
)

__all__ = ["SUFFIXES", "Upscaler", "VideoForm", "VideoResult", "upscale_video"]
