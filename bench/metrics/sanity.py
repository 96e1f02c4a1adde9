"""Sanity: does the map depend on what the network has learned, on the class, and only where it
should on a reference?

Shown, not ranked: a method that draws its map at random passes every check of dependence.
"""

from __future__ import annotations

import itertools

import torch

from bench.engine.case import Case
from bench.engine.counts import Counts
from bench.engine.randomised import randomise
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.metrics import map_similarity
from bench.metrics.base import Scores, Value, register_metric
from bench.protocol import Protocol
from bench.randomness import generator


def _networks(p: Protocol) -> int:
    return p.sanity_seeds * p.sanity_stages


@register_metric(
    "sanity",
    family="sanity",
    needs=("method",),
    reads=("ssim_window", "ssim_sigma", "sanity_stages", "sanity_seeds"),
    repeats=lambda p: _networks(p) + 1,
    shared=lambda p: [SharedPart("randomised networks", Counts(forwards=_networks(p)))],
    lengths=lambda p, _: dict.fromkeys(
        ("sanity_ssim_curve", "sanity_spearman_curve"), p.sanity_stages
    ),
    standard=False,
    values={
        "sanity_ssim": Value(
            "SSIM after randomising", better="lower", lower=-1, upper=1, peaked=True
        ),
        "sanity_spearman": Value(
            "Rank correlation after randomising", better="lower", lower=-1, upper=1
        ),
        "sanity_ssim_curve": Value(
            "SSIM after randomising, by stage", reduce="curve", lower=-1, upper=1, peaked=True
        ),
        "sanity_spearman_curve": Value(
            "Rank correlation after randomising, by stage", reduce="curve", lower=-1, upper=1
        ),
        "random_logit_ssim": Value(
            "SSIM with a random class's map", better="lower", lower=-1, upper=1, peaked=True
        ),
        "random_logit_spearman": Value(
            "Rank correlation with a random class's map", better="lower", lower=-1, upper=1
        ),
    },
)
def sanity(case: Case) -> Scores:
    """How alike the map stays when the network's parameters are drawn anew, and to the map of
    another class. [B].

    Parameters: top-down in 5 stages, the classifier and then the rest in four equal parts,
    cumulative, by each module's `reset_parameters` (normal numbers of the same mean and deviation
    where a module has none); 3 seeds; same class. SSIM on unit(L) and Spearman on L, means over
    seeds; `*_curve` [B,stages], and their mean over stages (Adebayo et al., Sanity Checks for
    Saliency Maps, NeurIPS 2018). `random_logit_*`: the same against the map of one other class,
    drawn per image (Sixt et al., ICML 2020): 1 for a class-agnostic method; NaN where there is only
    one class.
    """
    stages, seeds = case.protocol.sanity_stages, case.protocol.sanity_seeds
    traces = case.share(
        ("randomised", stages, seeds), lambda: _trace_randomised(case, stages, seeds)
    )
    tables = [_likeness(case, case.run_method(trace)) for trace in traces]
    curves = {
        name: torch.stack([table[name] for table in tables], dim=1)
        .view(len(case), seeds, stages)
        .mean(1)
        for name in ("ssim", "spearman")
    }
    other = case.share("random logit", lambda: _other_class(case.trace))
    maps = torch.full_like(case.maps, torch.nan) if other is None else case.run_method(other)
    return {
        **{f"sanity_{name}": curve.mean(1) for name, curve in curves.items()},
        **{f"sanity_{name}_curve": curve for name, curve in curves.items()},
        **{f"random_logit_{name}": value for name, value in _likeness(case, maps).items()},
    }


def _likeness(case: Case, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    window, sigma = case.protocol.ssim_window, case.protocol.ssim_sigma
    return {
        "ssim": map_similarity.ssim(case.unit, map_similarity.unit(maps), window, sigma),
        "spearman": map_similarity.spearman(case.maps, maps),
    }


def _trace_randomised(case: Case, stages: int, seeds: int) -> list[Trace]:
    """Return the traces of the same images and classes through the randomised networks: seed by
    seed, top-down.
    """
    traces = []
    for k in range(seeds):
        draws = [
            generator(case.seed, f"sanity {k} {stage}").initial_seed() for stage in range(stages)
        ]
        for model in randomise(case.trace.model, stages, draws):
            traces.append(case.trace.trace_network(case.prober.fork(model)))
    return traces


def _other_class(trace: Trace) -> Trace | None:
    """Return the same pass seen from another class, drawn per image from the rest; None where there
    is no other.
    """
    classes = trace.logits.shape[1]
    if classes < 2:
        return None
    draws = [
        int(torch.randint(classes - 1, (), generator=g)) for g in trace.generators("random logit")
    ]
    others = torch.tensor(draws)
    return trace.retarget(others + (others >= trace.targets))


@register_metric(
    "reference_insensitivity",
    family="reference",
    needs=("method",),
    parameter="reference",
    reads=("ssim_window", "ssim_sigma", "references"),
    settings=lambda p: p.references,
    standard=False,
    values={
        "reference_spearman": Value(
            "Rank correlation between references", better="higher", lower=-1, upper=1
        ),
        "reference_ssim": Value(
            "SSIM between references", better="higher", lower=-1, upper=1, peaked=True
        ),
    },
)
def reference_insensitivity(case: Case) -> Scores:
    """How alike the maps are whatever the reference: means over pairs of references. [B].

    Spearman on L, SSIM on unit(L). References: baseline colour, black, white, blur, noise (a claim
    of A-FMI, Zhang et al., arXiv:2104.05527). For methods that have a parameter `reference`; others
    make no such claim and show as n/a.
    """
    assert case.rerun is not None
    own = case.rerun.parameters["reference"]
    maps = [
        case.maps if own == name else case.run_method(case.trace, reference=name)
        for name in case.protocol.references
    ]
    pairs = list(itertools.combinations(maps, 2))
    window, sigma = case.protocol.ssim_window, case.protocol.ssim_sigma
    return {
        "reference_spearman": torch.stack([map_similarity.spearman(a, b) for a, b in pairs]).mean(
            0
        ),
        "reference_ssim": torch.stack(
            [
                map_similarity.ssim(map_similarity.unit(a), map_similarity.unit(b), window, sigma)
                for a, b in pairs
            ]
        ).mean(0),
    }
