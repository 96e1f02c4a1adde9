"""A read-only view of the protocol fields that a metric declared."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bench.identity import digest

if TYPE_CHECKING:
    from bench.protocol import Protocol


class ProtocolView:
    """The fields of a protocol that a metric declared; any other raises, so a metric's id cannot
    lie.
    """

    def __init__(self, protocol: Protocol, fields: tuple[str, ...]) -> None:
        self._values = {name: getattr(protocol, name) for name in fields}
        defaults = {
            f.name: f.default for f in dataclasses.fields(protocol) if f.metadata.get("quiet")
        }
        self._silent = {
            name for name in fields if name in defaults and self._values[name] == defaults[name]
        }

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "_values")
        if name in values:
            return values[name]
        raise AttributeError(
            f"protocol field {name!r} is not declared in this metric's `reads`; add it there"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def get(self, name: str, default: Any) -> Any:
        """Return a field if it is declared, else the default: for what metrics share and need not
        declare.
        """
        return self._values.get(name, default)

    @property
    def hash(self) -> str:
        """Return the hash of the declared fields and their values; `quiet` ones count off their
        default only.
        """
        return digest(
            {name: value for name, value in self._values.items() if name not in self._silent}
        )
