"""Explain and score one batch in memory: the same steps as a run, without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from bench.engine.background import Background
from bench.engine.case import Case
from bench.engine.prober import Prober
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable
from bench.methods import METHODS, Method
from bench.metrics import METRICS, OUTSIDE, Metric
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network, leave_modes
from bench.progress import Choice, follow
from bench.protocol import Protocol, get_protocol
from bench.run.map_steps import track_maps
from bench.run.map_values import stack_given
from bench.run.object_checks import check_model, check_tensor
from bench.run.sealed_calls import explain_sealed, score_sealed
from bench.run.shared_maps import find_shared_maps
from bench.types import Truth
from bench.work_stages import track

Scores = dict[str, torch.Tensor]


@overload
def explain(
    model: Explainee,
    images: torch.Tensor,
    targets: torch.Tensor | Sequence[int] | None = None,
    method: str = "grad_cam",
    truth: Truth | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    progress: Choice = None,
) -> torch.Tensor: ...


@overload
def explain(
    model: Explainee,
    images: torch.Tensor,
    targets: torch.Tensor | Sequence[int] | None,
    method: list[str],
    truth: Truth | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    progress: Choice = None,
) -> dict[str, torch.Tensor]: ...


@leave_modes()
def explain(
    model: Explainee,
    images: torch.Tensor,
    targets: torch.Tensor | Sequence[int] | None = None,
    method: str | list[str] = "grad_cam",
    truth: Truth | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    progress: Choice = None,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return maps of images, higher = more evidence for the target.

    Args:
        model: The model.
        images: Images [B,C,H,W] float, normalised (see `Explainee.normalise` and `Explainee.read`).
        targets: Classes [B]; None takes the predicted ones.
        method: A name, or a list of names and wildcards whose maps share one pass.
        truth: Ground truth, for the oracle controls.
        seed: Seed of every draw, 0 or more.
        ids: Image ids, the source of all draws; None takes a hash of each image.
        progress: As in `evaluate`; it counts the passes that the methods declare.

    Returns:
        Maps [B,H,W] float32; for a list of methods {method: maps}.

    Raises:
        BenchError: Images, targets or ids do not fit the model, or a method is unknown.
        NotApplicable: The method does not fit the model or needs truth.

    Example:
        >>> bench.explain(model, images, method="grad_cam").shape
        torch.Size([2, 8, 8])
    """
    images = check_images(model, images)
    trace = Trace(
        Prober(model),
        images,
        _tensor(targets),
        ids=ids,
        truth=truth,
        seed=seed,
    )
    names = [method] if isinstance(method, str) else METHODS.select(method)
    chosen = [METHODS.get(name) for name in names]
    if not isinstance(method, str):
        trace.wanted_maps = find_shared_maps(chosen)
    with follow(progress):
        maps = {one.name: explain_sealed(one, trace)[0] for one in track_maps(chosen, trace)}
    return maps[chosen[0].name] if isinstance(method, str) else maps


@leave_modes()
def score(
    model: Explainee,
    images: torch.Tensor,
    targets: torch.Tensor | Sequence[int] | None,
    maps: torch.Tensor,
    metric: str | Sequence[str],
    truth: Truth | None = None,
    protocol: str | Protocol = "cambench-1",
    ids: Sequence[str] | None = None,
    curves: bool = False,
    method: str | None = None,
    progress: Choice = None,
) -> Scores:
    """Return the values of maps under a protocol.

    Args:
        model: The model.
        images: Images [B,C,H,W] float, normalised.
        targets: Classes [B] that the maps explain; None takes the predicted ones.
        maps: Maps [B,H,W], higher = more evidence for the target.
        metric: A name, or a list of names and wildcards.
        truth: Ground truth, for localisation metrics.
        protocol: A name or a `Protocol`.
        ids: Image ids, the source of all draws; None takes a hash of each image.
        curves: Return vectors too, such as "deletion_curve" [B,S+1].
        method: Name of the method that made the maps, for metrics that run it again.
        progress: As in `evaluate`; it counts metrics.

    Returns:
        {value name: [B] float64}. NaN: the map cannot be scored. +inf: the image is outside the
        value's set.

    Raises:
        BenchError: Images, targets, maps or ids do not fit, or a name is unknown.
        NotApplicable: The metric needs truth or a method that is not given.

    Example:
        >>> values = bench.score(model, images, None, maps, "deletion")
        >>> values["deletion"].shape
        torch.Size([2])
    """
    chosen = get_protocol(protocol)
    images = check_images(model, images)
    maps = stack_given(maps, len(images))
    maps = maps.clone() if maps.is_inference() else maps
    if maps.shape != (len(images), *images.shape[-2:]):
        raise BenchError(
            f"maps has shape {tuple(maps.shape)} for images {tuple(images.shape)}; give one map "
            "[H,W] per image."
        )
    trace = Trace(Prober(model), images, _tensor(targets), ids=ids, truth=truth, seed=chosen.seed)
    names = METRICS.select(metric if isinstance(metric, str) else [*metric])
    rerun = None if method is None else Again(METHODS.get(method))
    case = Case(
        trace,
        maps,
        chosen.view(()),
        background=Background(trace),
        seed=chosen.seed,
        rerun=rerun,
        reuses=True,
    )
    scores: Scores = {}
    with guard_network(model.net), follow(progress):
        for name in track(names, lambda name: f"Scoring {name}"):
            scores |= apply(METRICS.get(name), case, chosen)
    return {k: v for k, v in scores.items() if curves or v.ndim == 1}


@dataclass(frozen=True)
class Again:
    """A method as metrics see it, who know no methods: something to run again."""

    method: Method

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return every parameter of the method, defaults included."""
        return self.method.all_parameters

    def __call__(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Return the method's maps [B,H,W] of another trace, or with other parameters."""
        try:
            method = self.method.variant(**parameters) if parameters else self.method
        except NotApplicable:
            raise
        except BenchError as error:  # a parameter of the same name that is about something else
            raise NotApplicable(str(error)) from error
        return explain_sealed(method, trace)[0]


def apply(metric: Metric, case: Case, protocol: Protocol) -> Scores:
    """Run one metric on a case and return its values, float64, checked: names, shapes, NaN for
    non-finite maps.
    """
    case.set_view(
        protocol.view(metric.all_reads)
    )  # first: one that does not apply has asked for nothing
    reason = find_unmet_need(metric, case)
    if reason:
        raise NotApplicable(f"{metric.name} {reason}")
    scores = score_sealed(metric, case)
    if set(scores) != set(metric.values):
        raise BenchError(
            f"Metric {metric.name} returned {sorted(scores)} but declares "
            f"{sorted(metric.values)}; make them the same."
        )
    checked: Scores = {}
    for name, values in scores.items():
        if values.ndim not in (1, 2) or len(values) != len(case):
            raise BenchError(
                f"Metric {metric.name} returned {name} of shape {tuple(values.shape)} for "
                f"{len(case)} images; a value is [B] or [B,n]."
            )
        values = torch.as_tensor(values).detach().cpu()
        if values.is_complex():
            raise BenchError(
                f"Metric {metric.name} returned {name} as {values.dtype}; a value is a real number."
            )
        values = values.double()
        usable = case.finite.view(-1, *[1] * (values.ndim - 1))
        checked[name] = torch.where(usable | (values == OUTSIDE), values, torch.nan)
    return checked


def find_unmet_need(metric: Metric, case: Case) -> str:
    """Return what a metric needs and does not find, as the end of a sentence, or ""."""
    truth = case.truth
    have = {name: getattr(truth, name) is not None for name in ("boxes", "masks", "others")}
    have["truth"] = have["boxes"] or have["masks"]
    words = {"truth": "boxes or masks", "others": "masks of another class's objects"}
    own = ("method", "sister")  # the first is looked at below, the second by the prober
    missing = [need for need in metric.needs if need not in own and not have.get(need, False)]
    if missing:
        return (
            f"needs {' and '.join(words.get(m, m) for m in missing)}, which these images do not "
            "have."
        )
    if "method" in metric.needs and case.rerun is None:
        return (
            "runs the method again, which maps alone do not allow; say which made them "
            "(method=...)."
        )
    if (
        metric.parameter
        and case.rerun is not None
        and metric.parameter not in case.rerun.parameters
    ):
        return f"is about the parameter {metric.parameter!r}, which this method does not have."
    return ""


def check_images(model: Explainee, images: torch.Tensor) -> torch.Tensor:
    """Return images on the model's device; anything but finite float [B,C,H,W] is an error, C being
    the model's channels.
    """
    images = check_tensor(check_model(model), images)
    if images.ndim != 4 or images.shape[1] != model.channels:
        raise BenchError(
            f"images has shape {tuple(images.shape)}; give normalised images "
            f"[B,{model.channels},H,W], as {model.name} wants them."
        )
    if not len(images):
        raise BenchError("images is empty; give at least one image.")
    if not images.is_floating_point():
        raise BenchError(
            f"images are {images.dtype}; give normalised float images, as in "
            "model.normalise(pixels / 255)."
        )
    if not torch.isfinite(images).all():
        raise BenchError("images holds NaN or infinite values; check the preprocessing.")
    # A tensor of torch.inference_mode takes no part in a gradient; its copy does.
    own = images.clone() if images.is_inference() else images
    return own.to(model.device, torch.float32)


def _tensor(targets: torch.Tensor | Sequence[int] | None) -> torch.Tensor | None:
    return None if targets is None else torch.as_tensor(targets)
