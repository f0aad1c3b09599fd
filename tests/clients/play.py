"""Run a VapourSynth script on one frame; this file is run by the Python of the clients' environment.

    python play.py SCRIPT IN.npz OUT.npz

IN holds the planes ``0``, ``1``, ``2`` of a frame, and as JSON its format's name (``format``) and its
properties (``props``). OUT holds the planes of the first frame of the result, its format and its
properties.
"""

from __future__ import annotations

import json
import runpy
import sys

import numpy as np
import vapoursynth as vs  # type: ignore[import-not-found]


def clip_of(given):
    """Return a clip of two equal frames."""
    planes = [given[str(number)] for number in range(3) if str(number) in given]
    height, width = planes[0].shape
    form = getattr(vs, str(given["format"]))
    blank = vs.core.std.BlankClip(width=width, height=height, format=form, length=2)

    def filled(n, f):
        frame = f.copy()
        for number, plane in enumerate(planes):
            np.asarray(frame[number])[...] = plane
        return frame

    clip = vs.core.std.ModifyFrame(blank, blank, filled)
    return vs.core.std.SetFrameProps(clip, **json.loads(str(given["props"])))


def main(script, source, target):
    given = np.load(source)
    runpy.run_path(script, init_globals={"source": clip_of(given)})
    clip = vs.get_output(0).clip
    frame = clip.get_frame(0)
    planes = {str(n): np.asarray(frame[n]).copy() for n in range(clip.format.num_planes)}
    props = {name: int(value) for name, value in frame.props.items() if isinstance(value, int)}
    np.savez(target, format=clip.format.name, props=json.dumps(props), **planes)


if __name__ == "__main__":
    main(*sys.argv[1:])
