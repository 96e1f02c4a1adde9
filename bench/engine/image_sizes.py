"""Images of another size than their network declares: a failure is told in the user's words."""

from __future__ import annotations

from bench.data.input_size import write_size
from bench.engine.memory import is_out_of_memory
from bench.errors import BenchError


def explain_size(
    error: Exception, given: tuple[int, int], declared: tuple[int, int], name: str
) -> None:
    """Raise BenchError in place of a network's own error, where the images have another size than
    the model declares: one of both is what the network cannot run.

    Args:
        error: what the network raised.
        given: (height, width) of the images.
        declared: the same of the model.
        name: of the model.
    """
    if isinstance(error, BenchError) or is_out_of_memory(error) or given == declared:
        return
    reason = next(iter(str(error).splitlines()), "").strip().rstrip(".")[:200]
    raise BenchError(
        f"The images are {write_size(given)} pixels (height x width) and {name} declares "
        f"{write_size(declared)}, and the network cannot run one of them "
        f"({type(error).__name__}: {reason}); resize the images, or declare the size that the "
        "network takes."
    ) from error
