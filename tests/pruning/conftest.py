"""A folder of small photographs: pieces of the shipped one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from paragon_export.assets import PHOTOGRAPH

SIDE = 136


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs")
    with Image.open(PHOTOGRAPH) as image:
        for index in range(8):
            left, top = 60 * (index % 4), 60 * (index // 4)
            image.crop((left, top, left + SIDE, top + SIDE)).save(path / f"{index}.png")
    return path
