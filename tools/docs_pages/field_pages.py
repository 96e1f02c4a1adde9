"""Pages of fields and keys: protocols side by side, cards, manifests, claims."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re

from bench.board.claim_keys import ClaimKeys, QueryKeys
from bench.data.manifest_keys import GeometryKeys, ManifestKeys
from bench.models.card_keys import EXAMPLE, CardKeys
from bench.protocol import PROTOCOLS, Protocol
from bench.protocol_checks import describe_field
from bench.schema import Keys, write_key_table
from docs_pages.markdown import escape, write_table

SCHEMAS: dict[str, tuple[type[Keys], str]] = {
    "Card of a network": (CardKeys, "An entry of a card file, `--models FILE.json#NAME`."),
    "Manifest of images": (ManifestKeys, "The file `manifest.toml` in a folder of images."),
    "Geometry of a manifest": (GeometryKeys, "The table `[geometry]` of a manifest."),
    "Claim": (ClaimKeys, "An entry of `claims.toml`, which `cambench claims` reads."),
    "Query of a claim": (QueryKeys, "The table `query` of a claim."),
}
"""{title: keys, where they stand} of every kind of file that a user writes."""


def write_schema_page() -> str:
    """Return the page of all keys of cards, manifests and claims."""
    parts = [
        "# Cards and manifests",
        "The keys of every file that you write for cambench. An unknown key, or a value of another "
        "type, is refused in one sentence. [Networks](../networks.md), [images](../data.md) and "
        "[claims](../claims.md) show how the files are used.",
    ]
    for title, (keys, where) in SCHEMAS.items():
        parts += [f"## {title}", where, write_key_table(keys)]
        if keys is CardKeys:
            example = json.dumps({"mine": EXAMPLE}, indent=2)
            parts += ["An example, `models.json`:", f"```json\n{example}\n```"]
    return "\n\n".join(parts) + "\n"


# --- protocols


def list_fields() -> list[str]:
    """Return the names of a protocol's fields."""
    return [field.name for field in dataclasses.fields(Protocol) if field.name != "name"]


def write_protocol_page() -> str:
    """Return the page with every field of every named protocol side by side."""
    names = list(PROTOCOLS)
    base = Protocol()
    rows = []
    for field in list_fields():
        cells = []
        for name in names:
            value = getattr(PROTOCOLS[name], field)
            same = name == base.name or value == getattr(base, field)
            shown = f"`{write_value(value)}`"
            cells.append(shown if same else f"**{shown}**")
        rows.append((f'<a id="{field}"></a>`{field}`', *cells))
    about = (
        "Bold: another choice than that of `cambench-1`. `NAME[field=value,...]` changes any "
        "field, for example `quantus[step_features=224]`. [Protocols](../protocols.md) explains "
        "the names."
    )
    known = read_meanings()
    meanings = [
        (f"`{field}`", escape(known.get(field, "")), escape(describe_field(field)))
        for field in list_fields()
    ]
    parts = ["# Protocols side by side", about, write_table(("field", *names), rows)]
    parts += ["## What each field means", write_table(("field", "meaning", "can be"), meanings)]
    return "\n\n".join(parts) + "\n"


def write_value(value: object) -> str:
    """Return a field's value as text.

    >>> write_value((0.3, 0.5))
    '0.3, 0.5'
    """
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_meanings() -> dict[str, str]:
    """Return what the docstring of the class says of each field, under "Attributes:"."""
    (section,) = re.findall(r"Attributes:\n(.*?)\n\n", inspect.getdoc(Protocol) or "", re.DOTALL)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}
