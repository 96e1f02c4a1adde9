"""The section "What trivial transforms gain" of health.md."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.board.text import interval, markdown
from bench.health.transform_gains import TRANSFORMS, is_gain, list_sharpened
from bench.metrics.base import PEAKED_MARK

if TYPE_CHECKING:
    from bench.health.findings import Health

WORDS = (
    "Mean gain of a transformed map over the plain map on the same images, with its paired 95 % "
    "interval. Positive is better, whatever the value's direction. Bold: the interval lies above "
    f"0. {PEAKED_MARK}: raising the map to a power gains, so the value measures peakedness, too. "
    "Blurred: sigma 8 pixels at a side of 224. Centred: times the map of center_gaussian. Top: the "
    "best fifth of the pixels. Every gain: gains.csv."
)


def write_gains(health: Health) -> Iterator[str]:
    """Yield the lines of the section: a table per model and plain map, values x transforms."""
    gains = health.gains
    if gains.empty:
        return
    yield "## What trivial transforms gain"
    yield ""
    yield WORDS
    yield ""
    if health.gain_forwards:
        yield f"Forwards that this took: {health.gain_forwards:,}."
        yield ""
    for key, rows in gains.groupby(["subset", "model", "method"], sort=True):
        subset, model, method = map(str, key)
        yield f"### {markdown(f'{subset}, {model}: {method}')}, n = {rows['n'].max()}"
        yield ""
        yield from _write_table(rows)


def _write_table(rows: pd.DataFrame) -> Iterator[str]:
    shown = [name for name in TRANSFORMS if name in set(rows["transform"])]
    peaked = list_sharpened(rows)
    cells = {(r["metric"], r["transform"]): r for r in rows.to_dict("records")}
    ranked = dict(zip(rows["metric"], rows["ranked"], strict=True))
    yield from _write_row(["value", *shown])
    yield "|---|" + "---:|" * len(shown)
    for metric in sorted(ranked, key=lambda name: not ranked[name]):
        mark = PEAKED_MARK if metric in peaked else ""
        label = markdown(metric) + mark + (" (ranked)" if ranked[metric] else "")
        yield from _write_row([label, *(_write_cell(cells.get((metric, t))) for t in shown)])
    yield ""


def _write_row(cells: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(cells) + " |"


def _write_cell(row: Mapping[Hashable, Any] | None) -> str:
    """Return a gain with its interval, bold where it is one."""
    if row is None:
        return "n/a"
    words = interval(row["gain"], row["low"], row["high"], sign=True)
    return f"**{words}**" if is_gain(row) else words
