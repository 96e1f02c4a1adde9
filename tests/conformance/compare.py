"""Compare an implementation's scores with the conformance vectors; needs nothing but Python.

    python tests/conformance/compare.py MY_SCORES.json [--all]

Prints what disagrees and a table of cases. Exit code 0: all that was given agrees; 1: something
disagrees (with --all also: something is missing); 2: the file cannot be read or names something
unknown.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "v2" / "cases"
SCHEMA = 1


class UnreadableError(Exception):
    """What is wrong with the scores file, in one sentence."""


@dataclass
class Tally:
    """One case: values that agree, that were not given, and a line for each that disagrees."""

    agree: int = 0
    missing: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        return "DIFFERS" if self.wrong else "agrees" if self.agree else "not given"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scores", type=Path, metavar="MY_SCORES.json")
    parser.add_argument("--all", action="store_true", help="also fail where a value is missing")
    given = parser.parse_args()
    try:
        tallies = compare(read(given.scores), expected())
    except UnreadableError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    for case, tally in tallies.items():
        for line in tally.wrong:
            print(f"{case}/{line}")
    width = max(map(len, tallies))
    print(f"{'case':{width}}  agree  differ  missing")
    for case, tally in tallies.items():
        print(
            f"{case:{width}}  {tally.agree:5}  {len(tally.wrong):6}  {tally.missing:7}  "
            f"{tally.word}"
        )
    bad = any(t.wrong for t in tallies.values()) or (
        given.all and any(t.missing for t in tallies.values())
    )
    sys.exit(int(bad))


def read(path: Path) -> dict[str, Any]:
    """Return {case: {item: {value name: value}}} of a scores file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(content, dict) or not isinstance(content.get("scores"), dict):
        raise UnreadableError(
            f'{path} must be {{"schema": {SCHEMA}, "scores": {{case: {{item: {{value: ...}}}}}}}}.'
        )
    if content.get("schema") != SCHEMA:
        raise UnreadableError(
            f"{path} has schema {content.get('schema')!r}; these vectors are schema {SCHEMA}."
        )
    return content["scores"]


def expected() -> dict[str, Any]:
    """Return {case: content of its expected.json}."""
    found = {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(CASES.glob("*/expected.json"))
    }
    if not found:
        raise UnreadableError(f"There are no cases in {CASES}.")
    return found


def compare(scores: dict[str, Any], cases: dict[str, Any]) -> dict[str, Tally]:
    """Return a tally per case; values that the vectors do not have are looked over, unknown cases
    and items are not.
    """
    for case, items in scores.items():
        if case not in cases:
            raise UnreadableError(f"There is no case {case!r}; the cases are {', '.join(cases)}.")
        if not isinstance(items, dict) or not all(
            isinstance(values, dict) for values in items.values()
        ):
            raise UnreadableError(f"The case {case!r} must be {{item: {{value: ...}}}}.")
        unknown = set(items) - set(cases[case]["items"])
        if unknown:
            raise UnreadableError(f"The case {case!r} has no item {sorted(unknown)[0]!r}.")
    if not any(values for items in scores.values() for values in items.values()):
        raise UnreadableError("There is no score in the file, so nothing can be compared.")
    tallies = {}
    for case, content in cases.items():
        tally = tallies[case] = Tally()
        for item, values in content["items"].items():
            given = scores.get(case, {}).get(item, {})
            for name, value in values.items():
                if name not in given:
                    tally.missing += 1
                    continue
                reason = difference(name, given[name], value, content["tolerance"])
                if reason:
                    tally.wrong.append(f"{item} {name}: {reason}")
                else:
                    tally.agree += 1
    return tallies


def difference(name: str, got: Any, wanted: Any, tolerance: float) -> str:
    """Return how a value differs from the one wanted, or ""."""
    got, wanted = listed(got), listed(wanted)
    if len(got) != len(wanted):
        return f"{len(got)} numbers, expected {len(wanted)}"
    if name.startswith("map:"):  # maps are the same up to a positive factor
        got, wanted = over_largest(got), over_largest(wanted)
    off = [i for i, pair in enumerate(zip(got, wanted, strict=True)) if not same(*pair, tolerance)]
    if not off:
        return ""
    where = f" at {off[0]} (of {len(off)} that differ)" if len(got) > 1 else ""
    return f"{said(got[off[0]])}, expected {said(wanted[off[0]])}{where}"


def listed(value: Any) -> list[Any]:
    """Return a number or nested lists of them as one flat list."""
    if isinstance(value, list):
        return [one for part in value for one in listed(part)]
    return [value]


def over_largest(values: list[Any]) -> list[Any]:
    if any(not isinstance(v, (int, float)) for v in values):
        return values
    top = max(map(abs, values), default=0)
    return [v / top if top else v for v in values]


def same(got: Any, wanted: Any, tolerance: float) -> bool:
    """Return whether two values agree: words as they are, null and NaN as "NaN", numbers to the
    tolerance.
    """
    got = "NaN" if got is None or (isinstance(got, float) and math.isnan(got)) else got
    if isinstance(wanted, str) or not isinstance(got, (int, float)):
        return bool(got == wanted)
    return abs(got - wanted) <= tolerance


def said(value: Any) -> str:
    return (
        "NaN"
        if value is None
        else f"{value:.6g}"
        if isinstance(value, (int, float))
        else str(value)
    )


if __name__ == "__main__":
    main()
