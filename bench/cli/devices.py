"""Whether a device that a command is given can be used here."""

from __future__ import annotations

import torch

from bench.errors import BenchError, take_first_line


def check_device(device: str) -> None:
    """Refuse a device that torch cannot compute on here.

    Raises:
        BenchError: torch does not know the device, this machine has none, or it holds no numbers
            (`meta`).
    """
    try:
        (torch.zeros(1, device=device) + 1).item()
        index = torch.device(device).index
    except Exception as error:  # each back end of torch has its own
        reason = take_first_line(error).partition(". ")[0] or type(error).__name__
        raise BenchError(
            f"The device {device!r} cannot be used here ({reason}); choose cpu."
        ) from None
    if torch.device(device).type == "cpu" and index:
        raise BenchError(f"The device {device!r} cannot be used here (it is one); choose cpu.")
