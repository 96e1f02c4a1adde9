"""The rungs of the degradation ladder: maps that turn into noise, step by step, in rank space.

A rung is m_s = (1-s) r(m) + s r(noise): r replaces each pixel by its rank in its own map, and the
noise is the map of the control `random`. Every rung of every map then has nearly the same values,
so that a metric sees only where they lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.engine.counts import Counts
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.health.grid import Report, place, run_grid, select_map_metrics
from bench.methods import METHODS, Method
from bench.methods.variants import write_address
from bench.metrics import Metric
from bench.metrics.base import board_names
from bench.metrics.map_similarity import midranks
from bench.models.explainee import Explainee
from bench.records.store import Records
from bench.run.declared import DeclaredCounts
from bench.run.plan import Plan
from bench.run.waiting_work import WaitingWork, find_kinds

STARTS = ("grad_cam", "integrated_gradients", "occlusion")
"""The methods whose maps turn into noise."""

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of noise, one a rung."""

END = "ranked_random"
"""The last rung, which the ladders of all start maps have in common."""

PLAN = "ladder"
"""Name of the ladder's plan, and of its run folder."""

LIGHT = 12
"""Most forwards a map of the metrics that are scored on more images: hits are averaged over blocks
of images, so that they need more of them.
"""


def rank_pixels(maps: torch.Tensor) -> torch.Tensor:
    """Return every pixel's rank as a share of the map, [B,H,W] float64 in (0,1).

    r = (ascending rank from 0 + 1/2) / pixels; equal pixels get their mean rank.

    >>> rank_pixels(torch.tensor([[[3.0, 1.0], [1.0, 2.0]]])).flatten().tolist()
    [0.875, 0.25, 0.25, 0.625]
    """
    return (midranks(maps) - 0.5) / maps[0].numel() if len(maps) else maps.double()


def rank_noise(trace: Trace) -> torch.Tensor:
    """Return the ranks of the control `random`. [B,H,W] in (0,1)."""
    return trace.share("ranks of noise", lambda: rank_pixels(METHODS.get("random").maps(trace)))


def degrade_map(trace: Trace, inner: Method, *, share: float = 0.0) -> torch.Tensor:
    """Return (1 - share) r(map of another method) + share r(noise). [B,H,W] in (0,1)."""
    ranks = trace.share(_name_part(inner), lambda: rank_pixels(inner.maps(trace)))
    return (1 - share) * ranks + share * rank_noise(trace)


def _name_part(inner: Method) -> str:
    return f"ranks of {inner.name}"


def make_rung(method: Method, share: float) -> Method:
    """Return one rung of a method's ladder; it has an id of its own.

    All rungs of one method share its map, so that a ladder costs one map.
    """
    settings = {"share": float(share)}

    def list_parts(model: Explainee, _: Mapping[str, Any]) -> Sequence[SharedPart]:
        own, read = method.list_work(model)
        return SharedPart(_name_part(method), own), *read

    return dataclasses.replace(
        method,
        name=name_rung(method.name, share),
        function=degrade_map,
        parameters=settings,
        inner=method,
        inner_models=lambda *_: (),  # its work is a shared part, and counts once
        forwards=0,
        backwards=0,
        heads=0,
        head_backwards=0,
        parts=list_parts,
        varies="",
        reference="",  # of the wrapped method
    )


def name_rung(start: str, share: float) -> str:
    """Return the name of a rung; the last one is the same for all start maps.

    >>> name_rung("grad_cam", 0.2), name_rung("grad_cam", 1.0)
    ('degraded(grad_cam)[share=0.2]', 'ranked_random')
    """
    return END if share == 1 else write_address("degraded", start, {"share": float(share)})


def list_rungs(start: str) -> list[str]:
    """Return the names of a start map's rungs, from the map itself to noise."""
    return [name_rung(start, share) for share in SHARES]


def make_ladder_methods(starts: Sequence[str] = STARTS) -> tuple[Method, ...]:
    """Return all rungs of all start maps, as methods."""
    end = dataclasses.replace(METHODS.get("random"), name=END, function=rank_noise)
    rungs = [
        make_rung(METHODS.get(start), share) for start in starts for share in SHARES if share < 1
    ]
    return (*rungs, end)


def is_on_ladder(metric: Metric) -> bool:
    """Return whether a metric has a value with a better direction, and judges a map alone."""
    directed = any(
        value.better != "none" or len(board_names(name, value)) > 1
        for name, value in metric.values.items()
    )
    return directed and metric in select_map_metrics([metric])


def list_left_out(metrics: Sequence[Metric]) -> dict[str, str]:
    """Return {metric: why the ladder leaves it out}."""
    return {
        metric.name: "it runs the method again"
        if "method" in metric.needs
        else "it does not depend on where the map is high"
        if metric.family in ("cost", "complexity")
        else "no value of it has a better direction"
        for metric in metrics
        if not is_on_ladder(metric)
    }


def make_ladder_plans(
    plan: Plan, images: int | None = None, starts: Sequence[str] = STARTS
) -> dict[str, Plan]:
    """Return the plans of a ladder: metrics of maps on all rungs; none where no metric fits.

    Args:
        plan: The images, the models and the metrics.
        images: Images that every metric is scored on; the others are for metrics of at most `LIGHT`
            forwards a map. None: every metric is scored on all images.
        starts: The methods whose maps turn into noise.
    """
    cut = len(plan.subset) if images is None else images
    metrics = [metric for metric in plan.metrics if is_on_ladder(metric)]
    light = [m for m in metrics if m.forwards(plan.protocol, plan.geometry.pixels) <= LIGHT]
    places = plan.subset.positions
    parts = {PLAN: (places[:cut], metrics), f"{PLAN}-light": (places[cut:], light)}
    return {
        name: dataclasses.replace(
            plan,
            subset=dataclasses.replace(plan.subset, positions=chosen),
            methods=make_ladder_methods(starts),
            metrics=tuple(scored),
            calibration=None,
            compiled=False,
        )
        for name, (chosen, scored) in parts.items()
        if chosen and scored
    }


def run_ladder(
    plan: Plan,
    folder: Path | None = None,
    report: Report | None = None,
    images: int | None = None,
    starts: Sequence[str] = STARTS,
) -> Records | None:
    """Score every rung on a plan's images, models and metrics.

    Args:
        plan: The images, the models and the metrics; its methods and its calibration are not used.
        folder: Folder of the ladder's own runs, which go on where they were stopped; None keeps
            them in memory.
        report: Called with (tasks done, tasks in all).
        images: Images that every metric is scored on, see `make_ladder_plans`.
        starts: The methods whose maps turn into noise.

    Returns:
        The records of these images, or None where no metric can be on the ladder.
    """
    plans = make_ladder_plans(plan, images, starts)
    if not plans:
        return None
    done = run_grid(plans, folder, report)
    frames = [_select_current(done[name].frame, part) for name, part in plans.items()]
    return Records(pd.concat(frames, ignore_index=True), done[next(iter(plans))].provenance)


def _select_current(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the rows of a plan's images and rungs: an earlier call may have left others."""
    methods = {method.id for method in plan.methods}
    return frame[frame["item"].isin(plan.subset.ids) & frame["method_id"].isin(methods)]


def count_waiting(
    plan: Plan,
    folder: Path | None,
    images: int | None = None,
    starts: Sequence[str] = STARTS,
) -> Counts:
    """Return the most that the networks run for a ladder that lies in a folder, less what is done.

    It holds for images whose label is predicted; others need a second map of each start.
    """
    return sum(
        (
            WaitingWork(
                DeclaredCounts(part, model),
                find_kinds(part, None if folder is None else place(folder, name, part)),
            ).run
            for name, part in make_ladder_plans(plan, images, starts).items()
            for model in part.models
        ),
        Counts(),
    )
