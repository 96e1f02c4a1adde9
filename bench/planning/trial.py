"""A trial of a plan's cheap methods on a few images: which ones fit the model, and what they
ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.engine.counts import Counts
from bench.engine.prober import Prober
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.methods import Method
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.run.declared import FLOAT_BYTES, DeclaredCounts, MethodWork
from bench.run.external_maps import ExternalMethod
from bench.run.plan import Plan

CHEAP = 32
"""A method is tried up to this declared work per image; what may refuse a model lies below."""


@dataclass(frozen=True)
class Trial:
    """What was found out on a few images.

    images: how many were run.  right: how many of them have the label that is predicted.
    found: {method id: work} of methods that do not fit the model, with what it took to find that
    out, and of methods that ran more than they declare.
    """

    images: int = 0
    right: int = 0
    found: Mapping[str, MethodWork] = field(default_factory=dict)


def try_methods(plan: Plan, model: Explainee, images: int) -> Trial:
    """Run the cheap methods of a plan on its first images."""
    subset = plan.subset
    positions = range(min(images, len(subset)))
    batch = subset.batch(positions, plan.geometry, plan.protocol.box_min_visible).to(model.device)
    pixels, seed = model.normalise(batch.pixels), plan.protocol.seed
    declared = DeclaredCounts(plan, model)
    with guard_network(model.net):
        base = Trace(
            Prober(model, plan.batch_size),
            pixels,
            ids=batch.image_ids,
            truth=batch.truth,
            seed=seed,
        )
    base.wanted_maps = declared.shared_maps
    right = int((base.predicted == batch.labels).sum())
    found = dict[str, MethodWork]()
    for method in plan.methods:
        work = declared.method(method)
        if isinstance(method, ExternalMethod) or work.reason or work.alone.total > CHEAP:
            continue
        seen = _run(method, base.retarget(base.predicted))
        less = any(a < b for a, b in zip(work.alone.tuple, seen.alone.tuple, strict=True))
        if seen.reason or less:
            found[method.id] = seen
    return Trial(len(batch), right, found)


def _run(method: Method, trace: Trace) -> MethodWork:
    """Run a method on a trace without parts; return the work per image, as its parts and the
    rest.
    """
    before, reason = trace.prober.counts.copy(), ""
    try:
        method(trace)
    except NotApplicable as error:
        reason = str(error)
    own = trace.prober.counts - before
    parts = []
    for name, part in trace.parts.items():
        own -= part.counts
        numbers = trace.sizes.get(name, 0) // (FLOAT_BYTES * len(trace))
        parts.append(SharedPart(name, _each(part.counts, len(trace)), numbers))
    return MethodWork(_each(own, len(trace)), tuple(parts), reason=reason)


def _each(counts: Counts, images: int) -> Counts:
    return Counts(*(-(-count // images) for count in counts.tuple))
