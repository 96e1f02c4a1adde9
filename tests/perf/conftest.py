"""What benchmarks share: two torch threads where there are two cores, and a file that says what
ran.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest
import torch

THREADS = min(2, os.cpu_count() or 1)
PEERS = ("timm", "captum", "grad-cam", "torchcam", "quantus")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give every benchmark two torch threads, whatever ran before; other tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Add to pytest-benchmark's file what the table says of the machine and the libraries."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    versions = {name: metadata.version(name) for name in PEERS if _installed(name)}
    machine_info["cambench"] = {
        "torch": torch.__version__,
        "threads": THREADS,
        "gpu": gpu,
        "peers": versions,
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
