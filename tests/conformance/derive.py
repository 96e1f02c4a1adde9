"""Make the conformance vectors: inputs, and the scores that follow from the definitions by exact
arithmetic.

    python -m tests.conformance.derive            write v2/cases/*/input.json and expected.json
    python -m tests.conformance.derive --check    say whether the files are what this script makes

`vectors.py` has the cases and `definitions.py` the arithmetic, `added.py` both of what came later;
none imports anything but Python.
Beside each case stands `derivation.md`; its claims (`item value = arithmetic`) are worked out here
and must agree with the loops.
"""

from __future__ import annotations

import json
import math
import re
import sys
from fractions import Fraction
from pathlib import Path

from tests.conformance import added
from tests.conformance.definitions import METRICS, NAN, OUTSIDE, Case, Model, cam_maps, exact, flat
from tests.conformance.vectors import cases, points

CASES = Path(__file__).parent / "v2" / "cases"


def two_maxima(field):
    """Two equal maxima: at the truth pixel, and at the pixel that comes first by the tie field."""
    values = flat(field)
    first = max(range(len(values)), key=lambda i: (values[i], -i))
    height, width = len(field), len(field[0])
    return points(height, width, (0, 19), divmod(first, width))


def derived():
    """Return {case: (input, expected)}."""
    fields = json.loads((CASES.parent / "tie_fields.json").read_text())
    result = {}
    for name, made in {**cases(), **added.CASES}.items():
        expected = {}
        for key, one in made["items"].items():
            if "methods" in made:
                model = Model({**made["model"], "pool": one["pool"]})
                a, g, maps, _ = cam_maps(model, exact(one["image"]), one["target"])
                one |= {"activations": numbers(a), "gradients": numbers(g)}
                expected[key] = {f"map:{method}": maps[method] for method in made["methods"]}
                continue
            size = (
                "15x20" if one["map"] == "two_maxima" else f"{len(one['map'])}x{len(one['map'][0])}"
            )
            if one["map"] == "two_maxima":
                one["map"] = two_maxima(fields[size]["field"])
            one["tie_field"] = size
            field = exact(fields[size]["field"])
            case = Case(Model(made["model"]), one, made["protocol"], field)
            case.field, case.taus = flat(field), exact(one.get("taus", []))
            if "sister" in made:
                case.sister, case.patch = Model(made["sister"]), made["patch"]
            expected[key] = scores_of(case, made["metrics"])
        result[name] = (
            {"schema": 1, "case": name, **made},
            {"schema": 1, "case": name, "tolerance": 1e-5, "items": numbers(expected)},
        )
    return result


def scores_of(case, metrics):
    if case.finite:
        return {
            name: value
            for metric in metrics
            for name, value in {**METRICS, **added.DEFINITIONS}[metric](case).items()
        }
    case.map = [[Fraction(0) if isinstance(v, str) else v for v in row] for row in case.map]
    blank = Case.__new__(Case)
    blank.__dict__ |= case.__dict__
    blank.finite = True
    blank.values = flat(case.map)
    blank.order = list(range(case.pixels))
    blank.positive = blank.unit = [Fraction(0)] * case.pixels
    blank.has_positive = False
    names = scores_of(
        blank, metrics
    )  # which values there are, and which items are outside a set whatever their map
    return {name: value if value == OUTSIDE else nan_like(value) for name, value in names.items()}


def nan_like(value):
    return [NAN] * len(value) if isinstance(value, list) else NAN


def numbers(value):
    """Return fractions as JSON numbers."""
    if isinstance(value, dict):
        return {key: numbers(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers(v) for v in value]
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return value


CLAIM = re.compile(r"^    (\S+) ([\w:]+)((?:\[\d+\])*) = ([^=]+?)(?: = .*)?$")
LET = re.compile(r"^    let (\w+) = ([^=]+?)(?: = .*)?$")


def claims(name, expected):
    """Work out the claims of a derivation; return {value names that are claimed} and what
    disagrees.
    """
    names = {
        "exp": math.exp,
        "ln": math.log,
        "sigmoid": sigmoid,
        "Fraction": Fraction,
        "NaN": NAN,
        "outside": OUTSIDE,
    }
    seen, wrong = set(), []
    for line in (CASES / name / "derivation.md").read_text().splitlines():
        let, claim = LET.match(line), CLAIM.match(line)
        if let:
            names[let[1]] = worked_out(let[2], names)
        elif claim:
            value = expected["items"].get(claim[1], {}).get(claim[2])
            for index in re.findall(r"\d+", claim[3]):
                value = value[int(index)]
            said = worked_out(claim[4], names)
            said = said if isinstance(said, str) else float(said)
            agrees = (
                value == said
                if isinstance(said, str) or isinstance(value, str)
                else abs(value - said) < 1e-12
            )
            if not agrees:
                wrong.append(f"{name}: {line.strip()} is {said}, derived {value}")
            seen.add(claim[2])
    return seen, wrong


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def worked_out(text, names):
    """Evaluate arithmetic in fractions: every number that is written becomes one."""
    return eval(
        re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)", r"Fraction('\1')", text), {"__builtins__": {}}, names
    )


def main():
    check = "--check" in sys.argv
    problems = []
    for name, (given, expected) in derived().items():
        (CASES / name).mkdir(exist_ok=True)
        (CASES / name / "derivation.md").touch()
        seen, wrong = claims(name, expected)
        problems += wrong
        missing = {value for scores in expected["items"].values() for value in scores} - seen
        problems += (
            [f"{name}: derivation.md claims nothing about {', '.join(sorted(missing))}"]
            if missing
            else []
        )
        for file, content in (("input.json", given), ("expected.json", expected)):
            path, text = CASES / name / file, written(content)
            if check and path.read_text() != text:
                problems.append(f"{path} is not what derive.py makes")
            elif not check:
                path.write_text(text)
    print("\n".join(problems) or "All files are as derived, and every claim holds.")
    sys.exit(bool(problems))


def written(content):
    """JSON with one line per row of numbers."""
    text = json.dumps(content, indent=1)
    return (
        re.sub(
            r"\[\s+((?:[^\[\]{}]|\s)*?)\s+\]",
            lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]",
            text,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
