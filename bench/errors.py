"""The errors a user can mend; each is one sentence that says what is wrong, where, and what to
do.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class BenchError(Exception):
    """Bad input, described in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with code 2.

    Example:
        >>> try:
        ...     bench.load_model("resnet-scene")
        ... except bench.BenchError as error:
        ...     print(error)
        Unknown model 'resnet-scene'. Did you mean resnet-scenes...?
    """


class NotApplicable(BenchError):  # noqa: N818 - it is an answer ("n/a"), not a failure
    """A method or metric that does not fit this model or subset.

    Boards show it as "n/a", never as a number.

    Example:
        >>> bench.score(model, images, None, maps, "pointing_game")
        Traceback (most recent call last):
        ...
        bench.errors.NotApplicable: pointing_game needs ...
    """


class UnreadableImage(BenchError):  # noqa: N818 - named by what a reader may leave out
    """An image that cannot be read or decoded; `--skip-unreadable` leaves it out of a run."""


class AssumptionWarning(UserWarning):
    """What was assumed where the input left a choice; the command line prints it as a "!" line."""


def state_assumption(sentence: str) -> None:
    """Say what was assumed: one sentence, shown once per place that says it."""
    warnings.warn(sentence, AssumptionWarning, stacklevel=3)


@contextmanager
def forbid_exit(what: str) -> Iterator[None]:
    """Refuse `sys.exit` and its like in code of the user's own: it would end a run without a word.

    Args:
        what: whose code runs, as the start of a sentence: "Method mine".

    Raises:
        BenchError: the code called `sys.exit`.
    """
    try:
        yield
    except (SystemExit, GeneratorExit) as error:
        called = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else "stopped"
        raise BenchError(
            f"{what} {called}, which would end the command; raise an exception instead."
        ) from error


_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def take_first_line(error: BaseException) -> str:
    """Return the first line of an error without colour codes, at most 200 characters.

    >>> take_first_line(ValueError("\\x1b[1mbroken\\x1b[0m.\\nmore"))
    'broken'
    """
    text = _COLOUR_CODES.sub("", str(error)).strip()
    return next(iter(text.splitlines()), "").rstrip(". ")[:200]


NEAR = 0.6
"""Similarity (difflib's ratio) from which a name is suggested."""

BEHIND = 0.15
"""How much less similar than the nearest name another suggestion may be."""


def suggestions(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean a, b?" for the nearest of `known`, or a list of all of them where none
    is near.

    >>> suggestions("energi", ["energy_lift", "insertion", "energy"])
    ' Did you mean energy, energy_lift?'
    >>> suggestions("pixel", ["pixel_precision", "insertion"])
    ' Did you mean pixel_precision?'
    >>> suggestions("auc", ["energy", "insertion"])
    ' Known: energy, insertion.'
    """
    known = sorted(set(known))
    near = find_near(name, known)
    if near:
        return f" Did you mean {', '.join(near)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f" Known: {shown}." if known else ""


def find_near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three names that are spelt much like `name`, or begin with it; nearest first."""
    shares = {one: difflib.SequenceMatcher(None, one, name).ratio() for one in known}
    least = max(NEAR, max(shares.values(), default=0.0) - BEHIND)
    begin = {one for one in shares if len(name) > 2 and one.startswith(name)}
    near = [one for one, share in shares.items() if share >= least or one in begin]
    # Among equals the last one first, as difflib does: layer4 is the nearest to layer5.
    return sorted(near, key=lambda one: (shares[one], one), reverse=True)[:3]
