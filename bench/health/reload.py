"""A run's images, models, methods, metrics and protocol again, from what its run.json says."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import Geometry, Subset, load_subset
from bench.data.expressions import is_expression
from bench.data.inner_paths import DATA_VARIABLE
from bench.errors import BenchError
from bench.identity import digest
from bench.methods import METHODS, Method
from bench.metrics import METRICS, Metric
from bench.models.explainee import Explainee
from bench.models.zoo import MODELS, load_model
from bench.protocol import Protocol
from bench.records.store import Records
from bench.run.plan import Plan, choose_items, common_geometry, make_plan


@dataclass(frozen=True)
class Reloaded:
    """What a run was made of: its protocol, one subset with its scored items, models, and metrics
    by name.

    notes: sentences about what is left out, because it is not here or not the same any more.
    """

    protocol: Protocol
    subset: Subset
    models: tuple[Explainee, ...]
    metrics: tuple[Metric, ...]
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()

    def plan(self, model: Explainee, methods: Sequence[Method], items: Sequence[str]) -> Plan:
        """Return the plan of some of the run's items, methods and one model, under the run's
        protocol and geometry.
        """
        here = dict(zip(self.subset.ids, self.subset.positions, strict=True))
        sample = dataclasses.replace(self.subset, positions=tuple(here[item] for item in items))
        names = [metric.name for metric in self.metrics]
        plan = make_plan(
            sample,
            [model],
            ["random"],
            names,
            self.protocol,
            self.facts["batch_size"],
            calibration=0,
        )
        geometry = common_geometry(self.subset, self.models, self.protocol.geometry)
        return dataclasses.replace(plan, geometry=geometry, methods=tuple(methods))


def reload_run(
    records: Records, subset: str, data_root: Path | None = None, device: str = "cpu"
) -> Reloaded:
    """Load one subset of a run and all that scored it, each checked by its id against run.json.

    A subset or protocol that is not here, or no model and no metric, is a BenchError; single models
    and metrics that are not are left out, with a note.
    """
    told = records.provenance
    protocol = protocol_of(told["protocol"])
    notes: list[str] = []
    names = sorted(set(records.frame.loc[records.frame["subset"] == subset, "model"]))
    models = [
        m
        for name in names
        if (m := _model(name, told["models"][name], notes, device, data_root)) is not None
    ]
    metrics = list(_metrics(told["metrics"], protocol, notes))
    loaded = load_subset(subset, data_root=data_root)
    if models and is_expression(subset):  # as many items as the run has: networks choose no more
        chosen = choose_items(
            loaded.limit(told["subsets"][subset]["n"]), models, protocol, calibration=0
        )
        loaded, models = chosen.subset, [*chosen.models]
    # Only now: a network that looks at grids is the network at another size, with an id of its own.
    models = [model for model in models if _check_weights(model, told["models"], notes)]
    if not models or not metrics:
        raise BenchError(" ".join(notes) or f"The run has no model and no metric on {subset}.")
    geometry = common_geometry(loaded, models, protocol.geometry)
    manifest = f"{loaded.manifest_id}-{digest(geometry.id)[:6]}"
    if manifest != told["subsets"][subset]["manifest_id"]:
        raise BenchError(
            f"The images of {subset} are not those of the run (manifest {manifest}, in the run "
            f"{told['subsets'][subset]['manifest_id']})."
        )
    if is_expression(subset):  # a limit counts grids, and the run counts the items of its grids
        loaded = _keep_scored(loaded, records)
    check_contents(records, loaded, geometry)
    return Reloaded(protocol, loaded, tuple(models), tuple(metrics), told["plan"], tuple(notes))


def _keep_scored(loaded: Subset, records: Records) -> Subset:
    """Return the items of a subset that the records score."""
    rows = records.frame[records.frame["subset"] == loaded.name]
    scored = set(rows.loc[rows["part"] == "eval", "item"])
    kept = (p for item, p in zip(loaded.ids, loaded.positions, strict=True) if item in scored)
    return dataclasses.replace(loaded, positions=tuple(kept))


def check_contents(records: Records, loaded: Subset, geometry: Geometry) -> None:
    """Refuse images that are not those that the records were made of."""
    rows = records.frame[records.frame["part"] == "eval"]
    rows = rows[(rows["subset"] == loaded.name) & rows["item_id"].notna()]
    here = dict(zip(loaded.ids, loaded.positions, strict=True))
    changed = []
    for item, content in rows[["item", "item_id"]].drop_duplicates().itertuples(index=False):
        found = loaded.identify_at(here[item], geometry) if item in here else None
        if found is None or found.identity != content:
            changed.append(item)
    if changed:
        raise BenchError(
            f"{len(changed)} images of {loaded.name} are not those of the run (such as "
            f"{changed[0]}); start the run again, which computes only these."
        )


def protocol_of(told: dict[str, Any]) -> Protocol:
    """Return the protocol that run.json describes; its id must come out the same."""
    fields = {f.name for f in dataclasses.fields(Protocol)}
    strange = sorted(set(told) - fields - {"id"})
    if strange:
        raise BenchError(
            f"The run's protocol has the unknown field {strange[0]!r}; it is of another version."
        )
    protocol = Protocol(**{name: _tuples(value) for name, value in told.items() if name != "id"})
    if protocol.id != told["id"]:
        raise BenchError(
            f"The run's protocol {told['id']} comes out as {protocol.id} here; it is of another "
            "version."
        )
    return protocol


def _tuples(value: Any) -> Any:
    """Return JSON's lists as tuples, at any depth."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


CARDS = Path("weights") / "models.json"
"""Where a data root may hold networks that a run took from cards."""


def _find_address(name: str, card: dict[str, Any], data_root: Path | None) -> str:
    """Return what loads a model: its name, or its card below the data root where it has one."""
    root = data_root or os.environ.get(DATA_VARIABLE)
    file = Path(root) / CARDS if root and "file" in card and name not in MODELS else None
    return name if file is None or not file.is_file() else f"{file}#{name}"


def _model(
    name: str, facts: dict[str, Any], notes: list[str], device: str, data_root: Path | None
) -> Explainee | None:
    """Return a model of the run, or None with a note where it is not here."""
    card = facts.get("card") or {}
    options: dict[str, Any] = {}
    if card.get("library") == "timm" and "timm" in card:
        weights = card.get("weights", "random")
        options = {"weights": None if weights == "random" else weights, **card.get("kwargs", {})}
    try:
        return load_model(_find_address(name, card, data_root), **options).to(device)
    except BenchError as error:
        notes.append(f"{name} is not loaded: {error}")
        return None


def _check_weights(model: Explainee, told: dict[str, Any], notes: list[str]) -> bool:
    """Return whether a model has the weights of the run, with a note where it has others."""
    identity = told[model.name]["weights_id"]
    if model.weights_id == identity:
        return True
    notes.append(
        f"{model.name} is left out: its weights {model.weights_id} are not the run's {identity}."
    )
    return False


def _metrics(told: dict[str, Any], protocol: Protocol, notes: list[str]) -> list[Metric]:
    """Return the run's metrics that are here and the same, with a note for each other."""
    found = []
    for name, identity in {facts["metric"]: facts["id"] for facts in told.values()}.items():
        if name not in METRICS:
            notes.append(
                f"The metric {name} is not here; give the plug-in that brings it with --plugin."
            )
        elif (now := METRICS.get(name).id(protocol)) != identity:
            notes.append(
                f"The metric {name} is left out: it is {now} here and {identity} in the run."
            )
        else:
            found.append(METRICS.get(name))
    return found


def methods_of(records: Records, names: Sequence[str], notes: list[str]) -> list[Method]:
    """Return methods of the run that are here and the same, with a note for each other."""
    found = []
    for name in names:
        try:
            method = METHODS.get(name)
        except BenchError as error:
            notes.append(f"The method {name} is not here: {error}")
            continue
        identity = records.provenance["methods"][name]["id"]
        if method.id != identity:
            notes.append(
                f"The method {name} is left out: it is {method.id} here and {identity} in the run."
            )
        else:
            found.append(method)
    return found
