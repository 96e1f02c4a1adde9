"""How numbers, methods and directions are written, in one place for tables, plots and the
terminal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bench.inner_places import tame
from bench.metrics.peaked import PEAKED_MARK
from bench.models.layer_grid import describe_layer
from bench.plain_text import show_controls, show_line
from bench.records.precision_verdict import list_lowered

OVERALL = "overall"
"""The "model" of tables across models."""

REFERENCE = "grad_cam"
"""The method that others are compared with, and whose maps compare networks, where it is there."""

FAILED = "†"
"""Marks a value that fails its health check (`cambench health`)."""

ARROWS = {"lower": "↓", "higher": "↑", "none": ""}
"""The better direction of a value."""

SHORT = {
    "official": "off.",
    "paper": "paper",
    "reconstruction": "recon.",
    "external": "ext.",
    "control": "–",
    "unstated": "?",
}
"""A method's fidelity in a narrow column."""

LETTER = {"official": "o", "paper": "p", "reconstruction": "r", "external": "e", "unstated": "?"}
"""A method's fidelity beside its name in a plot."""

FIDELITY = (
    "fidelity: off. = as in the authors' code; paper = as in the paper; recon. = parts had to be "
    "reconstructed by us; ext. = maps made elsewhere, read from files; ? = not stated; – = a "
    "control"
)
"""What the short forms mean."""

INTERVAL = (
    "mean [95 % percentile interval of a bootstrap over images, {resamples:,} resamples, "
    "{pooled:,} for pooled precision]"
)
"""What a cell holds."""

RANKS = (
    "(rank), or (best-worst), the ranks that the images allow where some methods cannot be "
    "told apart"
)
"""What stands behind the numbers of a cell."""

COUPLED = "‡"
"""Mark of a value that favours a method by its construction."""

COUPLING = (
    f"{COUPLED}: the value puts in place of pixels what the method itself compares with, "
    "which favours it."
)
"""What the mark means."""


SHARPENING = (
    f"{PEAKED_MARK}: sharpening the map moves this value, though the order of the pixels stays. "
    "It is reported and orders no methods."
)
"""What the mark means."""


def describe_models(provenance: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Write which layer and grid of each model is explained: "squeezenet: layer features.12, grid
    13x13".
    """
    models = provenance["models"]
    layers = {name: describe_layer(models.get(name, {})) for name in dict.fromkeys(names)}
    return [f"{name}: {layer}" for name, layer in layers.items() if layer]


def describe_protocol(provenance: Mapping[str, Any], model: str = OVERALL) -> str:
    """Write the protocol of a table, and what of it was probed in another precision than float32
    (and on what).
    """
    lowered: dict[str, list[str]] = {}
    for name, metrics in sorted(list_lowered(provenance).items()):
        if metrics and model in (name, OVERALL):
            lowered.setdefault(", ".join(sorted(metrics)), []).append(name)
    where = {
        words: f" on {', '.join(names)}" if model == OVERALL else ""
        for words, names in lowered.items()
    }
    words = "; ".join(f"{metrics} in bfloat16{on}" for metrics, on in where.items())
    return str(provenance["protocol"]["id"]) + (f" ({words})" if words else "")


def number(value: float, *, sign: bool = False) -> str:
    """Write three decimals without a leading zero; NaN is "n/a".

    >>> number(0.1), number(-0.0123), number(12), number(0.5, sign=True), number(-0.0001)
    ('.100', '-.012', '12.000', '+.500', '.000')
    """
    if value is None or math.isnan(value):
        return "n/a"
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    if float(text) == 0:
        return ".000"
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def rank_range(rank: float, best: float, worst: float) -> str:
    """Write a rank, or the range of ranks that the images allow.

    >>> rank_range(2, 2, 2), rank_range(2, 1, 3)
    ('2', '1-3')
    """
    return f"{rank:.0f}" if not best < worst else f"{best:.0f}-{worst:.0f}"


def interval(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    """Write "mean [low, high]", or only the mean where there is no interval.

    >>> interval(-0.012, -0.02, -0.004)
    '-.012 [-.020, -.004]'
    """
    if math.isnan(mean) or math.isnan(low):
        return number(mean, sign=sign)
    return f"{number(mean, sign=sign)} [{number(low, sign=sign)}, {number(high, sign=sign)}]"


def short_fidelity(fidelity: str) -> str:
    """Return the short form of a fidelity; an unknown word stays as it is."""
    return SHORT.get(fidelity, fidelity)


def method_label(row: Mapping[str, Any]) -> str:
    """Return a method's name with its marks: `name = first (control)`."""
    label = str(row["method"])
    if row["equal_to"]:
        label += f" = {row['equal_to']}"
    return label + (" (control)" if row["control"] else "")


def is_simulated(facts: Mapping[str, Any]) -> bool:
    """Tell from what run.json says of a model whether it learned from simulated attention maps."""
    return bool(facts.get("card", {}).get("simulated", False))


def model_label(models: Mapping[str, Any], model: str) -> str:
    """Return a model's name, marked where it learned from simulated attention maps."""
    return f"{model} (simulated maps)" if is_simulated(models.get(model, {})) else model


def plot_label(row: Mapping[str, Any]) -> str:
    """Return a method's name with the letter of its fidelity, for a plot; controls have none and
    are grey.
    """
    letter = LETTER.get(str(row["fidelity"]), "")
    return f"{row['method']} ·{letter}" if letter else str(row["method"])


def metric_label(name: str, better: str) -> str:
    """Return a value's name with the arrow of its better direction."""
    return f"{name} {ARROWS.get(better, '')}".strip()


LONGEST_SLUG = 160
"""UTF-8 bytes of a file name that names a subset and a model."""


def slug(*parts: str) -> str:
    """Return a file name for these words.

    >>> slug("scenes-val", "a/b")
    'scenes-val--a_b'
    """
    name = "--".join(re.sub(r"[^\w.@+-]+", "_", part) for part in parts)
    return tame(name, "\n".join(parts), longest=LONGEST_SLUG)


LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "·": r"$\cdot$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
}


def escape_latex(text: object) -> str:
    """Escape text for LaTeX; arrows become maths.

    >>> escape_latex("grad_cam 5 % ↓")
    'grad\\\\_cam 5 \\\\% $\\\\downarrow$'
    """
    escaped = "".join(LATEX.get(c, c) for c in show_line(text))
    # Behind the end of a row, LaTeX takes both for an argument.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def markdown(text: object) -> str:
    """Escape text for a cell of a Markdown table: no link, picture, tag, entity or formula.

    >>> print(markdown("![x](y) &lt; <b>"))
    ![x\\](y) \\&lt; \\<b\\>
    """
    line = show_controls(str(text).replace("\r", "").replace("\n", " "))
    escaped = re.sub(r"([|*_`<>\\])", r"\\\1", line)
    return _MARKS.sub(r"\\\g<0>", escaped)


def code_span(text: object) -> str:
    """Return text as code of Markdown, between as many backticks as it needs.

    >>> code_span("a"), code_span("a`b")
    ('`a`', '`` a`b ``')
    """
    line = show_line(text)
    runs = [len(run) for run in re.findall("`+", line)]
    if not runs:
        return f"`{line}`"
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    return f"{fence} {line} {fence}"


def code_block(text: object) -> str:
    """Return lines as a block of code of Markdown, which nothing in them ends."""
    lines = show_controls(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
    return f"{fence}\n{lines}\n{fence}"


_MARKS = re.compile(r"\](?=[(\[:])|&(?=#|[A-Za-z]+;)|\$|~(?=~)")
"""What only together with others means something: it stays where it is plain text."""
