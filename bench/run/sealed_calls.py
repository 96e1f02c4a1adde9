"""Sealed calls: functions of plug-ins run so that nothing that others use stays changed.

Before a call the network, the shared state of the batch and the settings of torch are held. After
it they are compared and put back. A plug-in that changed what others compute with is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from bench.engine.case import Case
from bench.engine.counts import Spent
from bench.engine.folding import forget_folds
from bench.engine.memory import is_out_of_memory
from bench.engine.prober import Prober
from bench.engine.shared_state import SharedState
from bench.engine.torch_state import TorchState
from bench.engine.trace import Trace
from bench.errors import BenchError, state_assumption
from bench.function_source import is_built_in
from bench.methods import Method
from bench.metrics import Metric
from bench.models.network_seal import NetworkSeal
from bench.run.external_maps import ExternalMethod

T = TypeVar("T")

_SEALS: WeakKeyDictionary[Prober, NetworkSeal] = WeakKeyDictionary()
"""The seal of each prober's network."""


def is_foreign(method: Method) -> bool:
    """Return whether a method, or one that it wraps, is a function of a plug-in."""
    if isinstance(method, ExternalMethod):
        return False
    inner = method.inner is not None and is_foreign(method.inner)
    return inner or not is_built_in(method.function)


def seal_network(prober: Prober, *, keeps: bool) -> NetworkSeal:
    """Return the seal of a prober's network, made once; with a copy where one is wanted."""
    seal = _SEALS.get(prober)
    if seal is None or seal.net is not prober.model.net or (keeps and not seal.keeps):
        seal = _SEALS[prober] = NetworkSeal(prober.model.net, keeps=keeps)
    return seal


@contextmanager
def sealing(prober: Prober, *, keeps: bool) -> Iterator[None]:
    """Run a task, and refuse what it computed where the network is then not what it was.

    Args:
        prober: of the network.
        keeps: keep a copy of the weights, since functions of plug-ins will run.

    Raises:
        BenchError: something has changed that no call can be blamed for.
    """
    seal = seal_network(prober, keeps=keeps)
    yield
    changed = seal.find_changes()
    if not changed:
        return
    if seal.keeps:
        _restore_network(prober, seal)
    raise BenchError(
        f"Something changed {' and '.join(changed)} while {prober.model.name} was explained, and "
        "no method or metric can be named; the results of this task are dropped. Finished tasks "
        "are kept; start the same command again."
    )


def explain_sealed(method: Method, trace: Trace) -> tuple[torch.Tensor, Spent]:
    """Return a method's maps and their cost; one of a plug-in runs sealed.

    Where memory is too short for a plug-in it runs on halves of the batch: other methods keep
    their batches.

    Raises:
        BenchError: a plug-in has changed what others compute with.
    """
    if not is_foreign(method):
        return method.explain_counted(trace)
    try:
        return call_sealed(
            f"Method {method.name}",
            trace.prober,
            (trace,),
            lambda: method.explain_counted(trace),
        )
    except (RuntimeError, MemoryError) as error:
        if len(trace) == 1 or not is_out_of_memory(error):
            raise
    parts = torch.split(torch.arange(len(trace)), (len(trace) + 1) // 2)
    made = [explain_sealed(method, trace.select(rows)) for rows in parts]
    first, second = (spent for _, spent in made)
    both = Spent(
        first.counts + second.counts,
        first.seconds + second.seconds,
        max(first.peak_memory, second.peak_memory),
    )
    return torch.cat([maps for maps, _ in made]), both


def score_sealed(metric: Metric, case: Case) -> dict[str, torch.Tensor]:
    """Return what a metric's function gives; one of a plug-in runs sealed."""
    if metric.builtin:
        return metric.function(case)
    return call_sealed(
        f"Metric {metric.name}", case.prober, (case,), lambda: _copy_values(metric.function(case))
    )


def _copy_values(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of tensors: a metric may give one that others share, or go on writing it."""
    return {name: torch.as_tensor(values).detach().clone() for name, values in scores.items()}


def call_sealed(
    who: str, prober: Prober, roots: tuple[Trace | Case, ...], function: Callable[[], T]
) -> T:
    """Call a function of a plug-in; what it changed is put back, whether it returns or raises.

    Raises:
        BenchError: it has changed the network, or what the methods of a batch share.
    """
    state = _StateBefore(prober, roots)
    try:
        result = function()
    except BaseException as error:
        changed, _ = state.put_back()
        named = isinstance(error, BenchError) and str(error).startswith(who)
        if changed and not named and not isinstance(error, KeyboardInterrupt):
            raise BenchError(_describe(who, changed)) from error
        raise
    changed, settings = state.put_back()
    if changed:
        raise BenchError(_describe(who, changed))
    if settings:
        state_assumption(f"{who} changed {', '.join(settings)}; cambench put that back.")
    return result


class _StateBefore:
    """Everything that a plug-in could change, as it was before its call."""

    def __init__(self, prober: Prober, roots: tuple[Trace | Case, ...]) -> None:
        known = _SEALS.get(prober)
        self.seal = seal_network(prober, keeps=True)
        if known is None:  # of a network that lives for one batch, such as a randomised copy
            del _SEALS[prober]
        self.prober, self.model = prober, prober.model
        self.fields = {name: vars(self.model)[name] for name in _FIELDS if name in vars(self.model)}
        self.settings, self.shared = TorchState(), SharedState(*roots, prober)
        self.shared.watch()

    def put_back(self) -> tuple[list[str], list[str]]:
        """Put everything back; return what others read and was changed, and torch's settings."""
        patched, settings = self.settings.find_patches(), self.settings.restore()
        own = vars(self.model)
        replaced = [name for name, value in self.fields.items() if own.get(name) is not value]
        own.update(self.fields)
        changed = [*self.seal.find_changes(), *patched, *self.shared.find_changes()]
        changed += [f"the model's {name.strip('_')}" for name in replaced]
        if changed:
            _restore_network(self.prober, self.seal)
            self.shared.restore()
        else:
            self.seal.restore_settings()
            self.shared.restore_flags()
            self.shared.forget_views()
        return changed, settings


_FIELDS = ("net", "mean", "std", "size", "geometry", "name", "_layer", "split", "grids", "card")
"""What of an explainee decides what methods see, once it is found."""


def _restore_network(prober: Prober, seal: NetworkSeal) -> None:
    """Put a network back, and forget what was derived from what it was meanwhile."""
    seal.restore()
    forget_folds(seal.net)
    prober.model._fingerprint = None


def _describe(who: str, changed: list[str]) -> str:
    shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
    return (
        f"{who} changed {shown}, which all methods share; it was put back. Work on a copy, and "
        "leave torch's functions as they are."
    )
