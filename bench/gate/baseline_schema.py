"""The shape of a baseline's facts: what the gate relies on, checked when the file is read."""

from __future__ import annotations

from pydantic import Field

from bench.records.run_schema import (
    MethodFacts,
    ModelFacts,
    PrecisionFacts,
    ProtocolFacts,
    StateFacts,
    SubsetFacts,
    ValueFacts,
)


class TauFacts(StateFacts):
    """The box thresholds of one method on one model: places in a list, or cut values of maps."""

    subset: str
    model: str
    value: str
    method: str
    taus: list[float] = Field(min_length=1)


class BaselineValueFacts(ValueFacts):
    """What a baseline says of a value."""

    metric: str
    calibrated: bool = False


class BaselineFacts(StateFacts):
    """The facts of a baseline, in the metadata of its file."""

    format: int
    protocol: ProtocolFacts
    subsets: dict[str, SubsetFacts]
    models: dict[str, ModelFacts]
    methods: dict[str, MethodFacts]
    values: dict[str, BaselineValueFacts]
    thresholds: list[TauFacts]
    calibration: dict[str, dict[str, str]]
    not_applicable: dict[str, dict[str, str]]
    items: dict[str, dict[str, str]] = Field(default_factory=dict)
    precision: dict[str, PrecisionFacts] = Field(default_factory=dict)
    commands: list[str] = Field(default_factory=list)
    packages: dict[str, str | None] = Field(default_factory=dict)
    code: str | None = None
    run: str | None = None
    created: str | None = None
