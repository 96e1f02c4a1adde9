"""Which tensors of a file are a network's weights: found by what fits the network's own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import BenchError, state_assumption
from bench.models.weights_files import read_checkpoint
from bench.models.weights_misfit import Misfit, describe_misfit, give_option

Tensors = dict[str, torch.Tensor]

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, DataParallel, FSDP and checkpointing put in."""

_EMA = re.compile(r"(^|[._])ema([._]|$)", re.IGNORECASE)
_COUNTERS = ("total_ops", "total_params")  # written into every module by thop
_TRACKED = "num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEPTH = 3  # of containers within containers


@dataclass
class Candidate:
    """A set of tensors that may be the network's weights.

    place: where in the file it stands, and the prefix of its names.  tensors: by the network's own
    names.  missing, unknown, shapes: what keeps it from fitting.  left_out: tensors that are
    counters and no weights.
    """

    place: str
    tensors: Tensors
    missing: list[str]
    shapes: list[str]
    unknown: Tensors = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Return whether every tensor of the network is there, in its shape."""
        return not self.missing and not self.shapes

    @property
    def fits(self) -> bool:
        """Return whether it is exactly the network's."""
        return self.complete and not self.unknown

    @property
    def averaged(self) -> bool:
        """Return whether the file calls it an exponential moving average."""
        return _EMA.search(self.place) is not None


def load_weights(
    net: nn.Module,
    path: Path,
    name: str,
    sha256: str | None = None,
    remedy: Callable[[str, Any], str] = give_option,
) -> list[str]:
    """Load a file of weights into a network, exactly: every tensor of both has its counterpart.

    Args:
        net: the network.
        path: a file of safetensors or torch.save; what it is, its content says.
        name: what the model is called.
        sha256: what the file's digest must be.
        remedy: how the network is given an argument, for errors: (argument, value) -> words.

    Returns:
        What was assumed, one sentence each; each is also a warning.

    Raises:
        BenchError: the file cannot be read, or its tensors are not those of the network.
    """
    content = read_checkpoint(path, name, sha256)
    chosen, assumed = _choose(net, content, path, name, remedy)
    tensors = {
        key: _convert(key, tensor, own, path)
        for key, own in net.state_dict().items()
        if (tensor := chosen.tensors.get(key)) is not None
    }
    cast = {str(t.dtype).removeprefix("torch.") for k, t in chosen.tensors.items() if _cast(t)}
    if cast:
        assumed.append(f"The {', '.join(sorted(cast))} tensors of {path} are cast to float32.")
    if chosen.left_out:
        assumed.append(
            f"{len(chosen.left_out)} counters of {path} are no weights and are left out (such as "
            f"{chosen.left_out[0]})."
        )
    net.load_state_dict(tensors, strict=False)
    for sentence in assumed:
        state_assumption(sentence)
    return assumed


def _choose(
    net: nn.Module,
    content: Any,
    path: Path,
    name: str,
    remedy: Callable[[str, Any], str],
) -> tuple[Candidate, list[str]]:
    """Return the tensors that fit the network; of raw ones and their average, the average."""
    states = dict(find_states(content))
    if not any(states.values()):
        raise BenchError(
            f"The weights file {path} holds no state dict ({_describe(content)}); save "
            "model.state_dict()."
        )
    found = [one for place, state in states.items() for one in match_state(net, state, place)]
    fitting = [one for one in found if one.fits]
    if not fitting:
        best = max(found, key=lambda one: (len(one.used) - len(one.shapes), one.averaged))
        misfit = Misfit(best.tensors, best.missing, best.unknown, best.shapes)
        raise BenchError(describe_misfit(net, misfit, path, name, remedy))
    average = [one for one in fitting if one.averaged]
    chosen = (average or fitting)[0]
    others = [one for one in (average or fitting)[1:] if not _equal(one, chosen)]
    if others:
        places = ", ".join(f"{one.place or 'top level'!r}" for one in (chosen, *others))
        raise BenchError(
            f"The weights file {path} holds several sets of weights that fit {name} ({places}); "
            "save the one you mean alone."
        )
    assumed = list(_describe_choice(chosen, found, path))
    if not chosen.averaged and (unnamed := next(_find_lists(content), "")):
        assumed.append(
            f"The EMA of {path} ({unnamed!r}) is a list without names and is not read; the weights "
            f"of {chosen.place or 'top level'!r} are taken."
        )
    return chosen, assumed


def _describe_choice(chosen: Candidate, found: list[Candidate], path: Path) -> Iterator[str]:
    """Yield what a reader should know of the choice between raw weights and their average."""
    # What shares few names with the network is an optimiser's state, not another set of weights.
    rest = [
        one
        for one in found
        if one.averaged != chosen.averaged and 2 * len(one.used) > len(chosen.used)
    ]
    place = chosen.place or "top level"
    if chosen.averaged:
        raw = f", not those of {rest[0].place or 'its top level'!r}" if rest else ""
        yield f"The EMA weights of {path} ({place!r}) are taken, as timm does{raw}."
    elif rest:
        yield (
            f"The EMA weights of {path} ({rest[0].place!r}) do not fit the network; those of "
            f"{place!r} are taken."
        )
    elif any(key.endswith("n_averaged") for key in chosen.left_out):
        yield f"The weights of {path} are an average over training steps (AveragedModel)."


def _equal(one: Candidate, other: Candidate) -> bool:
    keys = one.tensors.keys() | other.tensors.keys()
    return all(
        key in one.tensors
        and key in other.tensors
        and torch.equal(one.tensors[key], other.tensors[key])
        for key in keys
    )


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        keys = ", ".join(map(str, list(content)[:5]))
        return f"its keys are {keys}" if keys else "it is an empty dict"
    return f"it is a {type(content).__name__}"


# --- sets of tensors in a file


def find_states(
    content: Any, place: str = "", depth: int = _DEPTH
) -> Iterator[tuple[str, Tensors]]:
    """Yield (place, tensors by name) for every dict of tensors in a file's content.

    place: the keys that lead to it, joined by dots; "" at the top. Numbers and texts beside the
    tensors are no weights and are passed over.
    """
    if not isinstance(content, Mapping) or depth == 0:
        return
    tensors = {
        key: value.detach()
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from find_states(value, f"{place}.{key}".lstrip("."), depth - 1)


def _find_lists(content: Any, place: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Yield the places of moving averages that are lists of tensors, without names."""
    if isinstance(content, (list, tuple)):
        if _EMA.search(place) and any(isinstance(one, torch.Tensor) for one in content):
            yield place
    elif isinstance(content, Mapping) and depth:
        for key, value in content.items():
            yield from _find_lists(value, f"{place}.{key}".lstrip("."), depth - 1)


def match_state(net: nn.Module, state: Tensors, place: str) -> list[Candidate]:
    """Return the ways in which a dict of tensors may be the network's weights.

    One prefix of all names may come off, and the names of wrappers wherever they stand. A tensor
    that is nobody's counterpart keeps every candidate from fitting.
    """
    found = _match_names(net, state, place)
    bare = _unwrap(net, state)
    if bare is not None and not any(one.fits for one in found):
        found += _match_names(net, bare, place)
    return found


def _match_names(net: nn.Module, state: Tensors, place: str) -> list[Candidate]:
    own = net.state_dict()
    prefixes = _find_prefixes(own, state)
    found = [_match_prefix(own, state, place, prefix) for prefix in prefixes]
    used = set[str]().union(*(one.used for one in found if one.complete))
    buffers = {k: b for k, b in net.named_buffers() if k not in own}
    for one in found:
        rest = [key for key in state if key not in used | one.used]
        one.left_out = [key for key in rest if _is_counter(key, state[key])]
        one.unknown = {
            key: state[key]
            for key in rest
            if key not in one.left_out and not _is_constant(key, state[key], buffers)
        }
    return found


def _find_prefixes(own: Tensors, state: Tensors) -> list[str]:
    """Return what may stand before the network's own names in a file, none ("") first."""
    names = list(own)
    anchors = [*names[:3], *names[-3:]]
    found = {
        key.removesuffix(anchor)
        for anchor in anchors
        for key in state
        if key == anchor or key.endswith(f".{anchor}")
    }
    return ["", *sorted(found - {""}, key=lambda prefix: (len(prefix), prefix))]


def _match_prefix(own: Tensors, state: Tensors, place: str, prefix: str) -> Candidate:
    tensors = {key: state[prefix + key] for key in own if prefix + key in state}
    stored = {own[key].data_ptr() for key in tensors if own[key].numel()}
    missing = [
        key
        for key, tensor in own.items()
        if key not in tensors
        and not key.endswith(_TRACKED)
        # safetensors writes a tensor that two names share once
        and not (tensor.numel() and tensor.data_ptr() in stored)
    ]
    return Candidate(
        place=f"{place}.{prefix}".strip("."),
        tensors=tensors,
        missing=missing,
        shapes=[key for key, tensor in tensors.items() if tensor.shape != own[key].shape],
        used={prefix + key for key in tensors},
    )


def _unwrap(net: nn.Module, state: Tensors) -> Tensors | None:
    """Return a state without the names of wrappers; None where nothing changes, or two meet."""
    own = {part for key in net.state_dict() for part in key.split(".")}
    wrappers = set(WRAPPERS) - own
    bare = {
        ".".join(part for part in key.split(".") if part not in wrappers): tensor
        for key, tensor in state.items()
    }
    return bare if len(bare) == len(state) and bare.keys() != state.keys() else None


def _is_counter(key: str, tensor: torch.Tensor) -> bool:
    """Return whether a tensor counts something and is no weight."""
    last = key.rpartition(".")[2]
    return tensor.numel() == 1 and last in (*_COUNTERS, _TRACKED, "n_averaged")


def _is_constant(key: str, tensor: torch.Tensor, buffers: Mapping[str, torch.Tensor]) -> bool:
    """Return whether a tensor is one that the network computes itself, with the same values."""
    parts = key.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    own = next((buffers[end] for end in ends if end in buffers), None)
    return own is not None and own.shape == tensor.shape and torch.equal(own.to(tensor), tensor)


# --- values


def _cast(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype != torch.float32


def _convert(key: str, tensor: torch.Tensor, own: torch.Tensor, path: Path) -> torch.Tensor:
    """Return a tensor in the network's own type; what holds no weights is refused."""
    where = f"The tensor {key} of {path}"
    if tensor.is_meta:
        raise BenchError(f"{where} has no values (device meta); save the real weights.")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise BenchError(f"{where} is sparse or quantised; save it as a dense float32 tensor.")
    if key.endswith(_TRACKED):
        if tensor.is_complex() or not tensor.isfinite().all():
            raise BenchError(f"{where} counts batches and is no whole number; save it again.")
        return tensor
    floating = tensor.is_floating_point()
    if own.is_floating_point() != floating or (floating and tensor.dtype not in _FLOATS):
        kinds = [str(one.dtype).removeprefix("torch.") for one in (tensor, own)]
        raise BenchError(
            f"{where} is {kinds[0]} and the network's {kinds[1]}; give the weights as they were "
            "before quantisation."
        )
    cast = tensor.to(own.dtype)  # in which a large float64 is infinite
    if floating and not cast.isfinite().all():
        # An infinite value that the network has itself, such as a mask's, is right.
        broken = ~cast.isfinite() & ~(cast.isinf() & (own == cast.to(own)))
        if broken.any():
            raise BenchError(
                f"{where} has {int(broken.sum()):,} of {tensor.numel():,} values that are NaN or "
                "infinite; take a checkpoint from before the training diverged."
            )
    return cast
