"""Loading: a frame that is kept against one that is decoded, and a run that reads ahead against one
that does not.

Run on an idle machine with two cores or more: `pytest tests/perf/test_reading.py -m perf`. Ratios
are of pairs that are run one after the other. The images are enlarged scenes as JPEG.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import bench
from bench.data import Geometry, Subset
from bench.data.cache import BOUND_VARIABLE
from bench.engine.memory import keep_memory
from bench.files import CACHE_VARIABLE
from bench.run.executors import LocalExecutor
from bench.types import Sample
from tests.perf.ratios import Row, interleaved, report

IMAGES = 40
BATCH = 10
LATENCY = 0.02
GEOMETRY = Geometry(224, "short", 256)

pytestmark = pytest.mark.perf


def pictures(place: Path, width: int, height: int) -> Subset:
    scenes = bench.load_subset("scenes-val", limit=IMAGES)
    rows = ["file,label"]
    for i, sample in enumerate(scenes):
        picture = Image.fromarray(sample.image).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(place / f"{i}.jpg", quality=97)
        rows.append(f"{i}.jpg,{sample.label}")
    (place / "annotations.csv").write_text("\n".join(rows) + "\n")
    (place / "manifest.toml").write_text('name = "photos"\nkind = "folder"\n')
    return bench.load_subset(place)


def load(photos: Subset) -> None:
    for start in range(0, IMAGES, BATCH):
        photos.batch(range(start, start + BATCH), GEOMETRY)


def test_decoding_over_a_kept_frame(benchmark, tmp_path, monkeypatch):
    keep_memory()  # as in a run
    photos = pictures(tmp_path, 500, 375)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def bounded(gib: str) -> None:
        monkeypatch.setenv(BOUND_VARIABLE, gib)
        load(photos)

    bounded("1")
    ratios = interleaved(lambda: bounded("0"), lambda: bounded("1"))
    row = Row(
        "images of 500 x 375 as frames of 224, kept on disk",
        "reading, decoding and resizing the files",
        1.0,
    )
    report(benchmark, row, ratios)


class Slow:
    """A source on a disk, or behind a network, that answers after a while."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, position: int) -> Sample:
        time.sleep(LATENCY)
        return self._source.read(position)


@pytest.mark.parametrize("what", ["decoding", "waiting"])
def test_a_run_alone_over_one_that_reads_ahead(benchmark, tmp_path, what):
    """Large pictures to decode, or small ones to wait for, and little work, so that reading is a
    good part of it.
    """
    torch.set_num_threads(1)
    model = bench.load_model("resnet10t")
    subset = (
        pictures(tmp_path, 1600, 1200)
        if what == "decoding"
        else bench.load_subset("scenes-val", limit=IMAGES)
    )
    if what == "waiting":
        model = bench.load_model("resnet-scenes")
        subset = dataclasses.replace(subset, source=Slow(subset.source))

    def run(ahead: bool) -> None:
        given = {"calibration": 0, "shard_size": 4, "executor": LocalExecutor(ahead)}
        bench.evaluate(subset, model, "grad_cam", "complexity", **given)

    ratios = interleaved(lambda: run(False), lambda: run(True))
    of = {
        "decoding": "large JPEG files",
        "waiting": f"a source that answers after {1000 * LATENCY:.0f} ms",
    }[what]
    report(
        benchmark,
        Row(f"a run that reads ahead, {of}, one thread", "the same without reading ahead", 1.0),
        ratios,
    )
