"""What a run holds in memory does not grow with the images it has done."""

from __future__ import annotations

import sys

import pytest

from tests.support.growth import grown

PER_IMAGE = 20_000
"""Bytes; the pixels of one scene are 27,648 as they are stored and 110,592 as a model sees them."""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="resident memory is read from /proc"
)
def test_memory_after_a_thousand_scenes_is_that_after_a_hundred(tmp_path):
    held = {count: size for count, size, _ in grown(1000, tmp_path)[:-1]}
    assert sorted(held)[-1] == 1000
    assert held[1000] - held[100] < 900 * PER_IMAGE
