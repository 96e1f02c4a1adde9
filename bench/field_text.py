"""Fields of a protocol as text: how an address such as `quantus[step_features=224]` holds their
values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_WORDS = {"true": True, "false": False}


def read_field(text: str, default: Any) -> Any:
    """Return text as a value of the default's type; ValueError where it is none."""
    if isinstance(default, bool):
        if text.lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.lower()]
    if isinstance(default, tuple):
        return tuple(read_field(part.strip(), default[0]) for part in text.split(":"))
    if isinstance(default, str):
        return text
    kind: Callable[[str], Any] = type(default)
    number = kind(text)
    if number != number or abs(number) == float("inf"):
        raise ValueError(text)
    return number


def write_fields(values: Mapping[str, Any], between: str = ", ") -> str:
    """Return fields and values as an address writes them.

    >>> write_fields({"steps": 10, "box_ious": (0.3, 0.5), "box_last_tau": False})
    'steps=10, box_ious=0.3:0.5, box_last_tau=false'
    """
    return between.join(f"{name}={_written(value)}" for name, value in values.items())


def _written(value: Any) -> str:
    """Return a value as an address writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ":".join(map(_written, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
