"""The classes that are explained: whole numbers, one per image, that the network has."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.errors import BenchError


def check_targets(
    targets: torch.Tensor | Sequence[int], images: int, classes: int, name: str
) -> torch.Tensor:
    """Return targets as int64 [B] on the CPU.

    Args:
        targets: a class for each image.
        images: how many images there are.
        classes: how many classes the network has.
        name: of the network, for errors.

    Raises:
        BenchError: they are no whole numbers, no class of the network, or not one for each image.
    """
    given = torch.as_tensor(targets).cpu()
    if given.dtype == torch.bool or not torch.equal(given.long().to(given.dtype), given):
        raise BenchError(
            f"targets are {given.flatten()[:4].tolist()} ...; give the number of one class per "
            "image, as whole numbers."
        )
    given = given.long()
    if given.shape != (images,):
        raise BenchError(
            f"targets has shape {tuple(given.shape)} for {images} images; give one each."
        )
    if images and not (int(given.min()) >= 0 and int(given.max()) < classes):
        wrong = int(given.max()) if given.max() >= classes else int(given.min())
        raise BenchError(
            f"Target class {wrong} is out of range: {name} has classes 0..{classes - 1}."
        )
    return given
