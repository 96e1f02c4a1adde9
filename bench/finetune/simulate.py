"""Simulated editors: attention maps from boxes or masks, where no person draws them. Every output
says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from bench.data.input_size import require_square
from bench.data.subset import Subset, id_hash
from bench.errors import BenchError
from bench.finetune.attention_maps import (
    SIMULATED,
    EditedMap,
    grey_of,
    load_map,
    make_edited_map,
    map_files,
    map_path,
    save_map,
    utc_now,
)
from bench.finetune.placement import Placement, Report, find_placements, frame_of
from bench.folder_owner import own_folder
from bench.models.explainee import Explainee
from bench.types import Truth

SOFT_SHARE = 1 / 24
"""Standard deviation of the soft edge where none is given, as a share of the side: 4 pixels of 96,
9 of 224.
"""

Kind = Literal["boxes", "masks"]
KINDS: tuple[Kind, ...] = ("masks", "boxes")


@dataclass(frozen=True)
class Simulation:
    """What was simulated: maps written, of `right` images right in class, among `images` looked
    at.
    """

    folder: Path
    maps: int
    right: int
    images: int
    source: str

    def __str__(self) -> str:
        return (
            f"{self.maps} simulated maps ({self.source.removeprefix(SIMULATED)} with soft edges, "
            f"drawn by nobody) of {self.right} images right in class, of {self.images}: "
            f"{self.folder}"
        )


def simulate_map(
    truth: torch.Tensor, soft: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return an attention map [H,W] float32 in [0,1] for the object's pixels [H,W] bool.

    soft: standard deviation of the Gaussian edge in pixels; 0 gives a hard edge. The map's maximum
    is 1, so that a small object is no faint one; an object that the frame cuts stays strong at the
    cut. Without an object: zeros.
    """
    if not soft >= 0:
        raise BenchError(f"A soft edge of {soft} pixels cannot be drawn; give 0 or more.")
    values = truth.numpy().astype(np.float64)
    if soft > 0:
        values = gaussian_filter(values, soft, mode="nearest")
    values = values / max(values.max(), np.finfo(np.float64).tiny)
    return np.asarray(values.clip(0, 1), dtype=np.float32)


def simulate_maps(
    model: Explainee,
    subset: Subset,
    folder: str | Path,
    share: float = 0.1,
    soft: float | None = None,
    kind: Kind | None = None,
    misplaced: bool = False,
    report: Report | None = None,
) -> Simulation:
    """Write simulated maps for a share of the images that are right in class.

    Simulated maps that are in the folder already are replaced.

    Args:
        model: Attention branch network.
        subset: Images with boxes or masks.
        folder: Folder of the maps.
        share: Share of the images right in class, in (0,1]. Images with the smallest sha256 of
            "simulated" and their id are taken, so a larger share holds a smaller one.
        soft: Soft edge in pixels, see `simulate_map`. None: `SOFT_SHARE` of the side.
        kind: What the maps are made from. None: masks where the subset has them, else boxes.
        misplaced: Take only images that are wrong in place.
        report: Called with (done, total) while the network looks at the images.

    Raises:
        BenchError: The model has no attention branch, the subset no truth, no image qualifies, or
            the folder holds maps that a person has drawn.
    """
    folder = Path(folder)
    if not 0 < share <= 1:
        raise BenchError(
            f"A share of {share} of the images cannot be simulated; it must be above 0 and at most "
            "1."
        )
    chosen_kind = _choose_kind(subset, kind)
    side = require_square(model.size, "Simulating attention maps")
    width = SOFT_SHARE * side if soft is None else soft
    _check_folder(folder)
    with own_folder(folder, "simulation"):
        seen = [p for p in find_placements(model, subset, report) if p.right]
        right = [p for p in seen if p.energy is not None and (p.misplaced or not misplaced)]
        chosen = _choose_share(right, share, model, subset, misplaced)
        source = SIMULATED + chosen_kind
        facts = {
            "subset": subset.name,
            "manifest_id": subset.manifest_id,
            "model": model.name,
            "weights_id": model.weights_id,
            "when": utc_now(),
            "source": source,
            "soft": width,
            "revision": 1,
        }
        for path in set(map_files(folder)) - {map_path(folder, p.item) for p in chosen}:
            path.unlink()
        maps = (_make_map(model, subset, one, chosen_kind, facts) for one in chosen)
        written = [save_map(folder, edited) for edited in maps if edited is not None]
    return Simulation(folder, len(written), len(right), len(subset), source)


def _choose_share(
    right: list[Placement], share: float, model: Explainee, subset: Subset, misplaced: bool
) -> list[Placement]:
    """Return a share of the images that qualify, in the subset's order."""
    wanted = round(share * len(right))
    if wanted == 0:
        what = "right in class and wrong in place" if misplaced else "right in class"
        raise BenchError(
            f"A share of {share} of the {len(right)} images of {subset.name} that {model.name} "
            f"has {what} is none; nothing was simulated; choose a larger --share or another "
            "subset."
        )
    chosen = sorted(right, key=lambda p: id_hash(f"simulated\x1f{p.item}"))[:wanted]
    return sorted(chosen, key=lambda p: p.index)


def _make_map(
    model: Explainee, subset: Subset, placement: Placement, kind: Kind, facts: dict[str, Any]
) -> EditedMap | None:
    """Return the map of one image; None where nothing of the object is left in the frame."""
    batch = subset.batch([placement.index], frame_of(model, subset))
    pixels = _read_pixels(batch.truth, kind, model.frame)
    if not pixels.any():
        return None
    values = simulate_map(pixels, facts["soft"])
    own = {
        "item": placement.item,
        "image_id": batch.image_ids[0],
        "label": placement.label,
        "before": {
            "energy": placement.energy,
            "predicted": placement.predicted,
            "probability": placement.probability,
        },
    }
    return make_edited_map(grey_of(values), facts | own)


def _read_pixels(truth: Truth, kind: Kind, frame: tuple[int, int]) -> torch.Tensor:
    """Return the object's pixels [H,W] bool of a batch of one."""
    pixels = (truth if kind == "masks" else Truth(boxes=truth.boxes)).pixels(*frame)
    assert pixels is not None  # _kind has looked
    return pixels[0]


def _choose_kind(subset: Subset, kind: Kind | None) -> Kind:
    have = {"masks": subset.has_masks, "boxes": subset.has_boxes}
    chosen = kind or next((one for one in KINDS if have[one]), None)
    if chosen is None or not have.get(chosen):
        raise BenchError(
            f"The subset {subset.name} has no {chosen or 'boxes or masks'}, so no maps can be "
            "simulated from them; draw maps with `cambench edit` or choose a subset that has "
            "truth."
        )
    return chosen


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BenchError(
            f"{folder} is a file, so no simulated maps can be written into it; choose another "
            "--out."
        )
    drawn = sum(not load_map(path).simulated for path in map_files(folder))
    if drawn:
        raise BenchError(
            f"The folder {folder} holds {drawn} maps drawn by a person, which simulated ones "
            "would mix with or overwrite; choose another --out."
        )
