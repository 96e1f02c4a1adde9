"""Subsets that belong to one network: their truth holds for its weights and no others."""

from __future__ import annotations

from collections.abc import Sequence

from bench.data import Subset
from bench.errors import BenchError
from bench.models.explainee import Explainee


def check_owner(models: Sequence[Explainee], subset: Subset) -> tuple[str, ...]:
    """Return a sentence about the network that a subset belongs to; () where there is none.

    Raises:
        BenchError: a model of the run has other weights.
    """
    manifest = subset.manifest
    if not manifest.network:
        return ()
    for model in models:
        if not model.fingerprint.startswith(manifest.weights):
            raise BenchError(
                f"The subset {subset.name} belongs to the network {manifest.network} (weights "
                f"{manifest.weights}), and {model.name} has other weights: its truth would be "
                f"wrong; run it with --models {manifest.network}."
            )
    kept = len(subset.source.ids)
    return (
        f"The items of {subset.name} are chosen by the network {manifest.network} (weights "
        f"{manifest.weights}): it keeps {kept} of {kept + len(manifest.left_out)} scenes, "
        "those for calibration included.",
    )
