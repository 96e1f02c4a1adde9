"""PyTorch's fused transformer layers, kept off where modules are watched or answer from stand-ins.

In eval mode and without gradients `nn.TransformerEncoderLayer` computes everything in one kernel
from its submodules' weights. The submodules themselves are not called then.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_depth = 0
_before = True


@contextmanager
def call_submodules() -> Iterator[None]:
    """Run a block in which every layer calls its submodules.

    The switch is PyTorch's and belongs to the whole process. So the last of several blocks, of any
    thread, puts it back.
    """
    global _depth, _before
    with _lock:
        if not _depth:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                torch.backends.mha.set_fastpath_enabled(_before)
