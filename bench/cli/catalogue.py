"""What `cambench list` knows of methods, metrics, models, subsets and protocols."""

from __future__ import annotations

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import SUBSETS, Manifest, manifest_folder
from bench.data.expressions import EXPRESSIONS
from bench.errors import BenchError, suggestions
from bench.field_text import write_fields
from bench.methods import METHODS
from bench.methods.variants import find_ranges, write_value
from bench.metrics import METRICS, Value
from bench.metrics.base import Metric, board_names, find_derived
from bench.metrics.peaked import PEAKED_MARK
from bench.models import MODELS
from bench.models.card_keys import read_card
from bench.models.zoo import expand_models, load_model
from bench.protocol import PROTOCOLS, Protocol, get_protocol
from bench.protocol_checks import describe_field
from bench.registry import Registry, split_list

Facts = dict[str, Any]
ARROWS = {"lower": "↓", "higher": "↑", "none": ""}


@dataclass(frozen=True)
class Catalogue:
    """How one kind of entry is listed.

    columns: headings; the first is the name.  select: patterns -> names.  facts: a name ->
    everything about it.
    row: a name -> its cells.  notes: what a terminal shows below the list.
    """

    columns: tuple[str, ...]
    select: Callable[[str], list[str]]
    facts: Callable[[str], Facts]
    row: Callable[[str], tuple[str, ...]]
    notes: tuple[str, ...] = ()


def describe(facts: Facts) -> Iterator[str]:
    """Yield the lines that show one entry in full: its name, its facts, and its docstring."""
    rest = {
        key: value
        for key, value in facts.items()
        if key not in ("name", "about") and value not in ("", (), {})
    }
    yield facts["name"]
    width = max(map(len, rest))
    for key, value in rest.items():
        lines = list(write_fact(value))
        yield f"  {key.ljust(width)}  {lines[0]}"
        for line in lines[1:]:
            yield f"  {' ' * width}  {line}"
    if facts.get("about"):
        yield ""
        for line in facts["about"].splitlines():
            yield f"  {line}".rstrip()


def write_fact(value: Any) -> Iterator[str]:
    """Yield a fact as lines: one per entry of a mapping."""
    if isinstance(value, Mapping) and "better" in value:
        yield write_value_facts(value)
    elif isinstance(value, Mapping):
        width = max(len(str(key)) for key in value)
        for key, one in value.items():
            yield f"{str(key).ljust(width)}  {' '.join(write_fact(one))}"
    elif isinstance(value, (list, tuple)):
        yield f"{len(value)} entries" if len(value) > 24 else ", ".join(map(str, value)) or "none"
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    else:
        yield "none" if value is None else str(value)


def write_value_facts(facts: Mapping[str, Any]) -> str:
    """Return the facts of a metric's value in one line."""
    better = "no direction" if facts["better"] == "none" else f"{facts['better']} is better"
    low, high = ("open" if facts[end] is None else f"{facts[end]:g}" for end in ("lower", "upper"))
    ranked = "ranked" if facts["ranked"] else "not ranked"
    ranked += ", moved by sharpening the map" if facts["peaked"] else ""
    reduced = (
        f"{facts['reduce']} over images" if facts["reduce"] in ("mean", "std") else facts["reduce"]
    )
    return (
        f"{facts['title']}: {better}, {ranked}, {low} to {high}, {reduced}; on boards "
        f"{facts['board']}"
    )


def read_docstring(function: Any) -> str:
    """Return a function's docstring without its indentation."""
    return inspect.getdoc(function) or ""


def first_line(text: str) -> str:
    """Return the first line of a text."""
    return next(iter(text.splitlines()), "")


def name_lists(registry: Registry[Any], name: str) -> list[str]:
    """Return the named lists that hold an entry."""
    return [known for known in registry.lists if name in registry.select(known)]


# --- methods


def select_methods(pattern: str) -> list[str]:
    """Return the methods of a pattern; of "all", also the wrappers that no list holds."""
    return METHODS.select(pattern) + (METHODS.unlisted if pattern == "all" else [])


def method_facts(name: str) -> Facts:
    """Return everything about a method."""
    method = METHODS.get(name)
    work = {
        "forwards": method.forwards,
        "backwards": method.backwards,
        "head replays": method.heads,
    }
    return {
        "name": method.name,
        **method.facts(),
        "groups": [*method.groups, *name_lists(METHODS, method.name)],
        "can_be": find_ranges(method.function),
        "wraps": method.inner.name if method.inner else "",
        "caveats": list(method.caveats),
        "needs": list(method.needs),
        "per_image": {
            kind: "as the model and the parameters say" if callable(n) else n
            for kind, n in work.items()
        },
        "shares": "as the model and the parameters say"
        if callable(method.parts)
        else [part.name for part in method.parts],
        "varies": method.why_varies,
        "about": read_docstring(method.function),
    }


def method_row(name: str) -> tuple[str, ...]:
    """Return a method's cells; without its id, which would read the method's source."""
    method = METHODS.get(name)
    parameters = ",".join(
        f"{key}={write_value(value)}" for key, value in method.all_parameters.items()
    )
    groups = " ".join([*method.groups[1:], *name_lists(METHODS, name)])
    source = method.citation or first_line(read_docstring(method.function))
    source = "; ".join((source, *method.caveats))
    return method.name, method.fidelity, method.group, groups, parameters, source


# --- metrics


def metric_facts(name: str) -> Facts:
    """Return everything about a metric."""
    metric = METRICS.get(name)
    return {
        "name": metric.name,
        "id": metric.id(Protocol()),
        "family": metric.family,
        "groups": list(metric.groups),
        "values": {shown: value_facts(shown, value) for shown, value in metric.values.items()},
        "needs": list(metric.needs),
        "reads": list(metric.all_reads),
        "version": metric.version,
        "calibrates": metric.calibrates,
        "parameter": metric.parameter,
        "forwards": f"at most {count_forwards(metric)} per map, under {Protocol().name}",
        "maps_made_again": metric.repeats(Protocol()),
        "about": read_docstring(metric.function),
    }


def count_forwards(metric: Metric, side: int = 224) -> int:
    """Return the forwards that a metric declares per map, for images of this side in pixels."""
    return metric.forwards(Protocol(), side * side)


def value_facts(name: str, value: Value) -> Facts:
    """Return everything about a value of a metric as boards show it; `board`: its name there."""
    shown = find_derived(name, value) or value
    return {
        "board": board_names(name, value)[0],
        "title": shown.title,
        "better": shown.better,
        "ranked": shown.ranked,
        "peaked": shown.peaked,
        "reduce": value.reduce,
        "lower": shown.lower,
        "upper": shown.upper,
    }


def mark_value(facts: Facts) -> str:
    """Return the mark of a value: ranked, moved by sharpening the map, or neither."""
    return "*" if facts["ranked"] else PEAKED_MARK if facts["peaked"] else ""


def metric_row(name: str) -> tuple[str, ...]:
    """Return a metric's cells."""
    facts = metric_facts(name)
    values = [
        f"{value['board']}{ARROWS[value['better']]}{mark_value(value)}"
        for value in facts["values"].values()
    ]
    needs = " ".join(facts["needs"])
    return (
        facts["name"],
        facts["family"],
        facts["groups"][1],
        " ".join(values),
        needs,
        first_line(facts["about"]),
    )


# --- models


def select_models(pattern: str) -> list[str]:
    """Return the models of a pattern, as `--models` takes it."""
    return expand_models([part.strip() for part in split_list(pattern) if part.strip()])


def model_facts(name: str) -> Facts:
    """Return everything about a model; one that is not registered is built, with random weights."""
    if name not in MODELS:
        model = load_model(name)
        size = sum(parameter.numel() for parameter in model.net.parameters())
        built = {
            "layer": model.layer,
            "size": model.size,
            "parameters": size,
            "classes": model.num_classes,
        }
        return {
            "name": model.name,
            "groups": [],
            **{k: v for k, v in model.card.items() if k != "weights"},
            **built,
        }
    entry = MODELS.get(name)
    card = read_card(Path(entry.card))[entry.name] if entry.card else {}
    groups = [*entry.groups, *name_lists(MODELS, name)]
    return {"name": entry.name, "groups": groups, "card": entry.card, **card}


def model_row(name: str) -> tuple[str, ...]:
    """Return a model's cells."""
    facts = model_facts(name)
    top1 = f"{facts['top1']:.1f} % ({facts.get('top1_subset', '')})" if "top1" in facts else ""
    parent = facts.get("parent", "") + (" (simulated maps)" if facts.get("simulated") else "")
    size = f"{facts['parameters']:,}" if "parameters" in facts else ""
    return facts["name"], size, top1, parent, facts.get("command", "registered")


# --- subsets


def select_subsets(pattern: str) -> list[str]:
    """Return the subsets of a pattern; "all" and wildcards also select expressions."""
    forms = [
        one.form
        for one in EXPRESSIONS
        if pattern == "all" or fnmatch.fnmatchcase(one.form, pattern)
    ]
    if forms and pattern != "all":
        known = [name for name in SUBSETS.names if fnmatch.fnmatchcase(name, pattern)]
        return [*known, *forms]
    return [*SUBSETS.select(pattern), *forms]


def subset_facts(name: str) -> Facts:
    """Return everything about a named subset, or about an expression."""
    for expression in EXPRESSIONS:
        if expression.form == name:
            return {"name": name, "title": expression.title, "groups": ["expression"]}
    entry = SUBSETS.get(name)
    file = manifest_folder() / f"{entry.name}.toml"
    if not file.is_file():
        return {"name": entry.name, "title": "registered", "groups": list(entry.groups)}
    manifest = Manifest.read(file)
    return {
        **dataclasses.asdict(manifest),
        "name": entry.name,
        "id": manifest.id,
        "groups": list(entry.groups),
    }


def subset_row(name: str) -> tuple[str, ...]:
    """Return a subset's cells."""
    facts = subset_facts(name)
    return facts["name"], facts["title"], facts.get("licence", "")


# --- protocols


def select_protocols(pattern: str) -> list[str]:
    """Return the protocols of names, wildcards and `NAME[field=value]`."""
    names: list[str] = []
    for part in (p.strip() for p in split_list(pattern)):
        found = [name for name in PROTOCOLS if part == "all" or fnmatch.fnmatchcase(name, part)]
        if not found and "[" not in part:
            raise BenchError(f"Unknown protocol {part!r}.{suggestions(part, PROTOCOLS)}")
        names += [name for name in found or [part] if name not in names]
    return names


def protocol_facts(name: str) -> Facts:
    """Return everything about a protocol: `changes` is what differs from cambench-1."""
    protocol = get_protocol(name)
    fields = {key: value for key, value in dataclasses.asdict(protocol).items() if key != "name"}
    return {
        "name": protocol.name,
        "id": protocol.id,
        "changes": protocol.changes(),
        "fields": fields,
        "can_be": {field: describe_field(field) for field in fields},
    }


def protocol_row(name: str) -> tuple[str, ...]:
    """Return a protocol's cells: of cambench-1 every field, of another one what differs."""
    facts = protocol_facts(name)
    return facts["name"], facts["id"], write_fields(facts["changes"] or facts["fields"])


CATALOGUES = {
    "methods": Catalogue(
        ("name", "fidelity", "group", "groups", "parameters", "source"),
        select_methods,
        method_facts,
        method_row,
    ),
    "metrics": Catalogue(
        ("name", "family", "group", "values (↓ ↑ better, * ranked)", "needs", "what it is"),
        METRICS.select,
        metric_facts,
        metric_row,
        (f"{PEAKED_MARK}: sharpening the map moves this value, so boards never rank by it",),
    ),
    "models": Catalogue(
        ("name", "parameters", "top-1", "made from", "trained with"),
        select_models,
        model_facts,
        model_row,
        (
            "Also any timm name (resnet50.a1_in1k), with --weights pretrained or --weights FILE.",
            "Also FILE.json#NAME, an entry of a card file: library, arch, weights file, mean, std.",
        ),
    ),
    "subsets": Catalogue(
        ("name", "what it is", "licence"), select_subsets, subset_facts, subset_row
    ),
    "protocols": Catalogue(
        ("name", "id", "fields; of the others what differs from cambench-1"),
        select_protocols,
        protocol_facts,
        protocol_row,
        ("NAME[field=value,...] changes any field.",),
    ),
}
