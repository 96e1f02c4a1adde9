"""Subsets: fixed lists of labelled images with ground truth, generated (`scenes-*`) or read from
files.
"""

from __future__ import annotations

from bench.data.geometry import Framed, Geometry
from bench.data.manifest import Manifest, manifest_folder
from bench.data.opening import DATA_VARIABLE, SUBSETS, SubsetEntry, load_subset, register_subset
from bench.data.subset import Subset

__all__ = [
    "DATA_VARIABLE",
    "SUBSETS",
    "Framed",
    "Geometry",
    "Manifest",
    "Subset",
    "SubsetEntry",
    "load_subset",
    "manifest_folder",
    "register_subset",
]
