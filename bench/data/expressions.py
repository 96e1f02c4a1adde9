"""Subset expressions: subsets that are made of another one, written like a call.

`grid(SUBSET,n)`, `di_full(SUBSET,n)` and `pasted(SUBSET)` stand wherever the name of a subset may
stand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bench.data.grids import SIDES, GridForm, open_grids
from bench.data.open_pastes import FORM, open_pastes
from bench.data.subset import Opener, Subset
from bench.errors import BenchError

_CALL = re.compile(r"(?P<name>grid|di_full|pasted)\((?P<inside>.*)\)")


class Expression(NamedTuple):
    """What `cambench list subsets` shows of a subset expression.

    form: how it is written.  title: what it stands for.
    """

    form: str
    title: str


EXPRESSIONS = (
    Expression(
        "grid(SUBSET,n)",
        "n x n mosaics (n = 2 or 3) of images that all networks of the run are sure of",
    ),
    Expression(
        "di_full(SUBSET,n)",
        "the same mosaics for networks that see each cell apart: truth by construction",
    ),
    Expression(
        FORM,
        "boxes of photographs, pasted into photographs of another class; they move the prediction",
    ),
)


def is_expression(text: str) -> bool:
    """Return whether a text is written as a subset expression.

    >>> is_expression("grid(scenes-val[:40],2)"), is_expression("scenes-val")
    (True, False)
    """
    return _CALL.fullmatch(text.strip()) is not None


def open_expression(text: str, opener: Opener, data_root: str | Path | None) -> Subset:
    """Return the subset that an expression stands for.

    Args:
        text: The expression.
        opener: What opens the subset inside it.
        data_root: Where named subsets find their files.

    Raises:
        BenchError: it is written wrongly, or the subset inside cannot be had.
    """
    call = _CALL.fullmatch(text.strip())
    assert call is not None
    if call["name"] == "pasted":
        return open_pastes(call["inside"], is_expression, opener, data_root)
    inner, _, number = call["inside"].rpartition(",")
    side = int(number) if number.strip().isdecimal() else 0
    if not inner.strip() or side not in SIDES:
        raise BenchError(
            f"The subset {text!r} is no {call['name']}(SUBSET,n) with n = "
            f"{' or '.join(map(str, SIDES))}; write {call['name']}(scenes-val,2), say."
        )
    if is_expression(inner):
        raise BenchError(
            f"The subset {text!r} asks for grids of {inner.strip()}; name a subset of images."
        )
    subset = opener(inner.strip(), data_root=data_root)
    return open_grids(subset, GridForm(side, call["name"] == "di_full"))
