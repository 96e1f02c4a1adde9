"""Long vectors of whole numbers in a column of their own: 16 bits each in published records.

Histograms of pixels are such vectors. Other vectors hold real numbers and stay where they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VECTOR, COUNTS = "vector", "counts"
PACKED_LENGTH = 256
"""Entries from which a vector of whole numbers is packed: shorter ones take no space."""

MOST = 2**16 - 1


def pack_vectors(table: pa.Table) -> pa.Table:
    """Return records with their long vectors of whole numbers in the column `counts`, if any."""
    vectors = table[VECTOR].to_pandas()
    whole = np.array([_is_counts(vector) for vector in vectors], dtype=bool)
    if not whole.any():
        return table
    counts = [
        vector.astype(np.uint16) if packed else None
        for vector, packed in zip(vectors, whole, strict=True)
    ]
    rest = pc.if_else(pa.array(whole), pa.nulls(len(whole), table[VECTOR].type), table[VECTOR])
    place = table.schema.get_field_index(VECTOR)
    table = table.set_column(place, table.schema.field(VECTOR), rest)
    return table.append_column(COUNTS, pa.array(counts, pa.list_(pa.uint16())))


def unpack_vectors(table: pa.Table) -> pa.Table:
    """Return records with every vector in the column `vector`."""
    if COUNTS not in table.column_names:
        return table
    place = table.schema.get_field_index(VECTOR)
    field = table.schema.field(VECTOR)
    counts = table[COUNTS].cast(field.type)
    table = table.set_column(place, field, pc.coalesce(table[VECTOR], counts))
    return table.drop_columns([COUNTS])


def _is_counts(vector: Any) -> bool:
    if vector is None or len(vector) < PACKED_LENGTH:
        return False
    return bool(((vector >= 0) & (vector <= MOST) & (vector == np.round(vector))).all())
