"""The errors a user can mend; each is one sentence that says what is wrong, where, and what to
do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Bad input, said in one sentence; the command line prints it without a traceback and exits
    with code 2.
    """


class NotApplicable(BenchError):  # noqa: N818 - it is an answer ("n/a"), not a failure
    """A method or metric that does not fit this model or subset; shown as "n/a" on boards, never as
    a number.
    """


def suggestions(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean a, b?" for the nearest of `known`, or a list of all of them where none
    is near.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f" Did you mean {', '.join(near)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f" Known: {shown}." if known else ""
