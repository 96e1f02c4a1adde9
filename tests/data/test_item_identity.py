"""The identity of an item changes with its content, and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import bench
from bench.data import Geometry
from bench.data.item_identity import (
    digest_file,
    identify_file,
    identify_sample,
    join_frame,
    stamp_file,
)
from bench.types import Sample

GEOMETRY = Geometry(8, "squash", 8)
CONTENTS = st.tuples(
    st.binary(min_size=1, max_size=8),
    st.integers(0, 3),
    st.none() | st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=2),
    st.sampled_from(["squash", "short"]),
    st.sampled_from(["label", "default"]),
)


def identify(content) -> str:
    file, label, boxes, geometry, explain = content
    array = None if boxes is None else np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return join_frame(
        identify_file(digest_file(file), "any", label, array), geometry, explain
    ).identity


@settings(max_examples=200, deadline=None)
@given(CONTENTS, CONTENTS)
def test_two_items_share_an_identity_if_and_only_if_their_contents_are_equal(one, two):
    assert (identify(one) == identify(two)) == (one == two)


SAMPLES = st.tuples(
    st.integers(0, 1), st.booleans() | st.none(), st.booleans() | st.none(), st.integers(0, 1)
)


@settings(max_examples=100, deadline=None)
@given(SAMPLES, SAMPLES)
def test_pixels_masks_and_label_of_a_sample_count(one, two):
    def sample(pixel, mask, others, label):
        return Sample(
            "name",
            "name",
            np.full((1, 2, 3), pixel, dtype=np.uint8),
            label,
            mask=None if mask is None else np.full((1, 2), mask),
            others=None if others is None else np.full((1, 2), others),
        )

    same = identify_sample(sample(*one)) == identify_sample(sample(*two))
    assert same == (one == two)


def test_names_do_not_count(tmp_path: Path):
    one, two = (folder(tmp_path / name, f"{name}.png") for name in ("one", "two"))
    assert one.identify(0, GEOMETRY).identity == two.identify(0, GEOMETRY).identity


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subset = folder(tmp_path, "a.png")
    age(tmp_path / "a.png")
    known = subset.identify(0, GEOMETRY)
    reads: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read(path))
    assert subset.identify(0, GEOMETRY, known) == known
    assert not reads
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert subset.identify(0, GEOMETRY, known).identity == known.identity
    assert len(reads) == 1


def test_a_file_that_was_just_written_has_no_stamp(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    assert stamp_file(tmp_path / "a") == ""


def test_equal_size_and_restored_time_are_still_seen(tmp_path: Path):
    subset, file = folder(tmp_path, "a.bmp"), tmp_path / "a.bmp"
    age(file)
    known, facts = subset.identify(0, GEOMETRY), file.stat()
    Image.new("RGB", (8, 8), "blue").save(file)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_size == facts.st_size
    assert subset.identify(0, GEOMETRY, known).identity != known.identity


def folder(place: Path, name: str) -> bench.Subset:
    place.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(place / name)
    (place / "annotations.csv").write_text(f"file,label\n{name},0\n")
    (place / "manifest.toml").write_text('name = "mine"\nkind = "folder"\n')
    return bench.load_subset(place)


def age(file: Path) -> None:
    """Wait until a file is old enough to have a stamp; its time of change cannot be set."""
    import time

    while not stamp_file(file):
        time.sleep(0.1)
        os.utime(file, ns=(1, 1)) if file.stat().st_mtime_ns > 1 else None
