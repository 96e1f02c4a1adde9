"""The columns of records, and the limits that records are held to."""

from __future__ import annotations

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("subset", pa.string()),
        ("part", pa.string()),  # "eval" is scored; "calibration" only chooses box thresholds
        ("item", pa.string()),  # image and explained class
        ("image", pa.string()),  # the unit that is resampled
        ("model", pa.string()),
        ("parent", pa.string()),  # the model this one was fine-tuned from, or ""
        ("method", pa.string()),
        ("metric", pa.string()),  # the value's name, e.g. "deletion"
        ("value", pa.float64()),  # NaN = could not be scored; counted, never averaged over
        ("vector", pa.list_(pa.float32())),  # for values that the board reduces; else null
        ("target", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("correct", pa.bool_()),
        ("forwards", pa.float64()),  # network forwards this method spent on the item's map
        ("method_id", pa.string()),
        ("metric_id", pa.string()),
        ("protocol_id", pa.string()),
        ("weights_id", pa.string()),
        ("manifest_id", pa.string()),
        ("code", pa.string()),
        ("item_id", pa.string()),  # the item's content; null where the manifest identifies it
    ]
)
"""The columns of a record."""

KEY = ["subset", "part", "item", "model", "method", "metric"]
"""What makes a row unique among current records."""

MIN_CALIBRATION = 50
"""Images needed to choose a threshold; with fewer a board shows only the oracle threshold,
flagged.
"""

DEFAULT_CALIBRATION = 60
"""Images that a run takes for calibration at least: more than `MIN_CALIBRATION`, so that a few
without a box in the frame leave box accuracy in place.
"""

REMEDY = (
    "start the run again with the same --out, which computes these records anew, or restore the "
    "file of a merged or published run"
)
"""What to do about a damaged file of records."""

COMMITTED_LIMIT = 5 * 1024 * 1024
"""Bytes of per-image records that a committed board may carry."""

COUNTED = ("subset", "model", "method", "metric")
"""Columns that the short form of records counts."""
