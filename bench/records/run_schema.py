"""The shape of run.json and health.json: what the code relies on, checked when they are read.

Keys beside these may stand there. Runs of earlier versions lack some keys; what has a default here
may be missing.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import BenchError
from bench.protocol import Protocol

FORMS = {
    "missing": "given",
    "string_type": "text",
    "str_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "a larger number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "list_type": "a list",
    "too_short": "a list with an entry",
    "string_pattern_mismatch": "I/N, such as 1/8",
    "extra_forbidden": "left out",
}
"""What a value must be, by the kind of pydantic's error."""

KINDS: dict[Any, type] = {str: str, int: int, float: float, bool: bool}
"""The type of a JSON value, by the type of a protocol's field; any other field is a list."""


class StateFacts(BaseModel):
    """An object of a JSON file; keys beside the declared ones may stand there."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class SubsetFacts(StateFacts):
    """What a baseline says of a subset."""

    manifest_id: str
    n: int = Field(0, ge=0)
    n_calibration: int = Field(0, ge=0)
    title: str | None = None
    licence: str | None = None
    classes: int | None = Field(None, ge=1)
    calibration: str | None = None
    explain: str | None = None
    imagenet_boxes: bool | None = None
    pictures: bool = False
    identity: str | None = None
    unserved: list[str] = Field(default_factory=list)
    reading: list[str] = Field(default_factory=list)


class ModelFacts(StateFacts):
    """What a baseline says of a model."""

    weights_id: str
    parent: str | None = None
    weights_sha256: str | None = None
    layer: str | None = None
    grid: str | None = None
    bypassed: bool | None = None
    grid_verified: bool | None = None
    size: int | list[int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    channels: int | None = None
    classes: int | None = None
    parameters: int | None = None
    top1: float | None = None
    card: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    sister: ModelFacts | None = None


class MethodFacts(StateFacts):
    """What a baseline says of a method."""

    id: str
    group: str | None = None
    fidelity: str = ""
    citation: str | None = None
    control: bool = False
    reference: str | None = None
    class_agnostic: bool | None = None
    fast: bool | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)


class ShownSubsetFacts(SubsetFacts):
    """What run.json says of a subset: all that boards write of it."""

    n: int = Field(ge=0)
    n_calibration: int = Field(ge=0)
    title: str | None
    licence: str | None


class ShownModelFacts(ModelFacts):
    """What run.json says of a model: all that boards write of it."""

    parent: str | None


class ShownMethodFacts(MethodFacts):
    """What run.json says of a method: all that boards write of it."""

    group: str | None
    fidelity: str
    citation: str | None
    control: bool


class DerivedFacts(StateFacts):
    """What run.json says of a value that boards make of vectors."""

    model_config = ConfigDict(extra="forbid")

    name: str
    title: str
    better: str | None = None
    ranked: bool | None = None
    lower: float | None = None
    upper: float | None = None
    peaked: bool = False


class ValueFacts(StateFacts):
    """What a baseline says of a value."""

    id: str
    better: Literal["lower", "higher", "none"]
    family: str
    title: str
    ranked: bool
    metric: str = ""
    version: int | None = Field(None, ge=0)


class MetricFacts(ValueFacts):
    """What run.json says of a metric's value."""

    reduce: Literal["mean", "std", "curve", "box_accuracy", "box_sets", "pooled_precision"]
    target: str | None = None
    curve: str | None = None
    clean_end: int | None = None
    lower: float | None = None
    upper: float | None = None
    derived: DerivedFacts | str | None = None
    peaked: bool | None = None


class AgreementFacts(StateFacts):
    """How far a value agrees between two precisions; a correlation of equal ranks is NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)

    metric: str
    scale: float = 0.0
    tau: float = 0.0
    mean: float | None = None
    image: float | None = None
    problem: str = ""


class PrecisionFacts(StateFacts):
    """The verdict of the precision guard on a model."""

    model_config = ConfigDict(allow_inf_nan=True)

    asked: str
    weights_id: str
    images: int
    protocol: str
    metrics: dict[str, str]
    refused: dict[str, str] = Field(default_factory=dict)
    values: dict[str, AgreementFacts] = Field(default_factory=dict)
    methods: list[str] = Field(default_factory=list)
    reason: str = ""
    speed: float | None = None
    forwards: int = 0


class LeftOutFacts(StateFacts):
    """What a run left out by declaration."""

    kind: str
    n: int
    subset: str = ""
    part: str = ""
    items: list[str] = Field(default_factory=list)
    shards: list[str] = Field(default_factory=list)


class ProtocolFacts(StateFacts):
    """What run.json says of a protocol: its id, and its fields, each of its kind."""

    id: str
    box_ious: list[float] = Field([0.5], min_length=1)
    baseline: list[float] = Field([0.5], min_length=1)

    @model_validator(mode="after")
    def _find_strange(self) -> ProtocolFacts:
        """Refuse a field of another kind than the protocol's."""
        given = self.model_extra or {}
        for name, kind in get_type_hints(Protocol).items():
            value, wanted = given.get(name), KINDS.get(kind, list)
            inner = KINDS.get(next(iter(get_args(kind)), None), float)
            fits = _is_of_kind(value, wanted) and (
                wanted is not list or all(_is_of_kind(one, inner) for one in value or ())
            )
            if name in given and not fits:
                of = f" of {FORMS[f'{inner.__name__}_type']}" if wanted is list else ""
                form = f"{FORMS[f'{wanted.__name__}_type']}{of}"
                raise ValueError(f"has protocol.{name} = {_show(value)}, which must be {form}")
        return self


Shard = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}/[1-9]\d{0,5}$")]
"""Which part of a plan's tasks a run computes, "I/N"."""


class RunFacts(StateFacts):
    """The content of run.json."""

    protocol: ProtocolFacts
    subsets: dict[str, ShownSubsetFacts]
    models: dict[str, ShownModelFacts]
    methods: dict[str, ShownMethodFacts]
    metrics: dict[str, MetricFacts]
    not_applicable: dict[str, dict[str, str]] = Field(default_factory=dict)
    run: str = ""
    created: str = ""
    code: str | None = None
    commands: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    equal: dict[str, dict[str, str]] = Field(default_factory=dict)
    packages: dict[str, str | None] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    plan: dict[str, Any] = Field(default_factory=dict)
    precision: dict[str, PrecisionFacts] = Field(default_factory=dict)
    shards: list[Shard] = Field(default_factory=list)
    left_out: list[LeftOutFacts] = Field(default_factory=list)
    forwards: dict[str, int] | None = None
    replaced_items: int = 0
    image_curves: dict[str, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _find_undescribed(self) -> RunFacts:
        """Refuse a method that is not applicable and not described."""
        for methods in self.not_applicable.values():
            for name in methods:
                if name not in self.methods:
                    raise ValueError(f"names the method {name}, which it does not describe")
        return self


class VerdictFacts(StateFacts):
    """A verdict of health.json."""

    metric: str
    model: str
    subset: str
    metric_id: str
    weights_id: str
    manifest_id: str
    ranked: bool = False
    passes: bool | None = None
    reasons: list[str] = Field(default_factory=list)
    cautions: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _find_unexplained(self) -> VerdictFacts:
        """Refuse a verdict that says no without a reason."""
        if self.passes is False and not self.reasons:
            raise ValueError(f"says no to {self.metric} and gives no reason")
        return self


class HealthFacts(StateFacts):
    """The content of health.json."""

    protocol: str
    verdicts: list[VerdictFacts]
    notes: list[str] = Field(default_factory=list)


AnyFacts = TypeVar("AnyFacts", bound=StateFacts)


def check_shape(facts: type[AnyFacts], value: Any, where: str, remedy: str) -> AnyFacts:
    """Return an object as its declared facts.

    Args:
        facts: what is declared.
        value: what was read.
        where: names the file at the start of a sentence.
        remedy: what to do where it is of another shape, as the end of a sentence.

    Raises:
        BenchError: one sentence on the first thing that is wrong.
    """
    try:
        return facts.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
    kind, reason = found["type"], found["msg"].removeprefix("Value error, ")
    # Of a value that may be one of several, pydantic names the choice behind the key.
    place = ".".join(str(key) for key in found["loc"] if _is_key(key, value))
    if kind == "value_error":
        raise BenchError(f"{where} {reason}; {remedy}.")
    if kind == "missing":
        raise BenchError(f"{where} lacks {place}; {remedy}.")
    form = FORMS.get(kind) or reason[:1].lower() + reason[1:].replace("Input should be ", "")
    form = form.removeprefix("input should be ")
    shown = _show(found["input"])
    raise BenchError(f"{where} has {place} = {shown}, which must be {form}; {remedy}.")


def _is_key(key: int | str, value: Any) -> bool:
    """Tell whether part of an error's place is a key of the file, and not a type's name."""
    names = ("str", "int", "float", "bool", "list[int]", "DerivedFacts")
    return isinstance(key, int) or key not in names


def _is_of_kind(value: Any, wanted: type) -> bool:
    """Tell whether a JSON value is of a kind; a whole number is a number, NaN is none."""
    if wanted is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is wanted


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
