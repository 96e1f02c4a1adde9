"""Masks by threshold fine-tuning (TFT): what activation fine-tuning (AFT) teaches a network to do
without a search.

`search_masks` asks the original network once, for every image that it classifies correctly: the map
of any method, cut at t = 0..9, and the log-odds of the image under each cut. That is kept on disk
and reused. `choose` takes one cut per image from it (t*), or one of the controls, without running
anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bench.data.input_size import require_square
from bench.engine.case import Case
from bench.engine.prober import Prober, probability
from bench.engine.trace import Trace
from bench.errors import BenchError, suggestions
from bench.files import cache_folder, replaced_file
from bench.finetune.data import Pictures, split_rows
from bench.finetune.sealed_tensors import read_sealed_tensors, write_sealed_tensors
from bench.identity import digest
from bench.methods import METHODS, Method
from bench.methods.references import MASK_COLOUR
from bench.methods.thresholding import THRESHOLDS
from bench.metrics.threshold import first_argmax
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.protocol import Protocol
from bench.randomness import generator, smooth_field
from bench.seals import DamagedFileError

FORMAT = 1

SELECTS = ("auto", "official", "logodds")
"""How t* is chosen.  official: the first argmax of q(t) = max(0, p_c(M_t x) - p_c(x)) over t =
1..9, 0 where every q is 0.  logodds: the first argmax of the log-odds of M_t x over t = 0..9.
auto: official, and logodds where over half of the images have t* = 0 by official (on confident
images q vanishes)."""

CONTROLS = ("none", "lambda0", "random", "shuffled", "fixed")
"""What is put in the place of an image's own mask.  none: nothing.  lambda0: its own, and the loss
does not read it. random: a smooth random region of the same area.  shuffled: another image's mask.
fixed: its own map cut at t = 5."""

FIXED = 5
CHUNK = 64

Progress = Callable[[int, int], None]
"""Told the images done and in all."""
UInt8s = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Search:
    """What TFT found on n images of H x W pixels, N = H*W; rows of images that carry no mask are
    zeros.

    levels: uint8 [n, ceil(N/2)], two pixels a byte: at how many of t = 0..9 the pixel is in {M_t >
    0}. soft: float16 [n,10,h,w], M_t pooled to the grid of the explained layer. odds: float64
    [n,10], log-odds of M_t x.  clean: float64 [n], log-odds of x. correct: bool [n], classified
    correctly.  carries: bool [n], correct and with a map that has a positive part.
    """

    levels: torch.Tensor
    soft: torch.Tensor
    odds: torch.Tensor
    clean: torch.Tensor
    correct: torch.Tensor
    carries: torch.Tensor

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def side(self) -> int:
        """Return H = W (isqrt leaves out the pixel that fills up the last byte of an odd number of
        them).
        """
        return math.isqrt(2 * self.levels.shape[1])

    def best(self, select: str) -> torch.Tensor:
        """Return t* [n] int64 by "official" or "logodds"; 0 of images that carry no mask."""
        if select == "logodds":
            best = first_argmax(self.odds)
        else:
            q = (probability(self.odds[:, 1:]) - probability(self.clean)[:, None]).clamp(min=0)
            best = torch.where(q.amax(1) > 0, first_argmax(q) + 1, 0)
        return torch.where(self.carries, best, 0)

    def share_uncut(self, select: str) -> float:
        """Return the share of the images with masks whose t* is 0."""
        return float((self.best(select)[self.carries] == 0).double().mean())

    def resolve(self, select: str) -> str:
        """Return "official" or "logodds" for a value of `SELECTS`."""
        if select not in SELECTS:
            raise BenchError(
                f"select is {select!r}; it can be "
                f"{', '.join(SELECTS)}.{suggestions(select, SELECTS)}"
            )
        if select != "auto":
            return select
        return "logodds" if self.share_uncut("official") > 0.5 else "official"

    def cut(self, rows: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return {M_t > 0} of the images at `rows` [B], cut at t [B]: [B,H,W] bool."""
        packed = self.levels[rows]
        pixels = torch.stack([packed & 15, packed >> 4], dim=2).flatten(1)[:, : self.side**2]
        return (pixels > t[:, None]).view(-1, self.side, self.side)


@dataclass(frozen=True)
class Masks:
    """One mask per image, as the loss reads it.

    packed: uint8 [n, ceil(N/8)], m at image resolution, a bit per pixel (np.packbits).  pooled:
    float32 [n,h,w], m averaged to the explained layer's grid.  soft: float32 [n,h,w], M_{t*}
    itself, averaged.  t: int64 [n]. carries: bool [n], whether the image has one.  facts: what was
    chosen, for the card.
    """

    packed: UInt8s
    pooled: torch.Tensor
    soft: torch.Tensor
    t: torch.Tensor
    carries: torch.Tensor
    side: int
    facts: dict[str, Any]

    def binary(self, rows: torch.Tensor) -> torch.Tensor:
        """Return m of the images at `rows` [B]: [B,H,W] bool."""
        bits = np.unpackbits(self.packed[rows.numpy()], axis=1, count=self.side**2)
        return torch.from_numpy(bits).bool().view(-1, self.side, self.side)


# --- choosing


def choose(
    found: Search, ids: Sequence[str], select: str = "auto", control: str = "none", seed: int = 0
) -> Masks:
    """Choose one mask per image: m = {M_t* > 0}, all ones where t* = 0; or a control in its place.

    Args:
        found: The search over the images.
        ids: Ids of the items, from which random regions are drawn.
        select: One of `SELECTS`.
        control: One of `CONTROLS`.
        seed: Seed of random regions and of the shuffling.
    """
    rule = found.resolve(select)
    if control not in CONTROLS:
        raise BenchError(
            f"control is {control!r}; it can be "
            f"{', '.join(CONTROLS)}.{suggestions(control, CONTROLS)}"
        )
    t = torch.where(found.carries, FIXED, 0) if control == "fixed" else found.best(rule)
    shuffles = control == "shuffled"
    donors = _draw_donors(found.carries, seed) if shuffles else torch.arange(len(found))
    t = t[donors]
    packed, pooled, soft = [], [], []
    for rows in split_rows(len(found), CHUNK):
        kept = found.cut(donors[rows], t[rows]) | (t[rows] == 0)[:, None, None]
        own = found.soft[donors[rows], t[rows]].float()
        if control == "random":
            rngs = [generator(seed, "random mask", ids[i]) for i in rows.tolist()]
            kept = torch.stack(
                [_draw_region(mask, rng) for mask, rng in zip(kept, rngs, strict=True)]
            )
        small = _pool(kept.float(), (own.shape[1], own.shape[2]))
        packed.append(np.packbits(kept.flatten(1).numpy(), axis=1))
        pooled.append(small)
        soft.append(small if control == "random" else own)
    masks = np.concatenate(packed), torch.cat(pooled), torch.cat(soft)
    return Masks(*masks, t, found.carries, found.side, _describe_choice(found, rule, control))


def _describe_choice(found: Search, rule: str, control: str) -> dict[str, Any]:
    """Return what a card says of the masks."""
    return {
        "select": rule,
        "control": control,
        "images": len(found),
        "correct": int(found.correct.sum()),
        "with_mask": int(found.carries.sum()),
        "share_t0_official": round(found.share_uncut("official"), 4),
        "share_t0_logodds": round(found.share_uncut("logodds"), 4),
    }


def _pool(maps: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Average maps [B,H,W] to a grid: [B,h,w]."""
    return F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0]


def _draw_region(mask: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return a mask [H,W] of the same area: the highest pixels of a smooth random field."""
    order = smooth_field(rng, *mask.shape).flatten().argsort(descending=True, stable=True)
    region = torch.zeros(mask.numel(), dtype=torch.bool)
    region[order[: int(mask.sum())]] = True
    return region.view_as(mask)


def _draw_donors(carries: torch.Tensor, seed: int) -> torch.Tensor:
    """Return whose mask each image gets, [n]: one cycle through all that carry one, so that nobody
    keeps its own.
    """
    rows = carries.nonzero()[:, 0]
    if len(rows) < 2:
        raise BenchError(
            "The control 'shuffled' needs two images with masks, and there is one; give more "
            "images."
        )
    cycle = rows[torch.randperm(len(rows), generator=generator(seed, "shuffled masks"))]
    of = torch.arange(len(carries))
    of[cycle] = cycle.roll(1)
    return of


# --- searching


def search_masks(
    model: Explainee,
    pictures: Pictures,
    method: str = "grad_cam",
    *,
    seed: int = 0,
    batch_size: int | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> Search:
    """Return TFT's search over pictures, from the cache where it is there and whole, else by
    running the model.

    method: makes the maps, of the predicted class.  seed: of the method's draws and the tie rule.
    cache: folder; None is the user's (see `cache_folder`).  warn: told, in a sentence, of a kept
    file that is broken. Raises BenchError where the model classifies no image correctly, or gives
    none of these a map.
    """
    side = require_square(model.size, "The search for masks (TFT)")
    chosen = METHODS.get(method)
    key = _key(model, pictures, chosen, seed)
    file = (cache or cache_folder()) / "tft" / f"{digest(key)}.safetensors"
    found = _load(file, key, _empty(len(pictures), side, model.probe_shape[2:]), warn)
    if found is None:
        found = _run(model, pictures, chosen, seed, batch_size, progress)
        _keep(found, file, key, warn)
    if not bool(found.carries.any()):
        raise BenchError(
            f"{model.name} classifies {int(found.correct.sum())} of {len(found)} images of "
            f"{pictures.subset.name} correctly, and {method} gives none of them a map with a "
            "positive part, so TFT finds no mask; train the model first, or check that the "
            "subset's labels are its classes."
        )
    return found


def _run(
    model: Explainee,
    pictures: Pictures,
    method: Method,
    seed: int,
    batch_size: int | None,
    progress: Progress | None,
) -> Search:
    prober = Prober(model, batch_size)
    parts = []
    for rows in split_rows(len(pictures), prober.batch_size):
        parts.append(_search_batch(prober, pictures, rows, method, seed))
        if progress:
            progress(int(rows[-1]) + 1, len(pictures))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Search(**joined)


def _search_batch(
    prober: Prober, pictures: Pictures, rows: torch.Tensor, method: Method, seed: int
) -> dict[str, torch.Tensor]:
    model = prober.model
    side = require_square(model.size, "The search for masks (TFT)")
    grid = model.probe_shape[2:]
    found = _empty(len(rows), side, grid)
    images = model.normalise(pictures.pixels(rows).to(model.device))
    ids = [pictures.ids[i] for i in rows.tolist()]
    truth = pictures.truth(rows) if "truth" in method.needs else None
    trace = Trace(prober, images, ids=ids, truth=truth, seed=seed)
    found["correct"] = trace.predicted == pictures.labels[rows]
    right = found["correct"].nonzero()[:, 0]
    if not len(right):
        return found
    trace = trace.select(right)
    case = Case(trace, method(trace), Protocol().view(()), seed=seed)
    usable = case.has_positive & case.finite
    with guard_network(model.net):
        odds = case.probe_masks(MASK_COLOUR, range(THRESHOLDS), THRESHOLDS)
    levels = torch.zeros(len(right), side**2, dtype=torch.uint8)
    for t in range(THRESHOLDS):
        cut = case.cut(torch.full((len(right),), t), THRESHOLDS)
        levels += (cut > 0).flatten(1)
        found["soft"][right, t] = _pool(cut, grid).half()
    levels = F.pad(levels, (0, levels.shape[1] % 2))
    found["levels"][right] = levels[:, ::2] | levels[:, 1::2] << 4
    found["odds"][right], found["clean"][right] = odds, trace.log_odds
    for name in ("levels", "soft", "odds"):
        found[name][right[~usable]] = 0
    found["carries"][right] = usable
    return found


def _empty(count: int, side: int, grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {
        "levels": torch.zeros(count, (side**2 + 1) // 2, dtype=torch.uint8),
        "soft": torch.zeros(count, THRESHOLDS, *grid, dtype=torch.float16),
        "odds": torch.zeros(count, THRESHOLDS, dtype=torch.float64),
        "clean": torch.zeros(count, dtype=torch.float64),
        "correct": torch.zeros(count, dtype=torch.bool),
        "carries": torch.zeros(count, dtype=torch.bool),
    }


# --- keeping


def _key(model: Explainee, pictures: Pictures, method: Method, seed: int) -> dict[str, Any]:
    """Return everything that decides a search; t* and controls are chosen from it afterwards."""
    items = json.dumps([list(pictures.subset.ids), pictures.labels.tolist()])
    return {
        "format": FORMAT,
        "weights_id": model.weights_id,
        "method": method.id,
        "manifest_id": pictures.subset.manifest_id,
        "items": hashlib.sha256(items.encode()).hexdigest(),
        "geometry": pictures.geometry.id,
        "colour": list(MASK_COLOUR),
        "thresholds": THRESHOLDS,
        "tie_rule": Protocol().tie_rule,
        "seed": seed,
    }


def _keep(found: Search, file: Path, key: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Write a search into the cache; one that cannot be written costs a warning, not the work."""
    tensors = {f.name: getattr(found, f.name) for f in fields(found)}
    try:
        with replaced_file(file) as temporary:
            write_sealed_tensors(temporary, tensors, {"key": json.dumps(key, sort_keys=True)})
    except BenchError as error:
        reason = str(error).rpartition("(")[2].partition(")")[0] or "it cannot be written"
        warn(f"The TFT masks are not kept for the next time in {file.parent}: {reason}.")


def _load(
    file: Path, key: dict[str, Any], like: dict[str, torch.Tensor], warn: Callable[[str], None]
) -> Search | None:
    """Return the search that a file keeps; None where there is none, or, with a warning, where it
    is broken.

    like: tensors of the names, shapes and types that it must have.
    """
    from safetensors import SafetensorError

    try:
        if not file.is_file():
            return None
        tensors, metadata = read_sealed_tensors(file)
    except DamagedFileError:
        warn(f"The kept TFT masks {file} are damaged (another checksum); they are made anew.")
        return None
    except (BenchError, SafetensorError, OSError, ValueError, RuntimeError) as error:
        warn(f"The kept TFT masks {file} cannot be read ({error}); they are made anew.")
        return None
    kinds, wanted = (
        {name: (t.shape, t.dtype) for name, t in each.items()} for each in (tensors, like)
    )
    if metadata.get("key") != json.dumps(key, sort_keys=True) or kinds != wanted:
        warn(f"The kept TFT masks {file} are not what their name says; they are made anew.")
        return None
    return Search(**tensors)
