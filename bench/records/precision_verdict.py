"""The verdict of the precision guard, as run.json holds it, and how runs compare by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.errors import BenchError
from bench.protocol import BFLOAT16, FLOAT32

AUTO = "auto"
ASKED = (FLOAT32, AUTO, BFLOAT16)
"""What a run can ask for: "auto" takes bfloat16 where it is faster and the guard agrees, "bfloat16"
where it agrees.
"""

TAU_BOUND = 0.99
MEAN_BOUND = 0.002
IMAGE_BOUND = 0.02
"""What must hold of every value, between the two precisions: Kendall's tau-b of the methods' means,
at least; the difference of a method's mean, at most; the difference on one image (of a curve: of a
point's mean), at most.

Differences are shares of the value's range, or where it has none of its spread over images. Means
closer than their bound are tied.
"""


@dataclass(frozen=True)
class Agreement:
    """How far one value of a metric agrees between the precisions.

    scale: what differences are measured by.  tau: of the methods' means.  mean, image: the largest
    differences, as shares of the scale; None where there is no number for them.  problem: what
    keeps the metric in float32, or "".
    """

    metric: str
    scale: float = 0.0
    tau: float = 0.0
    mean: float | None = None
    image: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class PrecisionVerdict:
    """What is run in which precision on one model, and why.

    asked: "auto" or "bfloat16".  metrics: those that probe in bfloat16, with the ids of their
    records; the others are float32, as everything is that the guard did not compare.  refused:
    metrics that it kept in float32, and why. reason: why nothing was compared, or "".  protocol:
    the id of the protocol in bfloat16.  speed: how many times as fast bare batches were, None where
    that was not asked.  forwards: what the guard has cost.
    """

    asked: str
    weights_id: str
    reason: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Agreement] = field(default_factory=dict)
    images: int = 0
    methods: tuple[str, ...] = ()
    protocol: str = ""
    speed: float | None = None
    forwards: int = 0

    @property
    def used(self) -> str:
        """Return "bfloat16" where any metric is run in it."""
        return BFLOAT16 if self.metrics else FLOAT32

    def precision_of(self, metric: str) -> str:
        """Return the precision of what a metric probes."""
        return BFLOAT16 if metric in self.metrics else FLOAT32

    def facts(self) -> dict[str, Any]:
        """Return the verdict as run.json has it."""
        inside = [one for one in self.values.values() if one.metric in self.metrics] or [
            *self.values.values()
        ]
        return {
            "used": self.used,
            "tau": min((one.tau for one in inside), default=None),
            "largest_mean_difference": max(
                (one.mean for one in inside if one.mean is not None), default=None
            ),
            "largest_image_difference": max(
                (one.image for one in inside if one.image is not None), default=None
            ),
            "bounds": {"tau": TAU_BOUND, "mean": MEAN_BOUND, "image": IMAGE_BOUND},
            **dataclasses.asdict(self),
        }

    def and_then(self, later: PrecisionVerdict, metrics: Collection[str]) -> PrecisionVerdict:
        """Return this verdict with that of a later look at some metrics, which have changed."""
        return dataclasses.replace(
            self,
            metrics={**self.metrics, **later.metrics},
            refused={
                **self.refused,
                **later.refused,
                **(dict.fromkeys(metrics, later.reason) if later.reason else {}),
            },
            values={**self.values, **later.values},
            protocol=later.protocol or self.protocol,
            forwards=later.forwards,
        )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> PrecisionVerdict:
        """Return the verdict that run.json holds."""
        known = {f.name: facts[f.name] for f in dataclasses.fields(cls) if f.name in facts}
        values = {name: Agreement(**one) for name, one in facts.get("values", {}).items()}
        return cls(**{**known, "values": values, "methods": tuple(facts.get("methods", ()))})

    def sentence(self, model: str) -> str:
        """Return what a user should know of how a model is run."""
        kept = "; ".join(
            f"{metric} stays in float32 ({why})" for metric, why in sorted(self.refused.items())
        )
        speed = "" if self.speed is None else f"; bare batches are {self.speed:.1f} times as fast"
        if self.reason or not self.metrics:
            return f"{model} stays in float32: {self.reason or kept}."
        facts = self.facts()
        seen = f"on {self.images} images and {len(self.methods)} methods"
        return (
            f"{model}: {', '.join(sorted(self.metrics))} in bfloat16 ({seen} the ranks agree with "
            "tau "
            f"{facts['tau']:.2f}, means to {facts['largest_mean_difference']:.5f} and single "
            "images to "
            f"{facts['largest_image_difference']:.4f}{speed})" + (f"; {kept}." if kept else ".")
        )


def check_precision(asked: str, compiled: bool) -> None:
    """Refuse what a run cannot ask for."""
    if asked not in ASKED:
        raise BenchError(f"Unknown precision {asked!r}; choose one of {', '.join(ASKED)}.")
    if compiled and asked != FLOAT32:
        raise BenchError(
            f"--compile and --precision {asked} do not go together: the guard compares the network "
            "as it is; leave one."
        )


# --- what a run folder knows


def list_lowered(provenance: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return {model: {metric: id}} of the metrics that a run probes in bfloat16."""
    return {model: facts["metrics"] for model, facts in provenance.get("precision", {}).items()}


def read_lowered(provenance: Mapping[str, Any], model: str) -> dict[str, str]:
    """Return {metric: id} of the metrics that a run probes in bfloat16 on a model."""
    return list_lowered(provenance).get(model, {})


def find_difference(
    one: Mapping[str, Any], two: Mapping[str, Any], model: str
) -> tuple[str, str, str] | None:
    """Return a metric of both runs that is in two precisions, with the precision in each run."""
    sides = [read_lowered(run, model) for run in (one, two)]
    for metric in sorted(list_metrics(one) & list_metrics(two)):
        first, second = (BFLOAT16 if metric in side else FLOAT32 for side in sides)
        if first != second:
            return metric, first, second
    return None


def find_clash(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """Return what two runs have probed in different precisions, or "": "deletion of vit (bfloat16,
    float32)".
    """
    for model in _same_models(one, two):
        if found := find_difference(one, two, model):
            metric, first, second = found
            return f"{metric} of {model} ({first}, {second})"
    return ""


def _same_models(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models that two runs have in common, weights and all."""
    for model in sorted(one["models"].keys() & two["models"].keys()):
        if one["models"][model]["weights_id"] == two["models"][model]["weights_id"]:
            yield model


def find_taken_back(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return a metric that a run folder holds in bfloat16 and that is to go on in float32 unasked,
    or "" (`find_clash`).
    """
    for model in _same_models(old, new):
        verdict = new.get("precision", {}).get(model, {"metrics": {}, "refused": {}})
        for metric in sorted(read_lowered(old, model).keys() & list_metrics(new)):
            if metric not in verdict["metrics"] and metric not in verdict["refused"]:
                return f"{metric} of {model} ({BFLOAT16}, {FLOAT32})"
    return ""


def list_metrics(provenance: Mapping[str, Any]) -> set[str]:
    """Return the metrics of a run; run.json lists their values."""
    return {facts.get("metric", name) for name, facts in provenance["metrics"].items()}


def join_verdicts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdicts of a run folder and of a plan that goes on with it; those of other
    weights go.
    """
    kept = {
        model: facts
        for model, facts in old.get("precision", {}).items()
        if model not in new["models"] or new["models"][model]["weights_id"] == facts["weights_id"]
    }
    for model, facts in new.get("precision", {}).items():
        before = kept.get(model, {})
        judged = {
            *facts["metrics"],
            *facts["refused"],
        }  # the later verdict on a metric is the one that holds
        merged = {
            name: {
                metric: of for metric, of in before.get(name, {}).items() if metric not in judged
            }
            | facts[name]
            for name in ("metrics", "refused")
        }
        merged["values"] = {**before.get("values", {}), **facts["values"]}
        kept[model] = {
            **before,
            **facts,
            **merged,
            "used": BFLOAT16 if merged["metrics"] else FLOAT32,
        }
    return kept


def write_precision(provenance: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of the precisions that a run used, a sentence for each
    model.
    """
    return [
        PrecisionVerdict.of(facts).sentence(name)
        for name, facts in sorted(provenance.get("precision", {}).items())
    ]
