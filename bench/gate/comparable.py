"""Whether a run may be held against a baseline at all; what may not is refused in one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from bench.errors import BenchError
from bench.gate.baseline import Baseline
from bench.metrics import METRICS
from bench.protocol import Protocol
from bench.records.planned_work import PARTIAL
from bench.records.precision_verdict import find_difference


def check_comparable(baseline: Baseline, run: Baseline, *, other_seed: bool = False) -> list[str]:
    """Refuse what cannot be compared; return sentences on what differs and may.

    Protocol, metrics, images and architectures must be the same. Weights, methods and code may
    differ: whether that did harm is the question.
    """
    notes = check_protocols(baseline, run, other_seed)
    check_precisions(baseline, run)
    check_models(baseline, run)
    check_images(baseline, run)
    check_metrics(baseline, run)
    halves = [
        f"The {word} is not whole. {sentence}"
        for word, side in (("baseline", baseline), ("run", run))
        for sentence in side.facts.get(PARTIAL, ())
    ]
    return [*halves, *notes, *list_older_values(baseline, run), *list_differences(baseline, run)]


def check_protocols(baseline: Baseline, run: Baseline, other_seed: bool) -> list[str]:
    """Refuse another protocol; one of another seed passes where that was asked for."""
    # A run of before a field existed had its default: that is what keeps the ids of before.
    default = dataclasses.asdict(Protocol())
    old, new = ({**default, **one.facts["protocol"]} for one in (baseline, run))
    if old["id"] == new["id"]:
        return []
    before, after = (dataclasses.asdict(read_protocol(side)) for side in (baseline, run))
    fields = sorted(key for key, value in after.items() if before[key] != value)
    if fields == ["seed"] and other_seed:
        return [
            f"The run has seed {new['seed']} and the baseline {old['seed']}: every draw is another "
            "one."
        ]
    advice = "; --other-seed lets the draws differ" if fields == ["seed"] else ""
    raise BenchError(
        f"The run is of protocol {new['id']} and the baseline of {old['id']} (they differ in "
        f"{', '.join(fields)}), so their numbers cannot be compared; run with the baseline's "
        f"protocol{advice}."
    )


def check_precisions(baseline: Baseline, run: Baseline) -> None:
    """Refuse values of the same model and metric that were probed in different precisions."""
    old, new = ({**side.facts, "metrics": side.values} for side in (baseline, run))
    for model in sorted({*baseline.frame["model"]} & {*run.frame["model"]}):
        if found := find_difference(old, new, model):
            metric, before, now = found
            raise BenchError(
                f"{metric} of {model} is probed in {now} in the run and in {before} in the "
                f"baseline, so their numbers cannot be compared; run with --precision {before}."
            )


def read_protocol(side: Baseline) -> Protocol:
    """Return the protocol that the values are of; fields that are younger than they have their
    defaults.
    """
    given = side.facts["protocol"]
    fields: dict[str, Any] = {
        f.name: given[f.name] for f in dataclasses.fields(Protocol) if f.name in given
    }
    fields = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    return Protocol(**fields)


def plain(value: Any) -> Any:
    """Return a fact as JSON gives it back: tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


def check_models(baseline: Baseline, run: Baseline) -> None:
    """Refuse a run that has none of the baseline's models, or one of that name that is built
    otherwise.
    """
    old, new = (set(map(str, side.frame["model"].unique())) for side in (baseline, run))
    if not old & new:
        raise BenchError(
            f"The baseline is of {', '.join(sorted(old))} and the run of "
            f"{', '.join(sorted(new))}; run the baseline's model, or say which it stands for with "
            "--as NEW=OLD."
        )
    for model in sorted(old & new):
        before, after = (architecture(side.facts["models"][model]) for side in (baseline, run))
        for what in before.keys() & after.keys():
            if before[what] != after[what]:
                raise BenchError(
                    f"The baseline's {model} has {what} {before[what]} and the run's "
                    f"{after[what]}, so it is another model; the gate compares versions of one "
                    "architecture."
                )


def architecture(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a model another one, as far as it is known: architecture, classes, image
    size.
    """
    known = {"architecture": facts.get("card", {}).get("arch"), "classes": facts.get("classes")}
    return {
        what: value
        for what, value in {**known, "image size": facts.get("size")}.items()
        if value is not None
    }


def check_images(baseline: Baseline, run: Baseline) -> None:
    """Refuse other images, other preprocessing, and a run that lacks some of the baseline's
    items.
    """
    for subset, rows in baseline.frame.groupby("subset", sort=True):
        there = run.facts["subsets"].get(subset)
        if there is None:
            known = ", ".join(sorted(run.facts["subsets"]))
            raise BenchError(
                f"The baseline is of {subset} and the run of {known}; run the baseline's images."
            )
        old, new = baseline.facts["subsets"][subset]["manifest_id"], there["manifest_id"]
        if not have_same_contents(baseline, run, str(subset), set(rows["item"])) and old != new:
            raise BenchError(
                f"The run has other images or preprocessing of {subset} ({new}) than the baseline "
                f"({old}), so they cannot be paired; run the same subset, or make the baseline "
                "again."
            )
        wanted = set(rows["item"])
        missing = wanted - set(run.frame.loc[run.frame["subset"] == subset, "item"])
        if missing:
            raise BenchError(
                f"The run has {len(wanted) - len(missing)} of the baseline's {len(wanted)} items "
                f"of {subset}, so {len(missing)} are unpaired; run it with --limit {len(wanted)}."
            )


def have_same_contents(baseline: Baseline, run: Baseline, subset: str, items: set[str]) -> bool:
    """Tell whether both name the contents of all of the baseline's items, and they are the same;
    an item of another content is refused.
    """
    old, new = (side.facts.get("items", {}).get(subset, {}) for side in (baseline, run))
    changed = sorted(item for item in items & old.keys() & new.keys() if old[item] != new[item])
    if changed:
        raise BenchError(
            f"{len(changed)} images of {subset} are not those of the baseline (such as "
            f"{changed[0]}), so they cannot be paired; restore them, or make the baseline again."
        )
    return items.issubset(old.keys() & new.keys())


def check_metrics(baseline: Baseline, run: Baseline) -> None:
    """Refuse values of the same name whose metric is defined otherwise."""
    for name, facts in baseline.values.items():
        if name not in run.values:
            continue
        new = run.values[name]["id"]
        if run.facts["protocol"]["id"] != baseline.facts["protocol"]["id"]:
            new = compute_id_at_seed(run, name, baseline.facts["protocol"]["seed"])
        if new != facts["id"]:
            raise BenchError(
                f"{name} is {facts['id']} in the baseline and {new} in the run, another "
                f"definition; leave it out with --metrics ranked,-{name} or make the baseline "
                "again."
            )


def compute_id_at_seed(run: Baseline, name: str, seed: int) -> str:
    """Return the id that a value's metric has under the run's protocol with another seed."""
    facts, protocol = run.values[name], read_protocol(run)
    metric = METRICS.get(facts["metric"])
    if metric.id(protocol) != facts["id"]:
        raise BenchError(
            f"{name} is not defined here as in the run ({facts['id']}); check it with the run's "
            "code."
        )
    return metric.id(dataclasses.replace(protocol, seed=seed))


def list_older_values(baseline: Baseline, run: Baseline) -> Iterator[str]:
    """Yield a sentence on the values that one side has of an older version of their metric."""
    for side, other, words, advice in (
        (baseline, run, "baseline", "make the baseline again"),
        (run, baseline, "run", "run again"),
    ):
        found: dict[str, list[str]] = {}
        for name in sorted(set(side.values) - set(other.values)):
            plain_value, bracket, rest = name.partition(" (v")
            version, _, images = rest.partition(")")
            if bracket and f"{plain_value}{images}" in other.values:
                found.setdefault(version, []).append(f"{plain_value}{images}")
        for version, names in found.items():
            yield (
                f"Version {version} of {', '.join(names)} in the {words} is another definition "
                f"than today's, so it cannot be compared; {advice}, or leave it out with "
                f"--metrics 'ranked,-*(v{version})*'."
            )


def list_differences(baseline: Baseline, run: Baseline) -> Iterator[str]:
    """Yield what else differs: models, methods, code, packages, device."""
    for model in sorted(set(baseline.frame["model"]) & set(run.frame["model"])):
        old, new = baseline.facts["models"][model], run.facts["models"][model]
        changed = [k for k in ("layer", "mean", "std") if plain(old.get(k)) != plain(new.get(k))]
        said = [f"{key} {new.get(key)}, was {old.get(key)}" for key in changed]
        if old.get("weights_sha256") != new.get("weights_sha256"):
            said.insert(0, "other weights")
        if said:
            yield f"{model}: {'; '.join(said)}."
    changed = [
        name
        for name in sorted(list_methods(baseline) & list_methods(run))
        if is_method_changed(baseline, run, name)
    ]
    if changed:
        yield f"The code of {', '.join(changed)} changed."
    for what, old, new in (
        ("code", baseline.facts.get("code"), run.facts.get("code")),
        *(
            (key, baseline.facts.get(kind, {}).get(key), run.facts.get(kind, {}).get(key))
            for kind, keys in (
                ("packages", ("torch", "timm", "captum", "numpy")),
                ("machine", ("device",)),
            )
            for key in keys
        ),
    ):
        if old != new:
            yield f"{what}: {new}, was {old}."


def list_methods(side: Baseline) -> set[str]:
    """Return the methods that have values."""
    return set(map(str, side.frame["method"].unique()))


def is_method_changed(baseline: Baseline, run: Baseline, method: str) -> bool:
    """Tell whether a method's source or parameters are others."""
    old, new = (side.facts["methods"][method]["id"] for side in (baseline, run))
    return bool(old != new)


def is_model_changed(baseline: Baseline, run: Baseline, model: str) -> bool:
    """Tell whether a model's weights, layer or preprocessing are others."""
    old, new = (side.facts["models"][model]["weights_id"] for side in (baseline, run))
    return bool(old != new)
