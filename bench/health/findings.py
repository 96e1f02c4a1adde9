"""Findings of a health check: a verdict for each metric and model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.health.checks import Separation, Spread
from bench.health.ladder import LadderResult
from bench.health.sensitivity import Tables
from bench.health.transform_gains import COLUMNS, list_sharpened
from bench.records.provenance import code_version
from bench.records.store import Records

VERSION = 1


@dataclass
class Verdict:
    """What was found of one measure on one model.

    passes: None where nothing could be judged.  reasons: why it fails (or could not be judged).
    cautions: what a reader should know of a metric that passes.  spread: of the stored values.
    separations: each check made.  ladder: the mean tau of the degradation ladder, where it was run.
    """

    subset: str
    model: str
    metric: str
    ids: dict[str, str]
    ranked: bool
    spread: Spread
    separations: list[Separation] = field(default_factory=list)
    passes: bool | None = None
    reasons: list[str] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    ladder: LadderResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values; a number that is missing is null."""
        content = dataclasses.asdict(self)
        content["separations"] = [
            {**dataclasses.asdict(found), "holds": found.holds} for found in self.separations
        ]
        plain: dict[str, Any] = _plain({**content, **content.pop("ids")})
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value


@dataclass
class Health:
    """A run's health: verdicts, tables for CSV files, and what was left out, in sentences.

    gains: what trivial transforms of maps gain.  gain_forwards: the forwards that these took.
    """

    records: Records
    verdicts: list[Verdict] = field(default_factory=list)
    agreement: list[pd.DataFrame] = field(default_factory=list)
    tables: list[Tables] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    gains: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    gain_forwards: int = 0
    ladder_images: int = 0

    def list_failing(self) -> list[Verdict]:
        """Return the verdicts that say no."""
        return [verdict for verdict in self.verdicts if verdict.passes is False]

    def add_gains(self, found: pd.DataFrame, forwards: int) -> None:
        """Add what trivial transforms gain on one model, and the forwards that this took."""
        self.gain_forwards += forwards
        if len(found):
            tables = [self.gains, found] if len(self.gains) else [found]
            self.gains = pd.concat(tables, ignore_index=True)

    def is_sharpened(self, verdict: Verdict) -> bool:
        """Return whether raising maps to a power makes them score better in this measure."""
        rows = self.gains
        rows = rows[(rows["subset"] == verdict.subset) & (rows["model"] == verdict.model)]
        return verdict.metric in list_sharpened(rows)

    def to_json(self, command: str = "") -> dict[str, Any]:
        """Return the content of health.json."""
        return {
            "version": VERSION,
            "protocol": self.records.provenance["protocol"]["id"],
            "command": command,
            "code": code_version(),
            "images": self.images,
            "ladder_images": self.ladder_images,
            "notes": self.notes,
            "gains": [_plain(row) for row in self.gains.to_dict("records")],
            "gain_forwards": self.gain_forwards,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }
