"""`cambench explain`: where pictures go, and what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.command_line import cambench, refused


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two images of one stem in folders of their own."""
    made = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        made.append(tmp_path / name / "dog.png")
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made[-1])
    return made


def test_pictures_go_into_the_working_directory_and_never_over_each_other(images, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    before = [image.read_bytes() for image in images]
    done = cambench("explain", *images, "--methods", "grad_cam", cwd=here)
    assert done.returncode == 0, done.stderr
    names = ["dog-2.explained.png", "dog.explained.png"]
    assert sorted(file.name for file in here.iterdir()) == names
    assert [list(image.parent.iterdir()) for image in images] == [[image] for image in images]
    assert [image.read_bytes() for image in images] == before
    first = (here / "dog.explained.png").read_bytes()
    second = cambench("explain", images[1], "--methods", "random", "--target", "4", cwd=here)
    assert "explained: class 4 " in second.stdout
    assert ", predicted: class " in second.stdout
    assert "dog-2.explained.png" in second.stdout
    assert sorted(file.name for file in here.iterdir()) == names
    assert (here / "dog.explained.png").read_bytes() == first


def test_out_is_a_file_for_one_image_and_a_folder_for_many(images, tmp_path):
    cheap = ["--methods", "random"]
    done = cambench("explain", *images, *cheap, "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "new").glob("*.png"))) == 2
    refused(cambench("explain", *images, *cheap, "--out", tmp_path / "x.png"), "give a folder")
    refused(cambench("explain", images[0], *cheap, "--out", images[0]), "is the image itself")
    refused(cambench("explain", images[0], tmp_path / "none.jpg", *cheap), "none.jpg")
