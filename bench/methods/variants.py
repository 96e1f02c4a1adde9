"""Methods by address: a name, a wrapper around another method, and parameters in square brackets.

    grad_cam    sa_cam[lambda=0.5,base=grad_cam_pp]    tft(layer_cam)
    tft(sa_cam[lambda=2])[include_zero=true]

One variant has one name: parameters in alphabetical order, those at their default left out.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch

from bench.errors import BenchError, suggestions
from bench.ranges import Range, read_number
from bench.registry import split_list
from bench.text_limits import LONGEST_NAME, is_file

_ADDRESS = re.compile(
    r"(?P<base>\w+)(?:\((?P<inner>.*)\))?(?:\[(?P<settings>[^\[\]]*=[^\[\]]*)\])?"
)


@dataclass(frozen=True)
class Address:
    """A method's name taken apart: base name, wrapped method ("" if none), and parameters as they
    were written.
    """

    base: str
    inner: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


def read_address(text: str) -> Address | None:
    """Take an address apart; None where the text is no address (a wildcard).

    >>> read_address("tft(layer_cam)[include_zero=true]")
    Address(base='tft', inner='layer_cam', settings={'include_zero': 'true'})
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        return None
    if len(text) > LONGEST_NAME:
        raise BenchError(
            f"The method {text[:40]}... has {len(text):,} characters; at most {LONGEST_NAME} fit."
        )
    settings = {}
    for pair in split_list(found["settings"] or ""):
        key, _, value = pair.partition("=")
        if key.strip() in settings:
            raise BenchError(f"{text} sets {key.strip()} twice; leave one.")
        if key.strip():
            settings[key.strip()] = value.strip()
    return Address(found["base"], found["inner"] or "", settings)


def write_address(base: str, inner: str, settings: Mapping[str, Any]) -> str:
    """Return the one name of a variant."""
    inside = ",".join(f"{key}={write_value(settings[key])}" for key in sorted(settings))
    return f"{base}{f'({inner})' if inner else ''}{f'[{inside}]' if inside else ''}"


def write_value(value: Any) -> str:
    """Return a parameter's value as an address writes it; of a tensor, its size and a hash.

    >>> write_value(True), write_value(2.0), write_value("blur")
    ('true', '2', 'blur')
    """
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().numpy().tobytes()
        return f"tensor {'x'.join(map(str, value.shape))} {hashlib.sha256(data).hexdigest()[:8]}"
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def identity(value: Any) -> str:
    """Return what an id says of a value: as it is written, and of a file also what it holds."""
    content = (
        f" {hashlib.sha256(Path(value).read_bytes()).hexdigest()[:12]}"
        if isinstance(value, str) and is_file(value)
        else ""
    )
    return write_value(value) + content


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a method function's parameters with their defaults, by public name (`lambda_` is
    `lambda`).
    """
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name.rstrip("_"): p.default
        for p in parameters
        if p.default is not inspect.Parameter.empty
    }


def keywords(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by public name as keyword arguments of the function."""
    own = {name.rstrip("_"): name for name in inspect.signature(function).parameters}
    return {own.get(key, key): value for key, value in settings.items()}


def check_parameters(
    name: str, function: Callable[..., Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the given parameters in the type of their defaults, those at their default left out.

    name: of the method, for errors. An unknown parameter, or a value that does not fit, is an
    error.
    """
    known, hints = defaults(function), get_type_hints(function, include_extras=True)
    chosen = {}
    for key, value in given.items():
        if key not in known:
            what = f"Method {name} has no parameter {key!r}."
            raise BenchError(what + (suggestions(key, known) if known else " It has none at all."))
        hint = hints.get(next(iter(keywords(function, {key: None}))))
        typed = _convert_value(f"{name}[{key}={write_value(value)}]", value, known[key], hint)
        if isinstance(typed, torch.Tensor) or typed != known[key]:
            chosen[key] = typed
    return chosen


def find_ranges(function: Callable[..., Any]) -> dict[str, str]:
    """Return what each parameter of a method function can be, in words, by public name; parameters
    that declare nothing are left out.
    """
    found = {}
    for key, hint in get_type_hints(function, include_extras=True).items():
        ranges = [extra for extra in get_args(hint)[1:] if isinstance(extra, Range)]
        if get_origin(hint) is Literal:
            found[key.rstrip("_")] = ", ".join(map(str, get_args(hint)))
        elif get_origin(hint) is Annotated and ranges:
            found[key.rstrip("_")] = str(ranges[0])
    return found


def _convert_value(where: str, value: Any, default: Any, hint: Any) -> Any:
    checks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise BenchError(f"{where}: it can be {', '.join(map(str, get_args(hint)))}.")
        return value
    if isinstance(default, bool):
        word = str(value).lower()
        if word not in ("true", "false", "1", "0"):
            raise BenchError(f"{where}: it can be true or false.")
        return word in ("true", "1")
    if isinstance(default, (int, float)):
        value = _convert_number(where, value, type(default))
    for check in checks:  # the parameter's own
        if isinstance(check, Range):
            check.check(where, value)
        elif callable(check):
            check(where, value)
    return value


def _convert_number(where: str, value: Any, kind: type[int] | type[float]) -> int | float:
    try:
        return read_number(value, kind)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise BenchError(f"{where}: give {words}.") from None
