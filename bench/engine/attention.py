"""Attention maps of a transformer's blocks and gradients through them, from one forward that is
kept for backwards.

The pass runs under a watch (`attention_watch`), which writes the fused attention out and keeps
every softmax. That the logits are still the network's own is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from bench.engine.attention_watch import watch_blocks
from bench.engine.measured_reading import measure_reading
from bench.engine.token_reading import StatedReading, TokenReading, refuse_no_maps, states_blocks
from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network

TOLERANCE = 1e-4
"""How far the logits of the written-out pass may be from the network's own, absolute and
relative.
"""


@dataclass(frozen=True)
class Attention:
    """Attention of all layers, seen as square matrices over S tokens: prefix tokens first, then P =
    height * width patches.

    layers: per block, in order, probabilities [B,heads,S,S], rows sum to 1. Class-attention blocks
    (CaiT) update the class token alone: there the other rows are the identity, and in the blocks
    before, which have no class token yet, its row is. pool: those of the pooling query of an
    attention pooling head [B,heads,Q,S]; its row is 0 at tokens that it does not see; None
    otherwise. queries [S]: the share of each token in what the head reads: 1 at the class token
    (halves at the two of a distilled DeiT), 1/P at each patch for average pooling; uniform for
    attention pooling. Only `attention` below makes one; gradients come from `attention_gradients`
    and `block_gradients`.
    """

    layers: list[torch.Tensor]
    pool: torch.Tensor | None
    queries: torch.Tensor
    grid: tuple[int, int]
    prefix: int
    logits: torch.Tensor  # [B,C], with the graph behind it
    kept: list[
        torch.Tensor
    ]  # the maps as the pass made them, where gradients arrive: blocks, class blocks, pool
    outputs: list[torch.Tensor]  # tokens after each block [B,T,D], with the graph
    class_blocks: int

    def patches(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of tokens [B,S] as a map of the patches [B,height,width]."""
        height, width = self.grid
        return values[:, -height * width :].reshape(len(values), height, width)


def attention(trace: Trace) -> Attention:
    """Return the attention of all layers of the trace's pass: one forward, shared by all that read
    it.
    """
    return trace.share("attention", lambda: _capture(trace))


def attention_gradients(trace: Trace) -> Attention:
    """Return the gradient of the target's logit by every attention probability, in the layout of
    `attention`.

    Rows that no attention made (the identity's) have gradient 0. One backward.
    """
    found = attention(trace)
    return trace.share("attention gradients", lambda: _differentiate(trace, found))


def block_gradients(
    trace: Trace, count: int, mean_token: bool, reduce: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Return reduce(d s^l / d A^l) of the last `count` blocks (0: all), s^l the target's logit of
    block l's own tokens.

    s^l is what the network's norm and head say of the tokens Z^l [B,T,D] after block l; mean_token:
    of their mean over all tokens, prefix tokens too. A^l [B,heads,S,S] is the attention inside
    block l, or [B,heads,Q,S] that of the pooling query over Z^l where the head pools by attention
    (Z^l itself is pooled there). Every score reaches its own block alone, so all of them together
    are counted as one backward.
    """
    found = attention(trace)
    if found.class_blocks:
        raise NotApplicable(
            f"{trace.model.name} scores no block by itself: its class token is made by "
            "class-attention blocks after all patches; use gradient_rollout instead."
        )
    with guard_network(trace.model.net), torch.enable_grad():
        reading = find_reading(trace)
        _check_ending(trace, found, reading)
        chosen = range(len(found.outputs))[-count:] if count else range(len(found.outputs))
        gradients = [
            reduce(_own_gradient(trace, found, reading, number, mean_token)) for number in chosen
        ]
    trace.prober.counts.backwards += len(trace)
    return gradients


# --- the pass


def find_reading(trace: Trace) -> TokenReading:
    """Return where the attention of the trace's network runs and what its head reads.

    Raises NotApplicable where the network has no such attention.
    """
    if states_blocks(trace.model.net):
        return StatedReading(trace.model)
    return measure_reading(trace.model, trace.size)


def _capture(trace: Trace) -> Attention:
    model = trace.model
    reading = find_reading(trace)
    places = [*reading.blocks, *reading.class_blocks, *reading.pooling]
    with guard_network(model.net), torch.enable_grad(), watch_blocks(model.net, places) as watch:
        logits = trace.prober.logits(trace.images)
    found = {name: len(maps) for name, maps in watch.maps.items() if name or reading.strict}
    if found != dict.fromkeys(places, 1):
        raise refuse_no_maps(model)
    maps = [watch.maps[name][0] for name in places]
    tokens = [watch.outputs[name] for name in reading.blocks]
    if not all(isinstance(t, torch.Tensor) and t.ndim == 3 for t in tokens):
        raise refuse_no_maps(model)
    if not torch.allclose(logits, trace.logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise NotApplicable(
            f"{model.name} gives other logits when its attention is written out, so its attention "
            "maps cannot be trusted; use grad_cam instead."
        )
    grid = (trace.activations.shape[-2], trace.activations.shape[-1])
    roles = reading.find_roles(tokens[0].shape[1] + bool(reading.class_blocks), grid)
    kept = Attention(
        [],
        None,
        roles.queries.to(logits.device),
        roles.grid,
        roles.prefix,
        logits,
        maps,
        tokens,
        len(reading.class_blocks),
    )
    return _lay_out(kept, [m.detach() for m in maps], model, identity=True)


def _lay_out(
    found: Attention, maps: list[torch.Tensor], model: Explainee, identity: bool
) -> Attention:
    """Put maps, or gradients by them, into square matrices over all tokens."""
    blocks = len(found.outputs)
    size, trunk = len(found.queries), found.outputs[0].shape[1]
    shapes = [(trunk, trunk)] * blocks + [(1, size)] * found.class_blocks
    if any(m.shape[-2:] != shape for m, shape in zip(maps, shapes, strict=False)):
        raise refuse_no_maps(model)
    pool = maps[len(shapes)] if len(maps) > len(shapes) else None
    if pool is not None:
        if pool.shape[-1] not in (size, size - found.prefix):
            raise refuse_no_maps(model)
        pool = F.pad(pool, (size - pool.shape[-1], 0))
    return replace(
        found, layers=[_square(m, size, identity) for m in maps[: len(shapes)]], pool=pool
    )


def _square(values: torch.Tensor, size: int, identity: bool) -> torch.Tensor:
    """Return values [B,heads,r,c] in a matrix [B,heads,S,S]: a class token's row on top, patches at
    the end.
    """
    rows, columns = values.shape[-2:]
    if rows == columns == size:
        return values
    whole = torch.eye(size, device=values.device, dtype=values.dtype) * identity
    whole = whole.expand(*values.shape[:2], size, size).clone()
    top = 0 if rows == 1 else size - rows
    whole[..., top : top + rows, size - columns :] = values
    return whole


# --- gradients


def _differentiate(trace: Trace, found: Attention) -> Attention:
    with guard_network(trace.model.net), torch.enable_grad():
        gradients = _gradients(trace, found.logits, found.kept)
    trace.prober.counts.backwards += len(trace)
    return _lay_out(found, gradients, trace.model, identity=False)


def _gradients(trace: Trace, logits: torch.Tensor, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of the targets' logits; the graph stays, since another method may need
    it.
    """
    score = trace.select_targets(logits).sum()
    found = torch.autograd.grad(score, maps, retain_graph=True, allow_unused=True)
    if any(g is None for g in found):
        raise NotApplicable(
            f"The attention of {trace.model.name} has no gradient from the logits; switch gradient "
            "checkpointing off."
        )
    return [g.detach() for g in found]


def _check_ending(trace: Trace, found: Attention, reading: TokenReading) -> None:
    """Check that norm and head are all that follows the last block."""
    with torch.no_grad():
        logits = reading.finish(found.outputs[-1])
    if not torch.allclose(logits, found.logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise NotApplicable(
            f"{trace.model.name} has more than a norm and a head behind its last block, so its "
            "blocks cannot be scored one by one; use gradient_rollout instead."
        )


def _own_gradient(
    trace: Trace, found: Attention, reading: TokenReading, number: int, mean_token: bool
) -> torch.Tensor:
    tokens = found.outputs[number]
    if found.pool is not None:
        with watch_blocks(trace.model.net, reading.pooling) as watch:
            logits = reading.finish(tokens)
        (gradient,) = _gradients(trace, logits, watch.maps[reading.pooling[0]])
        return F.pad(gradient, (tokens.shape[1] - gradient.shape[-1], 0))
    if mean_token:
        # One patch and the prefix, all of them the mean: whichever of them the head reads, it reads
        # the mean.
        tokens = tokens.mean(1, keepdim=True).expand(-1, found.prefix + 1, -1)
    (gradient,) = _gradients(trace, reading.finish(tokens), [found.kept[number]])
    return gradient
