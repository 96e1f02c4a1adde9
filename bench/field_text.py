"""Fields of a protocol as text: how an address such as `quantus[step_features=224]` holds their
values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.errors import BenchError

_WORDS = {"true": True, "false": False}

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "values with : between them, such as 0.3:0.5",
}
"""What an address must give for a field, by the type of the field's default."""


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


def read_settings(address: str, text: str) -> dict[str, str]:
    """Return {field: text} of `field=value,...`; the values of a list are separated by `:`."""
    settings: dict[str, str] = {}
    for pair in (part for part in text.split(",") if part.strip()):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise BenchError(
                f"Protocol {address}: {pair.strip()!r} sets nothing; write field=value."
            )
        if key in settings:
            raise BenchError(f"Protocol {address} sets {key} twice; leave one.")
        settings[key] = value
    return settings


def write_fields(values: Mapping[str, Any], between: str = ", ") -> str:
    """Return fields and values as an address writes them.

    >>> write_fields({"steps": 10, "box_ious": (0.3, 0.5), "box_last_tau": False})
    'steps=10, box_ious=0.3:0.5, box_last_tau=false'
    """
    return between.join(f"{name}={_write_value(value)}" for name, value in values.items())


def _write_value(value: Any) -> str:
    """Return a value as an address writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ":".join(map(_write_value, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)
