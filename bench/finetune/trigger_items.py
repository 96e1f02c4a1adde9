"""Which scenes the trigger network keeps: the filter behind the subset `scenes-trigger`."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from bench.data.manifest import Manifest
from bench.data.scene_pixels import SIDE
from bench.data.scenes import HEAD, scenes_digest
from bench.data.trigger_pattern import TARGET
from bench.data.trigger_scenes import draw_trial, find_failures, list_candidates, open_trigger
from bench.files import replaced_file
from bench.finetune.classifier import network_input
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.types import UInt8Image

DIGITS = 12
"""Hex digits of a network's fingerprint that its manifest and ids carry."""
TRIALS = 40
"""Candidates whose pictures go through the network at once."""


@dataclasses.dataclass(frozen=True)
class Filtered:
    """What a network makes of the candidates.

    left_out: the scenes that failed a condition.  failures: how many failed each condition; a
    scene may fail several.  candidates: how many scenes there were.
    """

    left_out: tuple[int, ...]
    failures: Counter[str]
    candidates: int


def filter_scenes(model: Explainee, seed: int, size: int) -> Filtered:
    """Try every candidate of the first `size` scenes on a network.

    Args:
        model: The network.
        seed: Seed of the scenes.
        size: Number of scenes, those of class T included.

    Returns:
        What the network leaves out, and why.
    """
    candidates = list_candidates(size)
    left_out, failures = list[int](), Counter[str]()
    for index, (marked, plain, moved) in _try_all(model, seed, size, candidates):
        failed = find_failures(marked, plain, moved)
        failures.update(failed)
        left_out += [index] if failed else []
    return Filtered(tuple(left_out), failures, len(candidates))


def _try_all(
    model: Explainee, seed: int, size: int, candidates: Sequence[int]
) -> Iterator[tuple[int, list[float]]]:
    """Yield each candidate with the probabilities of T for its three pictures."""
    for start in range(0, len(candidates), TRIALS):
        part = candidates[start : start + TRIALS]
        pictures = [picture for i in part for picture in draw_trial(seed, size, i)]
        yield from zip(part, measure_target(model, pictures).view(-1, 3).tolist(), strict=True)


@torch.no_grad()
def measure_target(model: Explainee, pictures: Sequence[UInt8Image]) -> torch.Tensor:
    """Return the probability of class T for pictures [96,96,3], float32 [n]."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    with guard_network(model.net):
        logits: torch.Tensor = model.net(network_input(model, pixels))
    return logits.float().softmax(1)[:, TARGET].cpu()


def choose_items(manifest: Manifest, model: Explainee) -> Manifest:
    """Return the manifest of a network's own items: its weights, scenes left out and digests."""
    found = filter_scenes(model, manifest.seed, manifest.size)
    chosen = dataclasses.replace(
        manifest,
        network=model.name,
        weights=model.fingerprint[:DIGITS],
        left_out=found.left_out,
        sha256="",
        sha256_head="",
    )
    subset = open_trigger(chosen)
    return dataclasses.replace(
        chosen,
        sha256=scenes_digest(subset),
        sha256_head=scenes_digest(subset.limit(HEAD)),
    )


def write_trigger_manifest(file: Path, manifest: Manifest) -> None:
    """Write a manifest of scenes with the trigger."""
    numbers = textwrap.fill(", ".join(map(str, manifest.left_out)), 96)
    text = (
        f'name = "{manifest.name}"\n'
        'kind = "scenes"\n'
        f'title = "{manifest.title}"\n'
        f'licence = "{manifest.licence}"\n'
        "pictures = true\n"
        f"seed = {manifest.seed}\n"
        f"size = {manifest.size}\n"
        f'explain = "{manifest.explain}"\n'
        f'calibration = "{manifest.calibration}"\n'
        f'network = "{manifest.network}"\n'
        f'weights = "{manifest.weights}"\n'
        f'sha256 = "{manifest.sha256}"\n'
        f'sha256_head = "{manifest.sha256_head}"\n'
        f"left_out = [\n{textwrap.indent(numbers, '  ')}\n]\n\n"
        f'[geometry]\nsize = {SIDE}\nresize = "none"\n'
    )
    with replaced_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
