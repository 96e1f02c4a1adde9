"""What people give instead of an explainee, a subset or images: each gets the way to wrap it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.data import Subset
from bench.errors import BenchError
from bench.models.explainee import Explainee

BEYOND = 40.0
"""How many times the largest normalised pixel a value may be: noise may go beyond, 0..255 does not.
"""


def check_model(model: Any) -> Explainee:
    """Return an explainee; raise BenchError, with how to make one, for anything else."""
    if isinstance(model, Explainee):
        return model
    if isinstance(model, (str, Path)):
        raise BenchError(
            f"model is the name {str(model)!r}; give bench.load_model({str(model)!r})."
        )
    if isinstance(model, nn.Module):
        raise BenchError(
            f"model is a bare network ({type(model).__name__}); give bench.Explainee(network, "
            "mean=..., std=..., size=...), with the preprocessing it was trained with."
        )
    raise BenchError(
        f"model is {type(model).__name__}; give a bench.Explainee, which wraps a network and its "
        "preprocessing."
    )


def list_models(model: Any) -> list[str | Explainee]:
    """Return the names and explainees of a run as a list; anything else is a BenchError."""
    listed = list(model) if isinstance(model, (list, tuple)) else [model]
    return [str(one) if isinstance(one, (str, Path)) else check_model(one) for one in listed]


def check_subset(subset: Any) -> Any:
    """Return what `bench.load_subset` opens: a subset, its name or path, or a data set of
    `datasets`; raise BenchError, with how to make one, for anything else.
    """
    kind = type(subset)
    if isinstance(subset, (str, Path, Subset)) or kind.__module__.partition(".")[0] == "datasets":
        return subset
    if isinstance(subset, torch.utils.data.DataLoader):
        raise BenchError(
            "subset is a DataLoader, whose images are changed already; give the folder of its "
            "image files, or score batches in memory (bench.explain, bench.score)."
        )
    if isinstance(subset, torch.utils.data.Dataset):
        root = getattr(subset, "root", None)
        raise BenchError(
            f"subset is a torch Dataset ({kind.__name__}), which gives no files; give the folder "
            f"of its images{f' ({root})' if root else ''}, or score batches in memory "
            "(bench.explain, bench.score)."
        )
    what = f"{_describe(subset)}"
    raise BenchError(
        f"subset is {what}; give a subset's name, the path of a folder, manifest or parquet file, "
        "or score images in memory (bench.explain, bench.score)."
    )


def check_tensor(model: Explainee, images: Any) -> torch.Tensor:
    """Return images that are a tensor of normalised numbers; raise BenchError, with how to make
    one, for anything else.
    """
    if not isinstance(images, torch.Tensor):
        raise BenchError(f"images is {_describe(images)}; give {_advise(images)}.")
    if images.ndim == 3:
        raise BenchError(
            f"images has shape {tuple(images.shape)}, one image without a batch axis; give "
            "images[None]."
        )
    if not images.is_floating_point():
        raise BenchError(
            f"images holds {str(images.dtype).removeprefix('torch.')} numbers; give normalised "
            "ones: model.normalise(images / 255) for pixels of 0..255."
        )
    limit = BEYOND * max(
        abs((end - m) / s) for m, s in zip(model.mean, model.std, strict=True) for end in (0.0, 1.0)
    )
    if images.numel() and bool(torch.isfinite(images).all()):
        largest = float(images.abs().max())
        if largest > limit:
            raise BenchError(
                f"images holds values up to {largest:.4g}, far from what normalised pixels are; "
                "give model.normalise(images / 255) for pixels of 0..255."
            )
    return images


def _describe(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if isinstance(value, (list, tuple)) and value:
        return f"a {kind.__name__} of {_describe(value[0]).removeprefix('a ')}"
    if isinstance(value, (str, Path)):
        return f"the text {str(value)!r}"
    return f"a {name}" if value is not None else "None"


def _advise(images: Any) -> str:
    first: Any = images[0] if isinstance(images, (list, tuple)) and images else images
    if isinstance(first, (str, Path)):
        return "model.read(FILES), which opens, resizes and normalises image files"
    if isinstance(first, torch.Tensor):
        return "one tensor: torch.stack(LIST) of normalised images [3,H,W]"
    if type(first).__module__.startswith("PIL."):
        return "model.read(FILE) of the image's file, which resizes and normalises it"
    if type(first).__module__ == "numpy":
        return "a tensor [B,3,H,W]: model.normalise(torch.from_numpy(ARRAY)...) of pixels in 0..1"
    if hasattr(images, "keys") and "pixel_values" in images:
        return 'its tensor: images["pixel_values"]'
    return "a tensor [B,3,H,W] of normalised images, such as model.read(FILES)"
