"""One video: the frames of a file through a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paragon_export.bench.contenders import BLEND, FEATURES, STATE
from paragon_export.bench.measure import BLEND_OF_FRAMES
from paragon_export.errors import PlanError
from paragon_export.media.videos import Upscaler, VideoForm, upscale_video
from paragon_export.media.videos.flow import Remembered
from paragon_export.specs.types import Size
from paragon_export.system.optional import require
from paragon_export.upscaling.results import Upscaled
from paragon_export.upscaling.tiles import Tiling


def check_video(tiling: Tiling) -> None:
    """Check before anything is read that videos can be computed.

    Raises:
        PlanError: If a video network is to be computed in tiles.
        MissingDependencyError: If PyAV is not installed.
    """
    require("av", "video")
    if carries_features(tiling) and tiling.asked not in ("auto", "none"):
        raise PlanError(
            f"{tiling.model.name} carries features from frame to frame, which are not computed in tiles; "
            "leave out --tile"
        )


def carries_features(tiling: Tiling) -> bool:
    """Return whether a network gets features of the frame before."""
    return any(port.name == STATE for port in tiling.model.inputs)


def upscaler_of(tiling: Tiling) -> Upscaler:
    """Return how the frames of one video are computed: a video network gets features of the frame before."""
    if carries_features(tiling):
        network = VideoNetwork(tiling)
        return Upscaler(network.compute, network.reset, network.state, network.restore)
    tiling.several = True

    def compute(frame: np.ndarray) -> np.ndarray:
        return tiling.runner_for(frame[0], 1).infer(tiling.model.feeds(frame))["output"]

    return Upscaler(compute, at_once=tiling.at_once)


class VideoNetwork:
    """A network with features that it carries from frame to frame."""

    def __init__(self, tiling: Tiling) -> None:
        """Begin before the first frame."""
        self._model = tiling.model
        self._features: np.ndarray | None = None

    def compute(self, frame: np.ndarray) -> np.ndarray:
        """Upscale the next frame, (1, 3, H, W), and keep its features."""
        feeds = self._model.feeds(frame)
        if self._features is not None:
            feeds |= {STATE: self._features, BLEND: np.array(BLEND_OF_FRAMES, np.float32)}
        found = self._model.runner.infer(feeds)
        self._features = found[FEATURES]
        return found["output"]

    def reset(self) -> None:
        """Forget the features."""
        self._features = None

    def state(self) -> Remembered:
        """Return the features."""
        return {} if self._features is None else {FEATURES: self._features}

    def restore(self, state: Remembered) -> None:
        """Keep features that ``state`` returned."""
        self._features = state.get(FEATURES)


def run_of(run: str, tile: str | Size) -> str:
    """Return what tells runs apart whose frames may differ."""
    return f"{run} {tile}"


def upscale_one(source: Path, output: Path, tiling: Tiling, form: VideoForm, run: str) -> Upscaled:
    """Upscale one video; see :func:`upscale_video`.

    Args:
        source: Video file.
        output: File to be written.
        tiling: The network and its tiles.
        form: What is asked of the output.
        run: Names what the frames depend on, besides the tiles.

    Raises:
        ParagonExportError: If it cannot be read, computed or written.
    """
    result = upscale_video(
        source,
        output,
        upscaler_of(tiling),
        scale=tiling.model.scale,
        run=run_of(run, tiling.asked),
        form=form,
    )
    gray = (
        ("frames are gray, as the network takes luma alone",) if tiling.model.channels == 1 else ()
    )
    return Upscaled(
        source=source, output=output, size=result.size, output_size=result.output_size,
        notes=(*gray, *result.notes), frames=result.frames,
    )  # fmt: skip
