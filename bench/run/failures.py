"""Failures: a method or metric that raises costs its own rows, and the run goes on.

What is refused on purpose stops a run as before: Ctrl-C, a refusal by cambench's own code, and
memory that is too short for a whole task, which is then computed in halves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.engine.case import Case
from bench.engine.memory import is_out_of_memory
from bench.engine.probes import Pending
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable, take_first_line
from bench.methods import Method
from bench.metrics import Metric
from bench.protocol import Protocol
from bench.run.in_memory import apply
from bench.run.sealed_calls import explain_sealed, is_foreign


def must_stop(error: BaseException, *, foreign: bool) -> bool:
    """Return whether an exception is more than the failure of one method or metric.

    Args:
        error: what was raised.
        foreign: whether a function of a plug-in raised it.
    """
    if isinstance(error, (KeyboardInterrupt, NotApplicable, Pending)):
        return True
    if foreign:
        return False
    return not isinstance(error, Exception) or (
        isinstance(error, BenchError) or is_out_of_memory(error)
    )


def describe_failure(error: BaseException, item: str) -> str:
    """Return why a function failed, and on which item, as the end of a sentence.

    >>> describe_failure(ValueError("no edges"), "a.jpg")
    'it failed on a.jpg (ValueError: no edges)'
    >>> describe_failure(MemoryError(), "")
    'it failed (MemoryError)'
    """
    if isinstance(error, BenchError):
        return take_first_line(error)
    text = take_first_line(error)
    where = f" on {item}" if item else ""
    return f"it failed{where} ({type(error).__name__}{f': {text}' if text else ''})"


def _find_exit(error: BaseException) -> BaseException:
    """Return the exit that was refused: a failure on an image, and no refusal of a plug-in's."""
    cause = error.__cause__
    return cause if isinstance(cause, SystemExit | GeneratorExit) else error


def find_failing_item(run: Callable[[torch.Tensor], object], ids: tuple[str, ...]) -> str:
    """Return the first item that a function fails on when it is alone, else those of the batch.

    Args:
        run: the function, of rows [1] of the batch.
        ids: the items of the batch.
    """
    for row, item in enumerate(ids):
        try:
            run(torch.tensor([row]))
        except KeyboardInterrupt:
            raise
        except (NotApplicable, Pending):
            continue
        except BaseException:
            return f"the image {item}"
    return f"the images {ids[0]} to {ids[-1]} together" if len(ids) > 1 else f"the image {ids[0]}"


def describe_method_failure(error: BaseException, method: Method, trace: Trace) -> str:
    """Return why a method failed on a batch, and on which image."""
    error = _find_exit(error)
    if isinstance(error, BenchError):
        return describe_failure(error, "")
    ids = trace.ids
    item = find_failing_item(lambda rows: explain_sealed(method, trace.select(rows)), ids)
    return describe_failure(error, item)


def describe_metric_failure(
    error: BaseException, metric: Metric, method: Method, case: Case, rules: Protocol
) -> str:
    """Return why a metric failed on the maps of a method, and on which image."""

    def score(rows: torch.Tensor) -> object:
        trace = case.trace.select(rows)
        maps = case.maps[rows].clone()
        alone = Case(trace, maps, case.protocol, spent=case.spent, seed=case.seed, rerun=case.rerun)
        return apply(metric, alone, rules)

    place = f"maps of {method.name}"
    error = _find_exit(error)
    if isinstance(error, BenchError):
        return f"{describe_failure(error, '')} ({place})"
    item = find_failing_item(score, case.trace.ids)
    return describe_failure(error, f"{place}, {item}")


def is_foreign_pair(metric: Metric, method: Method) -> bool:
    """Return whether a metric of a plug-in scores, or one that runs a plug-in's method again."""
    return not metric.builtin or ("method" in metric.needs and is_foreign(method))
