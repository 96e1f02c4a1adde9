"""A Ray cluster: how a run reaches one, or makes one of this machine."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.run.ray_worker import first_line

REACH_SECONDS = 20.0

# --- a cluster


@contextmanager
def connect_ray(address: str | None) -> Iterator[Any]:
    """Give the module `ray`, connected; a connection that is made here is closed, and a cluster
    made here is ended.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("auto", "local"):
        _check_reachable(address)
    try:
        _connect(ray, address)
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Join a cluster; one of this machine is given three chances, since on a busy machine Ray gives
    up early.
    """
    own = {"num_cpus": _cores(), "include_dashboard": False} if address == "local" else {}
    chances = 3 if own else 1
    for chance in range(1, chances + 1):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
        except Exception as error:  # Ray raises bare ones, too
            ray.shutdown()
            if chance == chances:
                what = "be started here" if own else f"be reached at {address}"
                raise BenchError(
                    f"Ray cannot {what} ({first_line(error)}); use --executor local."
                ) from error
        else:
            return


def _import_ray() -> Any:
    for name, value in (
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        (
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
            "0",
        ),  # under `uv run` the working folder would be uploaded
        ("RAY_agent_register_timeout_ms", "120000"),  # on a busy machine a node takes long to start
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise BenchError(
            "--executor ray needs Ray, which is not installed here; install it with: pip install "
            "'cambench[ray]'."
        ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Refuse an address where no Ray cluster answers: asked directly, Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise BenchError(
            f"--address is HOST:PORT of a Ray cluster's head node, or auto; got {address!r}."
        )
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "health-check",
            "--address",
            address,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=2 * REACH_SECONDS)
    except (OSError, OverflowError, subprocess.SubprocessError) as error:
        reason = (
            first_line(error)
            if isinstance(error, OSError)
            else "what listens there does not answer as Ray"
        )
        raise BenchError(
            f"No Ray cluster can be reached at {address} ({reason}); check `ray status` on its "
            "head node."
        ) from error


def _cores() -> int:
    """Return the cores that this process may use, which on a shared machine are fewer than there
    are.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def list_nodes(ray: Any) -> list[Mapping[str, float]]:
    """Return the resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def find_checkout() -> dict[str, str]:
    """Return a PYTHONPATH under which workers find a checkout that is not installed; {} where
    cambench is.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return {}
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    }
