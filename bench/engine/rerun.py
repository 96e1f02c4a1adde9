"""What metrics see of a method: something that they can run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from bench.engine.trace import Trace


class Rerun(Protocol):
    """The method behind a case's maps, to be run again with the same or other parameters."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Return every parameter, defaults included."""
        ...

    def __call__(self, trace: Trace, **parameters: Any) -> torch.Tensor:
        """Return the method's maps [B,H,W] of another trace."""
        ...
