"""Copies of a network whose parameters are drawn anew, from the classifier downwards (Adebayo et
al., NeurIPS 2018).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import nn

from bench.errors import NotApplicable
from bench.models.explainee import Explainee


def stages(net: nn.Module, count: int) -> list[list[str]]:
    """Return the names of the modules with parameters of their own, top-down, in `count` stages.

    The first stage is the last such module, the classifier; the others share the rest equally. The
    order is that in which the network registers its modules, which is nearly always that in which
    it runs them.
    """
    names = [
        n
        for n, module in net.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ][::-1]
    if not names:
        raise NotApplicable("This network has no parameters that could be randomised.")
    rest = names[1:]
    edges = [k * len(rest) // max(count - 1, 1) for k in range(count)]
    return [names[:1], *(rest[a:b] for a, b in itertools.pairwise(edges))]


def randomise(model: Explainee, count: int, seeds: Sequence[int]) -> list[Explainee]:
    """Return the model with its first stage drawn anew, its first two, ..., all `count`; one seed
    per stage.

    The model itself is not touched; parameters that are not drawn anew are shared with it, and
    between the copies.
    """
    made, net = [], model.net
    for names, seed in zip(stages(model.net, count), seeds, strict=True):
        net = _copy_net(net, set(names), model.name)
        _reset([net.get_submodule(name) for name in names], seed)
        made.append(model.replace_net(net))
    return made


def _copy_net(net: nn.Module, changed: set[str], name: str) -> nn.Module:
    """Return a copy that shares every parameter and buffer except those of the modules named in
    `changed`.
    """
    own: set[int] = set()
    for key in changed:
        module = net.get_submodule(key)
        own |= {id(t) for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))}
    tensors = (*net.parameters(), *net.buffers())
    shared = {id(t): t for t in tensors if id(t) not in own}
    try:
        return copy.deepcopy(net, shared)
    except (TypeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NotApplicable(
            f"The network {name} cannot be copied to be randomised ({reason})."
        ) from error


@torch.no_grad()
def _reset(modules: Sequence[nn.Module], seed: int) -> None:
    """Draw the modules' own parameters anew: `reset_parameters` where there is one; else, parameter
    by parameter, normal numbers with the mean and standard deviation that the parameter has.

    Drawn on the CPU, so that a seed means the same on every device; `reset_parameters` draws from
    torch's global state, which is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules:
            device = next(module.parameters(recurse=False)).device
            for p in module.parameters(recurse=False):
                p.data = p.data.cpu().clone()
            # Of a module with children it could draw theirs as well, which are another stage's, and
            # shared.
            if callable(getattr(module, "reset_parameters", None)) and not any(
                True for _ in module.children()
            ):
                module.reset_parameters()  # type: ignore[operator]
            else:
                for p in module.parameters(recurse=False):
                    p.copy_(torch.randn(p.shape) * p.std(correction=0) + p.mean())
            for p in module.parameters(recurse=False):
                p.data = p.data.to(device)
