"""What a run keeps of the images that its board draws."""

from __future__ import annotations

import numpy as np
import torch

import bench
from bench.board.gallery import load_gallery
from bench.data.geometry import Geometry
from bench.records.gallery_parts import write_gallery
from bench.run.gallery_items import SMALL, keep_image, keep_map


def test_pixels_title_boxes_and_maps_come_back(tmp_path):
    subset = bench.load_subset("scenes-val", limit=2)
    batch = subset.batch([0, 1], Geometry(96, "none", 96))
    kept = {}
    for place, item in enumerate(batch.ids):
        keep_image(kept, batch, place, f"class {place}")
        keep_map(kept, item, "grad_cam", torch.ones(224, 224), 224)
    write_gallery(tmp_path, "net-eval-000000-000002", kept)
    found = load_gallery(tmp_path, ["net"])["net"]
    assert list(found) == list(batch.ids)
    for place, picture in enumerate(found.values()):
        assert picture.title == f"class {place}"
        assert picture.image.shape == (*batch.pixels.shape[-2:], 3)
        np.testing.assert_array_equal(picture.boxes, batch.truth.boxes[place].numpy())
        assert len(picture.boxes) >= 1
        assert SMALL <= picture.maps["grad_cam"].shape[0] < 2 * SMALL
