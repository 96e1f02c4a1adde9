"""IDSDS: does a map order the cells of an image as the drop of the logit without each of them?"""

from __future__ import annotations

import torch

from bench.engine.case import Case
from bench.engine.counts import Counts
from bench.engine.patches import PatchGrid, cut_cells
from bench.engine.prober import Job, Mode
from bench.engine.shared_parts import SharedPart
from bench.metrics.base import Scores, Value, register_metric
from bench.metrics.map_similarity import midranks, spearman
from bench.metrics.patch_ranking import clean_logits, paint_patches, patches_of
from bench.metrics.sister_curves import SISTER_PASS

CELLS = 4
"""Cells in a row and in a column."""


@register_metric(
    "idsds",
    family="faithfulness",
    needs=("sister",),
    reads=("baseline", "removed"),
    shared=lambda _: (SISTER_PASS, SharedPart("idsds", Counts(forwards=CELLS**2))),
    paints="removed",
    standard=False,
    values={
        "idsds": Value("IDSDS", better="higher", lower=-1, upper=1, peaked=True),
        "idsds_ranked": Value(
            "IDSDS of mean ranks", better="higher", ranked=True, lower=-1, upper=1
        ),
    },
)
def idsds(case: Case) -> Scores:
    """Spearman correlation of the map's mean in 4x4 cells with the drop of the logit without each.

    In-domain single deletion score (Hesse et al., NeurIPS 2024, arXiv:2407.11910;
    `single_deletion_protocol` of the authors' code). One cell at a time becomes the baseline, and a
    sister network, trained on masked images, runs the 16 images, which serve all methods. A map
    whose cells are all equal has 0. [B] in [-1,1], higher better.

    What differs: the authors train their networks with one masked cell in half of the images, on
    labels, and explain them; here the map is of the network itself, and its sister has seen masks
    of patches. The authors explain the label, here the protocol says which class. Their cells
    leave out pixels that no four equal cells hold; here some cells are a pixel larger. `idsds`
    moves when a map is sharpened. `idsds_ranked` takes the mean rank of each cell's pixels and does
    not.
    """
    patches_of(case)  # a sister of another colour is refused
    grid = cut_cells(case.trace.size, CELLS)
    clean = clean_logits(case)
    drops = case.share(("idsds", case.removed), lambda: clean[:, None] - _run(case, grid))
    return {
        "idsds": _correlate(grid.average(case.maps), drops),
        "idsds_ranked": _correlate(grid.average(midranks(case.maps)), drops),
    }


def _run(case: Case, grid: PatchGrid) -> torch.Tensor:
    """Return the sister's logits [B,cells] of the targets, one cell masked at a time."""
    count = grid.count
    rows = torch.arange(len(case)).repeat_interleave(count)
    masked = torch.eye(count, dtype=torch.bool).repeat(len(case), 1)
    job = Job(case.trace.targets[rows], paint_patches(case, grid, rows, masked))
    mode = Mode(raw=True, sister=True)
    (logits,) = case.prober.start([job], case.trace.size, mode).values()
    return logits.view(len(case), count)


def _correlate(cells: torch.Tensor, drops: torch.Tensor) -> torch.Tensor:
    """Return Spearman's correlation [B] of cells [B,n] with drops [B,n]; 0 for equal cells."""
    same = (cells == cells[:, :1]).all(1)
    return torch.where(same, 0.0, spearman(cells, drops))
