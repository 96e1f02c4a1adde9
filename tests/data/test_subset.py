"""Subsets: order, limits, calibration, batches, and how they are found."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import SUBSETS, Geometry, load_subset, register_subset
from bench.data.manifest import Manifest
from bench.data.scenes import ScenesSource
from bench.data.subset import Subset, id_hash, split
from bench.errors import BenchError


def test_limits_are_nested() -> None:
    whole = load_subset("scenes-val")
    for n in (1, 7, 400, 2000):
        assert whole.limit(n).ids == whole.ids[:n]
        assert load_subset("scenes-val", limit=n).ids == whole.ids[:n]
    assert whole.limit(50).limit(7).ids == whole.limit(7).ids
    with pytest.raises(BenchError, match="at least 1"):
        whole.limit(0)


def test_the_order_of_the_rule_is_that_of_the_hash() -> None:
    source = ScenesSource("x", 1, 200, pairs=True)
    scored, aside = split(Manifest("x", "folder", calibration="hash"), source)
    assert isinstance(aside, tuple)
    assert sorted(scored + aside) == list(range(400))
    hashes = [id_hash(source.image_ids[p]) for p in scored]
    assert hashes == sorted(hashes)
    assert all(int(h, 16) % 5 for h in hashes)
    assert all(int(id_hash(source.image_ids[p]), 16) % 5 == 0 for p in aside)
    # Both items of an image stay on one side.
    assert not {source.image_ids[p] for p in scored} & {source.image_ids[p] for p in aside}
    assert split(Manifest("x", "folder"), source)[1] is None


def test_what_is_scored_cannot_calibrate() -> None:
    source = ScenesSource("x", 1, 4, pairs=False)
    manifest = Manifest("x", "scenes", size=4)
    with pytest.raises(BenchError, match="overlaps"):
        Subset("x", manifest, source, (0, 1), (1, 2))
    with pytest.raises(BenchError, match="is empty"):
        Subset("x", manifest, source, ())
    subset = Subset("x", manifest, source, (0, 1), (2, 3))
    assert subset.limit(1).calibration().ids == ("x-000002", "x-000003")
    assert subset.calibration().name == "x/calibration"
    assert subset.calibration().calibration() is None
    assert Subset("x", manifest, source, (0, 1), ()).calibration() is None


def test_a_batch_is_its_samples() -> None:
    subset = load_subset("scenes-pairs", limit=12)
    batch = subset.batch([3, 0, 11], subset.geometry)
    assert batch.pixels.shape == (3, 3, 96, 96)
    assert batch.pixels.dtype == torch.float32
    assert batch.pixels.is_contiguous()
    assert batch.labels.dtype == torch.int64
    assert batch.ids == (subset.ids[3], subset.ids[0], subset.ids[11])
    for row, i in enumerate([3, 0, 11]):
        sample = subset[i]
        assert torch.equal(
            batch.pixels[row], torch.from_numpy(sample.image).permute(2, 0, 1).float() / 255
        )
        assert torch.equal(batch.truth.masks[row], torch.from_numpy(sample.mask))
        assert np.array_equal(batch.truth.boxes[row].numpy(), sample.boxes)
        assert int(batch.labels[row]) == sample.label == subset.labels[i]
    assert batch.truth.ignore is None


def test_a_batch_follows_another_geometry() -> None:
    subset = load_subset("scenes-val", limit=60)
    geometry = Geometry(size=160, resize="short", resize_size=192)
    batch = subset.batch(range(60), geometry)
    assert batch.pixels.shape == (60, 3, 160, 160)
    inside = 0
    for boxes, mask in zip(batch.truth.boxes, batch.truth.masks, strict=True):
        # A box that the crop cuts need not be tight any more; the others are.
        if len(boxes) == 1 and boxes.min() > 0 and boxes.max() < 160:
            inside += 1
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert boxes[0].tolist() == [float(edge) for edge in edges]
    assert inside > 5
    with pytest.raises(BenchError, match="In the subset scenes-val"):
        subset.batch([0], Geometry(224, "none", 224))


def test_subsets_survive_pickling() -> None:
    subset = load_subset("scenes-pairs", limit=5)
    again = pickle.loads(pickle.dumps(subset))
    assert again.ids == subset.ids
    assert np.array_equal(again[4].image, subset[4].image)
    assert again.calibration().name == "scenes-calibration"
    assert again.manifest_id == subset.manifest_id


def test_unknown_names_are_met_with_suggestions() -> None:
    with pytest.raises(BenchError, match="Did you mean scenes-val"):
        load_subset("scenes-vall")
    with pytest.raises(BenchError, match="no file or folder"):
        load_subset("nowhere/at/all")
    assert SUBSETS.select("scenes") == [
        "scenes-calibration",
        "scenes-pairs",
        "scenes-train",
        "scenes-trigger",
        "scenes-val",
    ]


def test_a_registered_function_is_a_subset() -> None:
    @register_subset("mine")
    def mine() -> Subset:
        return load_subset("scenes-val", limit=3)

    try:
        assert len(load_subset("mine")) == 3
        assert load_subset("mine", limit=2).ids == mine().ids[:2]
        with pytest.raises(BenchError, match="already a subset named 'mine'"):
            register_subset("mine")(mine)
    finally:
        SUBSETS.remove("mine")


def test_a_manifest_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "few.toml"
    file.write_text('name = "few"\nkind = "scenes"\nseed = 7\nsize = 3\n')
    subset = load_subset(file)
    assert subset.ids == ("few-000000", "few-000001", "few-000002")
    assert subset.geometry is None
    assert subset.calibration() is None


def test_opening_scenes_does_not_import_datasets() -> None:
    code = (
        "import sys; from bench.data import load_subset; load_subset('scenes-val', "
        "limit=1)[0];assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
