"""Attention maps of a transformer's blocks and gradients through them, from one forward that is
kept for backwards.

Nothing of the network is changed for it: while the pass runs, a torch function mode answers the
fused attention (`scaled_dot_product_attention`) by the same attention written out, and keeps every
softmax that runs inside a block. So `fused_attn` flags, prefix tokens, query-key norms, rotary
embeddings and relative position biases are all as they are, and there is nothing to put back when
the pass raises. That the logits are still the network's own is checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from bench.engine.trace import Trace
from bench.errors import NotApplicable
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network

TOLERANCE = 1e-4
"""How far the logits of the written-out pass may be from the network's own, absolute and
relative.
"""

_SOFTMAX = (torch.Tensor.softmax, torch.softmax, F.softmax)


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
        _check_ending(trace, found)
        chosen = range(len(found.outputs))[-count:] if count else range(len(found.outputs))
        gradients = [reduce(_own_gradient(trace, found, number, mean_token)) for number in chosen]
    trace.prober.counts.backwards += len(trace)
    return gradients


# --- the pass


def _capture(trace: Trace) -> Attention:
    model = trace.model
    net: Any = model.net
    blocks, class_blocks = _blocks(model)
    with (
        guard_network(net),
        torch.enable_grad(),
        _watch_blocks(net, blocks + class_blocks) as watch,
    ):
        logits = trace.prober.logits(trace.images)
    places = [*blocks, *class_blocks, *(["attn_pool"] if net.global_pool == "map" else [])]
    if {name: len(found) for name, found in watch.maps.items()} != dict.fromkeys(places, 1):
        raise _no_maps(model)
    maps, tokens = (
        [watch.maps[name][0] for name in places],
        [watch.outputs[name] for name in blocks],
    )
    if not all(isinstance(t, torch.Tensor) and t.ndim == 3 for t in tokens):
        raise _no_maps(model)
    if not torch.allclose(logits, trace.logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise NotApplicable(
            f"{model.name} gives other logits when its attention is written out, so its attention "
            "maps cannot be trusted; use grad_cam instead."
        )
    found = Attention([], None, torch.empty(0), (0, 0), 0, logits, maps, tokens, len(class_blocks))
    grid = (trace.activations.shape[-2], trace.activations.shape[-1])
    return _lay_out(
        _find_tokens(found, model, grid), [m.detach() for m in maps], model, identity=True
    )


def _blocks(model: Explainee) -> tuple[list[str], list[str]]:
    """Return the names of the blocks and of the class-attention blocks; a network without such is
    not applicable.
    """
    net: Any = model.net
    blocks, later = getattr(net, "blocks", None), getattr(net, "blocks_token_only", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        raise _no_maps(model)
    pooling = ("token",) if later is not None else ("token", "avg", "map")
    ending = isinstance(getattr(net, "norm", None), nn.Module) and hasattr(net, "forward_head")
    if not ending or getattr(net, "global_pool", None) not in pooling:
        raise _no_maps(model)
    return [f"blocks.{i}" for i in range(len(blocks))], [
        f"blocks_token_only.{i}" for i in range(len(later or ()))
    ]


def _no_maps(model: Explainee) -> NotApplicable:
    return NotApplicable(
        f"{model.name} has no attention over all tokens in every block, as ViT, DeiT, BEiT, EVA "
        "and CaiT have; use grad_cam instead."
    )


def _find_tokens(found: Attention, model: Explainee, explained: tuple[int, int]) -> Attention:
    """Add what the tokens are: how many prefix tokens, how the patches lie, and which of them the
    head reads.

    explained: the grid of the explained layer, which is the patches' where it has as many cells.
    """
    net: Any = model.net
    size = found.outputs[0].shape[1] + bool(found.class_blocks)
    prefix = int(getattr(net, "num_prefix_tokens", 0))
    patches = size - prefix
    side = isqrt(max(0, patches))
    height, width = explained if explained[0] * explained[1] == patches else (side, side)
    if patches < 4 or height * width != patches or (net.global_pool == "token" and not prefix):
        raise _no_maps(model)
    queries = torch.zeros(size, device=found.logits.device)
    if net.global_pool == "map":
        queries[:] = 1
    elif getattr(net, "head_dist", None) is not None:
        queries[:2] = 1
    elif net.global_pool == "token":
        queries[0] = 1
    else:
        queries[0 if getattr(net, "pool_include_prefix", False) else prefix :] = 1
    return replace(found, queries=queries / queries.sum(), grid=(height, width), prefix=prefix)


def _lay_out(
    found: Attention, maps: list[torch.Tensor], model: Explainee, identity: bool
) -> Attention:
    """Put maps, or gradients by them, into square matrices over all tokens."""
    blocks = len(found.outputs)
    size, trunk = len(found.queries), found.outputs[0].shape[1]
    shapes = [(trunk, trunk)] * blocks + [(1, size)] * found.class_blocks
    if any(m.shape[-2:] != shape for m, shape in zip(maps, shapes, strict=False)):
        raise _no_maps(model)
    pool = maps[len(shapes)] if len(maps) > len(shapes) else None
    if pool is not None:
        if pool.shape[-1] not in (size, size - found.prefix):
            raise _no_maps(model)
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


def _check_ending(trace: Trace, found: Attention) -> None:
    """Check that norm and head are all that follows the last block."""
    net: Any = trace.model.net
    with torch.no_grad():
        logits = net.forward_head(net.norm(found.outputs[-1]))
    if not torch.allclose(logits, found.logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise NotApplicable(
            f"{trace.model.name} has more than a norm and a head behind its last block, so its "
            "blocks cannot be scored one by one; use gradient_rollout instead."
        )


def _own_gradient(trace: Trace, found: Attention, number: int, mean_token: bool) -> torch.Tensor:
    net: Any = trace.model.net
    tokens = found.outputs[number]
    if found.pool is not None:
        with _watch_blocks(net, []) as watch:
            logits = net.forward_head(net.norm(tokens))
        (gradient,) = _gradients(trace, logits, watch.maps["attn_pool"])
        return F.pad(gradient, (tokens.shape[1] - gradient.shape[-1], 0))
    if mean_token:
        # One patch and the prefix, all of them the mean: whichever of them the head reads, it reads
        # the mean.
        tokens = tokens.mean(1, keepdim=True).expand(-1, found.prefix + 1, -1)
    (gradient,) = _gradients(trace, net.forward_head(net.norm(tokens)), [found.kept[number]])
    return gradient


# --- watching


class _Watch(TorchFunctionMode):
    """Keeps the softmax [B,heads,rows,columns] of each attention by the name of the block that it
    runs in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.outputs: dict[str, torch.Tensor] = {}
        self.inside = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        return self._keep(out) if func in _SOFTMAX and out.ndim == 4 else out

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """softmax(scale * Q K^T + mask) V; the network is in eval mode, so nothing is dropped."""
        if is_causal or any(
            others.values()
        ):  # no image classifier's; without a map it is not applicable
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, **others
            )
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(
            -2, -1
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._keep(scores.softmax(-1)) @ value

    def _keep(self, probabilities: torch.Tensor) -> torch.Tensor:
        if (
            not probabilities.requires_grad
        ):  # the first of the pass: the graph starts here, not at the image
            probabilities.requires_grad_()
        self.maps[self.inside].append(probabilities)
        return probabilities


@contextmanager
def _watch_blocks(net: nn.Module, names: Iterable[str]) -> Iterator[_Watch]:
    """Run a block under a watch that knows where the pass is: inside which of the blocks named, or
    the pooling.
    """
    watch = _Watch()
    pooling = ["attn_pool"] if isinstance(getattr(net, "attn_pool", None), nn.Module) else []

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            watch.inside = name

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> None:
            watch.inside, watch.outputs[name] = "", output

        return hook

    handles = []
    try:
        for name in (*names, *pooling):
            module = net.get_submodule(name)
            handles += [
                module.register_forward_pre_hook(enter(name)),
                module.register_forward_hook(leave(name)),
            ]
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()
