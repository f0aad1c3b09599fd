"""Results of upscaling, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paragon_export.specs.types import Size
from paragon_export.tiling.blend import BlendDifference


@dataclass(frozen=True, kw_only=True)
class Upscaled:
    """One picture or video that was made."""

    source: Path
    output: Path
    size: Size
    """Of the source."""
    output_size: Size
    tile: Size | None = None
    """Size of the tiles; None: it was computed at once."""
    notes: tuple[str, ...] = ()
    """What was converted."""
    frames: int | None = None
    """Of a video; None: it is a picture."""


@dataclass(frozen=True, kw_only=True)
class NotUpscaled:
    """One picture or video that could not be made."""

    source: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class UpscaleResult:
    """What became of all inputs."""

    done: tuple[Upscaled, ...] = ()
    failed: tuple[NotUpscaled, ...] = ()
    skipped: tuple[Path, ...] = ()
    """Outputs that were there already."""
    seconds: float = 0.0
    """From the first reading to the last writing, without opening the model."""
    notes: tuple[str, ...] = ()
    blend: BlendDifference | None = None
    """How far blended tiles are from the whole; None: none were computed."""

    @property
    def passed(self) -> bool:
        """Whether every input has its output."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "passed": self.passed,
            "seconds": self.seconds,
            "done": [
                {
                    "source": str(one.source),
                    "output": str(one.output),
                    "size": str(one.size),
                    "output_size": str(one.output_size),
                    "tile": str(one.tile) if one.tile else None,
                    "frames": one.frames,
                    "notes": list(one.notes),
                }
                for one in self.done
            ],
            "failed": [{"source": str(one.source), "reason": one.reason} for one in self.failed],
            "skipped": [str(path) for path in self.skipped],
            "notes": list(self.notes),
            "blend": self.blend.to_json() if self.blend else None,
        }


def result_of(
    done: Sequence[Upscaled],
    failed: Sequence[NotUpscaled],
    skipped: Sequence[Path],
    seconds: float,
    notes: Sequence[str],
    blend: BlendDifference | None = None,
) -> UpscaleResult:
    """Return what became of all inputs. Each conversion is noted once."""
    kinds = Counter(
        text if one.frames else f"converted {text}" for one in done for text in one.notes
    )
    converted = [f"{text} ({count} of {len(done)})" for text, count in kinds.items()]
    return UpscaleResult(
        done=tuple(done),
        failed=tuple(failed),
        skipped=tuple(skipped),
        seconds=seconds,
        notes=(*notes, *converted),
        blend=blend,
    )
