"""Files of keys and values, checked against a pydantic model: what is wrong is one sentence.

A key's type is strict: `"224"` is no number and `1` is no truth value. The same model gives the
table of keys in the docs and the JSON schema.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, suggestions


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds; see `parse_json`."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Keys(BaseModel):
    """The keys of a table: no others, and values of exactly their types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


AnyKeys = TypeVar("AnyKeys", bound=Keys)


def describe_key(default: Any, form: str, about: str) -> Any:
    """Return a pydantic field.

    Args:
        default: the value where the key is missing; `...` where the key must be given.
        form: what a value must be, as errors and the docs say it: "a whole number".
        about: what the key means.
    """
    return Field(default, description=about, json_schema_extra={"form": form})


def check_table(keys: type[AnyKeys], table: Any, where: str) -> AnyKeys:
    """Return a table as its keys.

    Args:
        keys: the model of the keys.
        table: what was read from a file.
        where: names the table at the start of a sentence, such as "The manifest a.toml".

    Raises:
        BenchError: one sentence on the first thing that is wrong; unknown keys come first, since a
            misspelt key also leaves one missing.
    """
    if not isinstance(table, dict):
        raise BenchError(f"{where} must be a table of keys and values, not {_show(table)}.")
    try:
        return keys.model_validate(table)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    order = {"extra_forbidden": 0, "missing": 1}
    first = min(found, key=lambda one: order.get(one["type"], 2))
    missing = [one for one in found if one["type"] == "missing" and one["loc"][:-1] == ()]
    if first["type"] == "missing" and missing:
        raise BenchError(_describe_missing(keys, [str(one["loc"][-1]) for one in missing], where))
    raise BenchError(_describe_error(keys, first["type"], first["loc"], table, where))


def _describe_missing(keys: type[Keys], names: Sequence[str], where: str) -> str:
    examples = " and ".join(f"{name} ({read_form(keys, name)})" for name in names)
    return f"{where} has no {' and no '.join(names)}; add {examples}."


def _describe_error(
    keys: type[Keys], kind: str, loc: tuple[int | str, ...], table: Mapping[str, Any], where: str
) -> str:
    """Return the sentence of one error of pydantic, found at `loc` in a table."""
    name = str(loc[0])
    inner = _find_inner(keys, name)
    if inner is not None and len(loc) > 1 and isinstance(table.get(name), dict):
        where = f"The {name} of {where[0].lower()}{where[1:]}"
        if kind == "missing":
            return _describe_missing(inner, [str(loc[1])], where)
        return _describe_error(inner, kind, loc[1:], table[name], where)
    if kind == "extra_forbidden":
        return f"{where} has the unknown key {name!r}.{suggestions(name, keys.model_fields)}"
    value, known = table[name], _find_choices(keys, name)
    if known and isinstance(value, str):
        return f"{where} has the unknown {name} {value!r}.{suggestions(value, known)}"
    return f"{where} has {name} = {_show(value)}; it must be {read_form(keys, name)}."


def _find_inner(keys: type[Keys], name: str) -> type[Keys] | None:
    """Return the keys of a key that is a table of its own."""
    field = keys.model_fields.get(name)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Keys)), None)


def _find_choices(keys: type[Keys], name: str) -> tuple[str, ...]:
    """Return the values that a key may have, where these are counted."""
    annotation = keys.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def read_form(keys: type[Keys], name: str) -> str:
    """Return what the value of a key must be, in words."""
    extra = keys.model_fields[name].json_schema_extra
    form = extra.get("form") if isinstance(extra, dict) else None
    known = _find_choices(keys, name)
    return f"one of {', '.join(known)}" if known else str(form or "a value")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- for the docs


def list_keys(keys: type[Keys]) -> Iterator[tuple[str, str, bool, str]]:
    """Yield (key, what its value must be, whether it must be given, what it means)."""
    for name, field in keys.model_fields.items():
        yield name, read_form(keys, name), field.is_required(), field.description or ""


def write_key_table(keys: type[Keys]) -> str:
    """Return the keys as a Markdown table."""
    rows = [
        f"| `{name}`{' (required)' if needed else ''} | {form} | {about} |"
        for name, form, needed, about in list_keys(keys)
    ]
    return "\n".join(["| key | value | meaning |", "|---|---|---|", *rows])


def json_schema(keys: type[Keys]) -> dict[str, Any]:
    """Return the JSON schema of a table, for editors."""
    return keys.model_json_schema()
