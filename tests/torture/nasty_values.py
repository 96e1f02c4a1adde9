"""Values that no option can take, and commands that take them, from the declared options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from typer.main import get_command

from bench.cli.application import app

NUMBERS = ("nan", "inf", "-inf", "1e400", "-1e30", "1j", "9" * 5000, "-1.5", "x", "0x10", "")
TEXTS = ("a\x01b", "n" * 300, "9" * 5000, "", "no/such/thing", "[/red]", "../../..", "@", "ä\u202e")
DEVICES = ("cuda:77", "meta", "nonsense", "", "cpu:5", "d" * 300, "hpu")

NEVER = {"a\x01b", "n" * 300, "9" * 5000, "", "nan", "inf", "-inf", "1e400", "1j", "x", "0x10"}
"""Values that every option of their kind refuses before any work."""

NEEDED = {
    "WHAT": "methods",
    "--model": "resnet-scenes",
    "--subset": "scenes-val",
    "--backbone": "resnet-scenes",
    "--out": "{out}",
}
"""What a command needs besides the option that is tried; other files and folders are missing."""

SMALL = {
    "--models": "resnet-scenes",
    "--subset": "scenes-val",
    "--methods": "random",
    "--metrics": "complexity",
    "--limit": "1",
    "--calibration": "0",
    "--forwards-per-second": "100",
}
"""What keeps a command short that takes the value."""

LONG = ("gate-rates", "finetune", "zoo", "protocols")
"""Commands that would work for long where they take a value; they get only what none takes."""


@dataclass(frozen=True)
class Option:
    """An option or argument of a command, and the Python type of its value."""

    command: tuple[str, ...]
    name: str
    kind: type
    required: bool
    argument: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """Return values to try: by name for a device, else by type."""
        if self.name == "--device":
            return DEVICES
        values = NUMBERS if self.kind in (int, float) else TEXTS
        if self.command[0] in LONG or self.name == "--methods":
            return tuple(value for value in values if value in NEVER - {""})
        return values


def list_commands(node: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple]]:
    """Yield (command of typer, its words) for every command of `cambench`."""
    node = get_command(app) if node is None else node
    for name, inner in getattr(node, "commands", {}).items():
        yield from list_commands(inner, (*path, name))
    if not hasattr(node, "commands"):
        yield node, path


def list_options() -> list[Option]:
    """Return every option and argument that takes a value."""
    found = []
    for command, path in list_commands():
        for one in command.params:
            kind = getattr(getattr(one, "type_descriptor", None), "annotation", str)
            argument = not one.opts[0].startswith("-")
            if not getattr(one, "is_flag", False) and one.name != "help":
                name = one.opts[0].upper() if argument else one.opts[0]
                found.append(Option(path, name, kind, one.required, argument))
    return found


def write_words(option: Option, value: str, everything: list[Option], places: dict) -> list[str]:
    """Return the words of a command with one option at a value, and what the command needs."""
    words, last = [*option.command], []
    for other in everything:
        small = SMALL if option.command[0] in ("run", "plan", "score") else {}
        known = {**NEEDED, **small}
        if other.command != option.command:
            continue
        if not (other.required or other == option or other.name in known):
            continue
        given = value if other == option else known.get(other.name, "{missing}").format(**places)
        if other.argument:
            last.append(given)
        else:
            words += [f"{other.name}={given}"]
    return [*words, *(["--", *last] if last else [])]
