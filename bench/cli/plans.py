"""From options to plans: plug-ins, devices, subsets, models, and the parts of the default run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench
from bench.cli.model_arguments import read_arguments
from bench.cli.options import DEFAULT, RunOptions, ScoringOptions
from bench.cli.output import warn
from bench.data.open_pastes import is_pastes
from bench.errors import BenchError
from bench.methods import METHODS
from bench.metrics import METRICS
from bench.models.sisters import attach_sisters, list_own_sisters
from bench.models.zoo import expand_models
from bench.plugins import load_entry_points, load_plugin
from bench.protocol import get_protocol
from bench.records.precision_verdict import check_precision
from bench.registry import split_list

if TYPE_CHECKING:
    from bench.data import Subset
    from bench.methods import Method
    from bench.models import Explainee
    from bench.protocol import Protocol
    from bench.run.plan import Plan

FINETUNED = "finetuned"
"""The group of the fine-tuned models, and the list of methods that a default run scores there."""

TRANSFORMED = "transformed"
"""The list of controls that transform another method's map."""


def load_plugins(files: list[Path] | None) -> list[str]:
    """Load entry points and files; return the names of the methods that the files brought."""
    for failure in load_entry_points():
        warn(failure)
    before = set(METHODS.names)
    for file in files or []:
        load_plugin(file)
    return [name for name in METHODS.names if name not in before]


def split_run(options: RunOptions) -> list[RunOptions]:
    """Return the parts of a run: a default run also scores fine-tuned models, with fewer methods,
    and it scores transformed maps by the metrics that run no network only.
    """
    parts = [options]
    if options.models == options.methods == DEFAULT:
        parts = [
            dataclasses.replace(options, methods=f"{DEFAULT},-{TRANSFORMED}"),
            dataclasses.replace(options, models=FINETUNED, methods=FINETUNED, sister=None),
        ]
        free = list_free_metrics(options)
        if free:
            parts.append(dataclasses.replace(options, methods=TRANSFORMED, metrics=",".join(free)))
    return [network for part in parts for network in split_networks(part)]


def split_networks(options: RunOptions) -> list[RunOptions]:
    """Return one part for each network where each has items of its own; else the whole."""
    if not is_pastes(options.subset):
        return [options]
    names = expand_models(split_names(options.models))
    own = dict.fromkeys(names, options.sister)
    if options.sister:
        models = {name: load_part_models(options, name) for name in names}
        attach_sisters([model for found in models.values() for model in found], options.sister)
        own = {name: list_own_sisters(models[name], options.sister) for name in names}
    return [dataclasses.replace(options, models=n, sister=own[n]) for n in names] or [options]


def load_part_models(options: ScoringOptions, names: str) -> list[Explainee]:
    """Return the models of these names as the options have them loaded."""
    arguments = read_arguments(options.num_classes, options.model_args)
    return load_models(names, options.weights, options.device, arguments)


def list_free_metrics(options: ScoringOptions) -> list[str]:
    """Return the metrics of the options that read finished maps and run no network for them."""
    protocol, free = choose_protocol(options), []
    for metric in map(METRICS.get, METRICS.select(options.metrics)):
        shared = sum(part.counts.forwards for part in metric.shared(protocol))
        if "method" not in metric.needs and not shared + metric.forwards(protocol, 1):
            free.append(metric.name)
    return free


def make_plans(options: RunOptions) -> list[Plan]:
    """Return the plan of each part of a run."""
    from bench.run.plan import read_shard

    check_precision(options.precision, options.compiled)
    shard = read_shard(options.shard or "1/1")
    plans = [
        make_part(part, compiled=options.compiled, precision=options.precision)
        for part in split_run(options)
    ]
    return [dataclasses.replace(plan, shard=shard) for plan in plans]


def make_part(
    options: ScoringOptions,
    more: Sequence[Method] = (),
    *,
    compiled: bool = False,
    precision: str = "float32",
) -> Plan:
    """Return one plan of the options; `more` are methods that no name stands for."""
    from bench.run.plan import make_plan

    subset = bench.load_subset(
        options.subset, limit=options.limit or None, data_root=options.data_root
    )
    methods: list[str | Method] = [*split_list(options.methods), *more]
    models = load_part_models(options, options.models)
    attach_sisters(models, options.sister or ())
    plan = make_plan(
        subset,
        models,
        methods,
        options.metrics,
        choose_protocol(options),
        options.batch_size,
        calibration=options.calibration,
        compiled=compiled,
        precision=precision,
    )
    return dataclasses.replace(plan, skip_unreadable=options.skip_unreadable)


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, without spaces and empty ones."""
    return [name.strip() for name in split_list(text) if name.strip()]


def open_scored(options: ScoringOptions) -> Subset:
    """Return the subset of the options, with the items that given maps are made for."""
    subset = bench.load_subset(
        options.subset, limit=options.limit or None, data_root=options.data_root
    )
    if not is_pastes(options.subset):
        return subset
    models = load_models(options.models, options.weights, options.device)
    return choose_pasted(subset, models, choose_protocol(options))


def choose_pasted(
    subset: Subset, models: Sequence[Explainee], protocol: Protocol | None = None
) -> Subset:
    """Return a subset; of open pastes those that the model chooses."""
    from bench.run.plan import choose_items

    if not is_pastes(subset.name):
        return subset
    return choose_items(subset, models, protocol or get_protocol("cambench-1")).subset


def load_models(
    names: str, weights: str | None, device: str, arguments: Mapping[str, Any] | None = None
) -> list[Explainee]:
    """Return the models of a comma-separated list, on the device; random weights get a warning.

    arguments: of the networks of timm names, such as num_classes.
    """
    chosen = expand_models(split_names(names))
    if weights is not None and len(chosen) != 1:
        raise BenchError(
            f"--weights is for one model, and the run has {len(chosen)}; name one with --models."
        )
    models = [
        bench.load_model(name, weights=weights, **(arguments or {})).to(device) for name in chosen
    ]
    for model in models:
        if model.card.get("weights") == "random":
            warn(f"{model.name} has random weights; give --weights FILE or --weights pretrained.")
    return models


def choose_protocol(options: ScoringOptions) -> Protocol:
    """Return the protocol of the options, with their seed where one is given."""

    protocol = get_protocol(options.protocol)
    return protocol if options.seed is None else dataclasses.replace(protocol, seed=options.seed)
