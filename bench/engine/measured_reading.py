"""What the attention methods need of a network that states nothing: found by running it.

The blocks are the children of the one list that holds all attention. Where patches lie among the
tokens follows from changing the image's corners; what the head reads follows from the gradient of
the logits by the last block's tokens, and from exchanging tokens. So class names and configurations
of a library are not read, and a network that does otherwise than its name says is not mistaken.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bench.engine.attention_watch import watch_blocks
from bench.engine.token_reading import TokenRoles, refuse_no_maps
from bench.errors import NotApplicable
from bench.models.explainee import Explainee
from bench.models.network_guard import State, guard_network, state_of
from bench.models.split import Captured, LayerSplit
from bench.randomness import generator

UNREAD = 1e-6
"""Share of the largest gradient from which a token counts as read."""

UNMOVED = 1e-5
"""Share of the largest logit up to which logits count as the same."""

CORNER = 3.0
"""How much a corner of the image is changed, in standard deviations of the noise."""


@dataclass
class MeasuredReading:
    """What was found of a network at one image size."""

    blocks: list[str]
    roles: TokenRoles
    split: LayerSplit
    captured: Captured
    class_blocks: list[str] = field(default_factory=list)
    pooling: list[str] = field(default_factory=list)
    strict = False

    def find_roles(self, size: int, explained: tuple[int, int]) -> TokenRoles:
        return self.roles

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        return self.split.head(tokens, self.captured, rows)


Key = tuple[State, tuple[int, int], str]
_known: weakref.WeakKeyDictionary[nn.Module, tuple[Key, MeasuredReading | str]] = (
    weakref.WeakKeyDictionary()
)


def measure_reading(model: Explainee, size: tuple[int, int]) -> MeasuredReading:
    """Return what the attention methods need of a network at images of this size (H, W).

    It is found once per network and size; it runs the network on five images. Raises NotApplicable,
    with the reason, where attention maps of all tokens do not explain the network.
    """
    key = state_of(model.net), size, str(model.device)
    known = _known.get(model.net)
    if known is None or known[0] != key:
        try:
            with guard_network(model.net):
                found: MeasuredReading | str = _measure(model, size)
        except NotApplicable as reason:
            found = str(reason)
        _known[model.net] = known = key, found
    if isinstance(known[1], str):
        raise NotApplicable(known[1])
    return known[1]


def _measure(model: Explainee, size: tuple[int, int]) -> MeasuredReading:
    noise = torch.randn(1, model.channels, *size, generator=generator(0, "attention")).to(
        model.device
    )
    blocks, tokens = _find_blocks(model, noise)
    prefix, grid = _find_patches(model, blocks[0], noise, tokens)
    split = LayerSplit(model.net, blocks[-1])
    with torch.no_grad():
        captured = split.capture(noise)
    if captured.values.ndim != 3 or captured.values.shape[1] != tokens:
        raise refuse_no_maps(model)
    queries = torch.full((tokens,), torch.nan)
    found = MeasuredReading(blocks, TokenRoles(queries, grid, prefix), split, captured)
    found.roles = TokenRoles(_find_queries(model, found, prefix), grid, prefix)
    return found


# --- the blocks


def _find_blocks(model: Explainee, noise: torch.Tensor) -> tuple[list[str], int]:
    """Return the names of the blocks, and how many tokens each attends to.

    The blocks are the children of a list, with one attention [1,heads,S,S] each; of several such
    lists the longest. No logit may read an attention that runs elsewhere.
    """
    net = model.net
    names = [name for name, _ in net.named_modules() if name]
    with torch.enable_grad(), watch_blocks(net, names) as watch:
        logits = net(noise)
    if not watch.maps:
        raise _refuse_hidden(model)
    lists = [
        [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        for name, module in net.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
    ]
    blocks = max((found for found in lists if _attend_once(found, watch.maps)), key=len, default=[])
    if not blocks:
        raise refuse_no_maps(model)
    elsewhere = {
        name: maps
        for name, maps in watch.maps.items()
        if not any(_lies_in(name, b) for b in blocks)
    }
    for name, maps in elsewhere.items():
        if _is_read(logits, maps):
            raise NotApplicable(
                f"{model.name} attends outside its blocks, in {name or 'its forward'}, for which "
                "the attention methods are not defined here; use grad_cam instead."
            )
    return blocks, _maps_in(blocks[0], watch.maps)[0].shape[-1]


def _refuse_hidden(model: Explainee) -> NotApplicable:
    """Return the reason where no softmax ran: there is no attention, or a kernel hides it."""
    config = getattr(model.net, "config", None)
    kernel = getattr(config, "_attn_implementation", None)
    if kernel in (None, "eager", "sdpa"):
        return refuse_no_maps(model)
    return NotApplicable(
        f"{model.name} computes its attention by {kernel}, which leaves no attention maps; load it "
        'with attn_implementation="sdpa" or "eager".'
    )


def _attend_once(blocks: list[str], maps: dict[str, list[torch.Tensor]]) -> bool:
    """Return whether each of the modules holds one attention over the same tokens, in order."""
    found = [_maps_in(block, maps) for block in blocks]
    if not blocks or any(len(inside) != 1 for inside in found):
        return False
    size = found[0][0].shape[-1]
    square = all(m.shape[0] == 1 and m.shape[-2:] == (size, size) for (m,) in found)
    order = [block for name in maps for block in blocks if _lies_in(name, block)]
    return square and size > 4 and order == blocks


def _maps_in(block: str, maps: dict[str, list[torch.Tensor]]) -> list[torch.Tensor]:
    return [m for name, inside in maps.items() if _lies_in(name, block) for m in inside]


def _lies_in(name: str, block: str) -> bool:
    return name == block or name.startswith(f"{block}.")


def _is_read(logits: torch.Tensor, maps: list[torch.Tensor]) -> bool:
    if not logits.requires_grad:
        return False
    with torch.enable_grad():
        gradients = torch.autograd.grad(_mix(logits), maps, retain_graph=True, allow_unused=True)
    return any(g is not None and bool(g.any()) for g in gradients)


def _mix(logits: torch.Tensor) -> torch.Tensor:
    """Return a number that depends on all logits [n,C]; their plain sum may be a constant."""
    weights = torch.randn(logits.shape[1], generator=generator(0, "attention", "logits"))
    return (logits * weights.to(logits)).sum()


# --- the patches


def _find_patches(
    model: Explainee, block: str, noise: torch.Tensor, tokens: int
) -> tuple[int, tuple[int, int]]:
    """Return how many tokens precede the patches, and the patches' grid (h, w).

    The tokens that change most with the image's four corners are the corner patches.
    """
    height, width = noise.shape[-2:]
    step, places = 1, list[int]()
    before = _read_input(model, block, noise)
    if before is None or before.shape[1] != tokens:
        raise refuse_no_maps(model)
    while len(places) < 4:
        if step > min(height, width):
            raise refuse_no_maps(model)
        places = []
        for rows in (slice(None, step), slice(-step, None)):
            for columns in (slice(None, step), slice(-step, None)):
                image = noise.clone()
                image[..., rows, columns] += CORNER
                after = _read_input(model, block, image)
                change = (after - before).norm(dim=-1)[0] if after is not None else before[0, :, 0]
                if not bool(change.any()):  # patches do not reach this edge of the image
                    break
                places.append(int(change.argmax()))
        step *= 2
    first, right, bottom, last = places
    width = right - first + 1
    if width < 2 or last - first + 1 < 2 * width or (last - first + 1) % width:
        raise refuse_no_grid(model, places)
    rows_of_patches = (last - first + 1) // width
    if bottom != first + (rows_of_patches - 1) * width or last != tokens - 1:
        raise refuse_no_grid(model, places)
    return first, (rows_of_patches, width)


def refuse_no_grid(model: Explainee, places: list[int]) -> NotApplicable:
    """Return the reason why the tokens are no grid of patches behind prefix tokens."""
    return NotApplicable(
        f"The corners of the image are the tokens {', '.join(map(str, places))} of {model.name}, "
        "which is no grid of patches at the end of its tokens; use grad_cam instead."
    )


def _read_input(model: Explainee, block: str, image: torch.Tensor) -> torch.Tensor | None:
    """Return the tokens [1,S,D] that enter a module, None where it is given none."""
    seen: list[torch.Tensor] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)]
        seen.extend(v.clone() for v in given[:1] if v.ndim == 3)

    handle = model.net.get_submodule(block).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            model.net(image)
    finally:
        handle.remove()
    return seen[0] if seen else None


# --- what the head reads


def _find_queries(model: Explainee, found: MeasuredReading, prefix: int) -> torch.Tensor:
    """Return the share [S] of each token in what the head reads.

    Tokens that can be exchanged with a patch are averaged with the patches. Others are read by
    themselves; where both are, each kind has one half (DINOv2's class token and patch mean).
    """
    values = found.captured.values
    size = values.shape[1]
    tokens = torch.randn(values.shape, generator=generator(0, "attention", "tokens")).to(values)
    read = _find_read(model, found, tokens)
    if not bool(read[prefix:].any()):
        own = read
    elif not bool(read[prefix:].all()):
        raise _refuse_head(model)
    else:
        alike = torch.tensor([place >= prefix for place in range(size)])
        for place in torch.nonzero(read[:prefix]).flatten().tolist():
            alike[place] = _is_same(found, tokens, _exchange(tokens, place, size - 1))
        if not _is_same(found, tokens, _turn(tokens, prefix)) or not _counts(found, tokens, alike):
            raise _refuse_head(model)
        own = read & ~alike
        mean = alike.double() / alike.sum()
        if not bool(own.any()):
            return mean.float()
        return (mean / 2 + own.double() / own.sum() / 2).float()
    return own.float() / own.sum()


def _find_read(model: Explainee, found: MeasuredReading, tokens: torch.Tensor) -> torch.Tensor:
    """Return which tokens [S] the logits depend on, at tokens [1,S,D]."""
    with torch.enable_grad():
        values = tokens.clone().requires_grad_()
        logits = found.finish(values)
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(_mix(logits), values)
            sizes = gradient[0].norm(dim=-1).cpu()
            if bool(sizes.any()):
                return torch.gt(sizes, UNREAD * sizes.max())
    raise NotApplicable(
        f"No logit of {model.name} depends on the tokens of its last block; are the weights of its "
        "head zero?"
    )


def _refuse_head(model: Explainee) -> NotApplicable:
    return NotApplicable(
        f"The head of {model.name} reads neither a class token nor the mean of all patches, so no "
        "attention row is the image's; use grad_cam instead."
    )


def _is_same(found: MeasuredReading, one: torch.Tensor, other: torch.Tensor) -> bool:
    with torch.no_grad():
        first, second = found.finish(one), found.finish(other)
    return float((first - second).abs().max()) <= UNMOVED * float(first.abs().max())


def _exchange(tokens: torch.Tensor, one: int, other: int) -> torch.Tensor:
    order = list(range(tokens.shape[1]))
    order[one], order[other] = other, one
    return tokens.index_select(1, torch.tensor(order, device=tokens.device))


def _turn(tokens: torch.Tensor, prefix: int) -> torch.Tensor:
    """Return the tokens with the patches in reverse order."""
    return torch.cat([tokens[:, :prefix], tokens[:, prefix:].flip(1)], dim=1)


def _counts(found: MeasuredReading, tokens: torch.Tensor, alike: torch.Tensor) -> bool:
    """Return whether it matters how many of the tokens are alike: it does to a mean, not to a
    maximum.
    """
    places = torch.nonzero(alike).flatten().tolist()
    one = tokens.clone()
    one[:, places[1:]] = tokens[:, places[1:2]]
    two = one.clone()
    two[:, places[1]] = tokens[:, places[0]]
    return not _is_same(found, one, two)
