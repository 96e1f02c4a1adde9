"""Classifiers of Hugging Face's `transformers` as networks: images [B,3,H,W] -> logits [B,C].

The library is not imported here: a network is one of its own only where somebody has imported it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import nn

from bench.errors import BenchError
from bench.models.named_wrapper import NamedWrapper, unwrap

INDEPENDENT = {
    "multi_label_classification": "its labels are independent of each other",
    "regression": "its outputs are numbers and no classes",
}
"""Problems of a configuration that a softmax over the logits does not describe."""


class LogitsReader(NamedWrapper):
    """A network whose logits are read out of what it returns.

    inner: a `transformers` classifier, or a network that has one inside.  bgr: whether the network
    reads its channels in that order (MobileViT).
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.bgr = False
        self._is_own = is_transformers(inner)
        taken = inspect.signature(inner.forward).parameters if self._is_own else {}
        self._keyword = "pixel_values" if "pixel_values" in taken else ""
        self._resizes = "interpolate_pos_encoding" in taken
        self._named = "return_dict" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())

    def __repr__(self) -> str:
        return repr(self.inner) + ("\nchannels: BGR" if self.bgr else "")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of images [B,3,H,W].

        At another size than the configuration's, position embeddings are interpolated where the
        network offers it (`interpolate_pos_encoding`).
        """
        options: dict[str, Any] = {}
        if self._resizes and tuple(x.shape[-2:]) != read_image_size(self.inner):
            options["interpolate_pos_encoding"] = True
        if self._named:
            options["return_dict"] = True
        x = x.flip(1) if self.bgr else x
        images, named = ((), {self._keyword: x}) if self._keyword else ((x,), {})
        try:
            with _return_fields(self.inner):
                output = self.inner(*images, **named, **options)
        except ValueError as error:  # transformers' own check of sizes and channels
            reason = next(iter(str(error).splitlines()), "").rstrip(".")
            raise BenchError(
                f"{type(self.inner).__name__} does not take images of shape {tuple(x.shape)} "
                f"({reason}); give another size."
            ) from error
        return self.change_output(output)

    def change_output(self, output: Any) -> torch.Tensor:
        if isinstance(output, torch.Tensor):
            return output
        logits = output.get("logits") if isinstance(output, Mapping) else None
        logits = getattr(output, "logits", None) if logits is None else logits
        if logits is None and self._is_own and isinstance(output, Sequence):
            logits = self._read_tuple(output)
        if isinstance(logits, torch.Tensor):
            return logits
        raise BenchError(
            f"{type(self.inner).__name__} returns {type(output).__name__} without logits; load "
            "a classifier (AutoModelForImageClassification), or wrap the network in a module that "
            "returns logits [B,C]."
        )

    def _read_tuple(self, output: Sequence[Any]) -> torch.Tensor | None:
        """Return the first member that is as wide as the labels: transformers' order puts the
        logits before everything but the loss, which has no width.
        """
        labels = getattr(self.inner.config, "num_labels", None)
        wide = [v for v in output if isinstance(v, torch.Tensor) and v.ndim == 2]
        return next((v for v in wide if v.shape[1] == labels), None)


@contextmanager
def _return_fields(net: nn.Module) -> Iterator[None]:
    """Have networks return fields instead of tuples, whatever `config.return_dict` says: inside a
    network transformers reads fields itself.
    """
    configs = {id(part.config): part.config for part in net.modules() if is_transformers(part)}
    changed = [one for one in configs.values() if getattr(one, "return_dict", True) is False]
    for config in changed:
        config.return_dict = True
    try:
        yield
    finally:
        for config in changed:
            config.return_dict = False


def is_transformers(net: object) -> TypeGuard[Any]:
    """Return whether a network is one of `transformers` (or of a class derived from one)."""
    library = sys.modules.get("transformers")
    base = getattr(library, "PreTrainedModel", None)
    return base is not None and isinstance(net, base)


def read_logits_of(net: nn.Module) -> nn.Module:
    """Return the network itself, or a reader around it where `transformers` made it or a part.

    Raises BenchError for a network of `transformers` that is no image classifier.
    """
    if isinstance(net, LogitsReader) or not any(is_transformers(part) for part in net.modules()):
        return net
    if is_transformers(net):
        _check_classifier(net)
    return LogitsReader(net)


def _check_classifier(net: Any) -> None:
    name, config = type(net).__name__, net.config
    problem = getattr(config, "problem_type", None)
    if problem in INDEPENDENT:
        raise BenchError(
            f"The configuration of {name} says problem_type={problem!r}: {INDEPENDENT[problem]}, "
            "but cambench scores classes that exclude each other; if they do, set "
            'config.problem_type = "single_label_classification".'
        )
    if getattr(net, "main_input_name", "pixel_values") != "pixel_values":
        taken = inspect.signature(net.forward).parameters
        if "input_ids" in taken:
            raise BenchError(
                f"{name} takes tokens ({net.main_input_name}); cambench explains image classifiers "
                "(AutoModelForImageClassification) whose input is pixel_values."
            )
    if "pixel_attention_mask" in inspect.signature(net.forward).parameters:
        raise BenchError(
            f"{name} takes patches of any number and a mask beside them, not images [B,3,H,W]; "
            "wrap it in a module that makes both from images and returns the logits."
        )


# --- what the configuration states


def read_config(net: nn.Module) -> Any:
    """Return the configuration of a network of `transformers`, None for any other."""
    original = unwrap(net)
    return original.config if is_transformers(original) else None


def read_image_size(net: nn.Module) -> tuple[int, int] | None:
    """Return the size (H, W) that the configuration states, None where it states none."""
    config = read_config(net)
    for one in (config, getattr(config, "vision_config", None)):
        size = getattr(one, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def read_name(net: nn.Module) -> str:
    """Return the last part of the path or id that the network was loaded from, else its model type;
    of a network without a configuration its class in lower case.
    """
    config = read_config(net)
    if config is None:
        return type(unwrap(net)).__name__.lower()
    loaded = str(getattr(config, "name_or_path", "") or "")
    return Path(loaded).name or str(getattr(config, "model_type", "") or "")


def read_class_names(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the configuration's classes in the order of the logits; () where it has
    none but transformers' own LABEL_0, LABEL_1, ....

    The configuration is the network's, or that of a network that it holds.
    """
    inner = unwrap(net)
    configs = (getattr(module, "config", None) for module in (inner, *inner.children()))
    found = (getattr(config, "id2label", None) for config in configs)
    labels = next((one for one in found if isinstance(one, Mapping) and one), {})
    names = {int(number): str(label) for number, label in labels.items()}
    known = sorted(names) == list(range(len(names)))
    own = all(label == f"LABEL_{number}" for number, label in names.items())
    return () if own or not known else tuple(names[number] for number in range(len(names)))
