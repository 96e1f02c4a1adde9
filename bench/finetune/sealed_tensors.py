"""Files of tensors that are kept between runs: safetensors, with a digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.seals import DamagedFileError, describe_damage

DIGEST = "cambench-sha256"
"""The only key of the file's metadata, since safetensors writes several in no fixed order: JSON of
the texts, and of the digest under the same key.
"""


def write_sealed_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors, by name, with texts about them and the digest of both."""
    from safetensors.torch import save_file

    told = {**metadata, DIGEST: digest_tensors(tensors, metadata)}
    save_file(dict(tensors), path, {DIGEST: json.dumps(told, sort_keys=True)})


def read_sealed_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file and its texts; a file without a digest reads as it is.

    Raises:
        DamagedFileError: they are not those that were written.
        SafetensorError, OSError: the file cannot be read.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as kept:
        metadata: dict[str, str] = dict(kept.metadata() or {})
        # A safetensors file is no mapping.
        tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    damaged = _has_damaged_key(metadata)
    if DIGEST in metadata:
        try:
            metadata = dict(json.loads(metadata[DIGEST]))
            damaged = metadata.pop(DIGEST) != digest_tensors(tensors, metadata)
        except (ValueError, TypeError, KeyError):
            damaged = True
    if damaged:
        raise DamagedFileError(path, describe_damage(str(path), "delete it"))
    return tensors, metadata


def _has_damaged_key(metadata: Mapping[str, str]) -> bool:
    """Tell whether a key is the digest's but for one sign: the file had a digest."""
    return any(
        len(key) == len(DIGEST) and sum(a != b for a, b in zip(key, DIGEST, strict=True)) == 1
        for key in metadata
    )


def digest_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the sha256 of tensors with their names, types and shapes, and of texts about them."""
    found = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
