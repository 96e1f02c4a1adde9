"""Patches in the order of a map, and what a sister network says of images without some of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

from bench.engine.case import SMOOTH, Case
from bench.engine.fills import Fill, blend, ranks_of
from bench.engine.patches import PatchGrid, choose_side, cut_squares
from bench.engine.prober import target_logits
from bench.engine.probes import Key, digests
from bench.errors import NotApplicable
from bench.metrics.map_similarity import midranks
from bench.models.network_guard import guard_network

Step = TypeVar("Step", bound=Hashable)

SISTER_FIELDS = ("score", "baseline", "removed")
"""The protocol fields that every metric of a sister reads."""
COLOUR_SLACK = 1e-6
"""Colours this near to each other are one."""


def patches_of(case: Case) -> PatchGrid:
    """Return the patches that the sister was trained on, for the images of a case.

    Raises:
        NotApplicable: The network has no sister, or its sister was trained with another colour in
            place of removed pixels than the protocol's.
    """
    sister = case.prober.sister.model
    recipe = sister.card.get("recipe") or {}
    learned = recipe.get("baseline")
    painted = case.removed
    if learned is not None and (isinstance(painted, str) or not _is_same_colour(painted, learned)):
        raise NotApplicable(
            f"{sister.name} was trained with another colour in place of removed pixels than the "
            "protocol's; train a sister for this protocol."
        )
    size = case.trace.size
    side = recipe.get("patch")
    return cut_squares(size, choose_side(size) if side is None else int(side))


def _is_same_colour(first: tuple[float, ...], second: list[float]) -> bool:
    return len(first) == len(second) and all(
        abs(one - other) < COLOUR_SLACK for one, other in zip(first, second, strict=True)
    )


def rank_patches(case: Case, grid: PatchGrid) -> torch.Tensor:
    """Return the place [B,P] int32 of each patch in the order of the map, 0 = most relevant.

    A patch counts as much as the mean rank of its pixels, where equal pixels share their rank, so
    no strictly increasing change of the map moves it. Equal patches follow the tie rule: the mean
    place of their pixels in the order of equal pixels, then from the top left.
    """
    scores = grid.average(midranks(case.maps))
    ties = grid.average(_place_ties(case)).argsort(dim=1, stable=True)
    order = scores.gather(1, ties).argsort(dim=1, descending=True, stable=True)
    return ranks_of(ties.gather(1, order))


def _place_ties(case: Case) -> torch.Tensor:
    """Return the place [B,H,W] of each pixel in the order of equal pixels."""
    size, pixels = (len(case), *case.trace.size), case.maps[0].numel()
    if case.tie_rule == SMOOTH:
        return ranks_of(case.background.tie_order(case.seed)).view(size)
    index = torch.arange(pixels)
    return (
        (index if case.tie_rule == "first_index" else index.flip(0))
        .expand(len(case), -1)
        .view(size)
    )


def pass_sister(case: Case) -> torch.Tensor:
    """Return the sister's logits [B,C] of the clean images, run once for all methods."""

    def run() -> torch.Tensor:
        images = case.trace.images.contiguous(memory_format=torch.channels_last)
        sister = case.prober.sister
        with guard_network(sister.model.net), torch.inference_mode():
            return sister.logits(images)

    return case.background.share("sister pass", run)[0]


def clean_logits(case: Case) -> torch.Tensor:
    """Return the sister's logits [B] float64 of the targets on the clean images."""
    logits = pass_sister(case)
    case.asked += len(case)
    return target_logits(logits, case.trace.targets)


def paint_patches(case: Case, grid: PatchGrid, rows: torch.Tensor, masked: torch.Tensor) -> Fill:
    """Return what writes images whose masked patches have the colour of removed pixels.

    Args:
        case: Its images.
        grid: The patches.
        rows: The image [n] of each written image.
        masked: Its masked patches [n,P] bool.
    """
    colour = case.background.empty(case.removed)
    return blend(
        case.trace.images,
        colour[0] if len(colour) == 1 else colour,
        rows,
        lambda index: (~grid.spread(masked[index])).float(),
    )


def probe_patches(
    case: Case,
    grid: PatchGrid,
    recipe: Key,
    steps: list[Step],
    choose: Callable[[torch.Tensor, list[Step]], torch.Tensor],
    places: torch.Tensor,
) -> torch.Tensor:
    """Return the sister's evidence [B, len(steps)] of images without some patches.

    Args:
        case: The maps and images.
        grid: The patches.
        recipe: Says, with `steps` and the order of the patches, which patches are masked.
        steps: The images that are made of each image.
        choose: Returns the masked patches [n,P] bool of images `rows` [n] at n steps.
        places: The place [B,P] of each patch in the order of the map.
    """

    def fill(rows: torch.Tensor, wanted: list[Step]) -> Fill:
        return paint_patches(case, grid, rows, choose(rows, wanted))

    key = ("patches", grid.shape, case.removed, *recipe)
    mode = case.mode._replace(sister=True)
    return case.probe_ranking(key, steps, fill, names=digests(places), mode=mode)
