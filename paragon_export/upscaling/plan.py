"""Plan: what to upscale, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paragon_export.media.saving import format_of
from paragon_export.media.videos import VideoForm
from paragon_export.networks.describe import LoadedNetwork
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.upscaling.jobs import Jobs
from paragon_export.upscaling.pictures import Form

TILE_WORDS = ("auto", "none")


@dataclass(frozen=True, kw_only=True)
class UpscalePlan:
    """What to upscale, and how."""

    model: LoadedNetwork | Path
    """A network, or a checkpoint, ONNX file or engine."""
    inputs: tuple[Path, ...]
    """Pictures, videos and folders. Subfolders are searched and appear in the output."""
    output: Path
    """A folder, which is made; or a file, for one input file."""
    tile: str | Size = "auto"
    """``auto``: tiles where the picture does not fit into memory; ``none``; or their size."""
    blend: bool = False
    """Blend tiles where they cannot give what the whole gives, or only after many passes."""
    backend: OnnxBackend = OnnxBackend.ONNXRUNTIME
    """What runs an ONNX file."""
    fit: Size | None = None
    """Size to reduce larger results to; their aspect ratio is kept."""
    format: str | None = None
    """Of pictures, ``png``, ``jpg``, ``webp``, ``tiff`` or ``avif``; or of videos, ``mkv``, ``mp4``, ``mov``
    or ``webm``. None: that of the output's name, or PNG and that of each video."""
    quality: int | None = None
    """1 to 100, of JPEG, WebP and AVIF, and of videos."""
    skip_existing: bool = False
    """Leave out what is there already."""
    options: NetworkOptions = field(default_factory=NetworkOptions)
    """Values that the tensors do not determine, if the model is a checkpoint."""
    ray: str | None = None
    """None: this process. ``local``, ``auto`` or HOST:PORT: a Ray cluster; see ``cluster.on_ray``."""
    ray_cores: int = 1
    """Processor cores of each worker there, and threads of its session."""

    @property
    def video_form(self) -> VideoForm:
        """What is asked of videos."""
        return VideoForm(quality=self.quality, fit=self.fit)

    def picture_form(self, found: Jobs) -> Form:
        """Return what is asked of pictures."""
        kinds = {format_of(job.output.suffix) for job in found.jobs if not job.is_video}
        return Form(kind=kinds.pop() if kinds else "png", quality=self.quality, fit=self.fit)

    @property
    def run(self) -> str:
        """Name of what frames depend on; see ``upscale_one``."""
        return f"{self.digest} {self.backend} {self.options}" + (" blend" if self.blend else "")

    @property
    def digest(self) -> str:
        """SHA-256 of the file of the network."""
        model = self.model
        return model.checkpoint.sha256 if isinstance(model, LoadedNetwork) else sha256_of(model)
