"""The docstrings of public names: complete, true to the signature, and run where they are cheap."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import bench
from bench.board.paper_report import Report, _label
from bench.engine.case import Case
from bench.engine.prober import Job, Prober
from bench.metrics import METRICS, Value
from bench.models.zoo import MODELS
from tests.support import toy_records

CLASSES = [
    *(one for name in bench.__all__ if inspect.isclass(one := getattr(bench, name))),
    *(Case, Job, Prober, Report, Value),
]
"""Public classes: those of `bench`, and those that methods, metrics and reports hand over."""

FUNCTIONS = [
    one
    for name in bench.__all__
    if not inspect.isclass(one := getattr(bench, name)) and callable(one)
]

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Reference", "Note")


def list_members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (name, member) of the public members that the package defines, inherited ones too."""
    seen = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("bench"):
            continue
        for name, member in vars(base).items():
            known = isinstance(member, (property, cached_property, classmethod, staticmethod))
            if not name.startswith("_") and name not in seen and (known or callable(member)):
                seen.add(name)
                yield name, member


PROPERTIES = [
    pytest.param(
        member.fget if isinstance(member, property) else member.func, id=f"{c.__name__}.{n}"
    )
    for c in CLASSES
    for n, member in list_members(c)
    if isinstance(member, (property, cached_property))
]
METHODS = [
    pytest.param(getattr(member, "__func__", member), id=f"{c.__name__}.{n}")
    for c in CLASSES
    for n, member in list_members(c)
    if not isinstance(member, (property, cached_property))
]


def read_sections(doc: str) -> dict[str, str]:
    """Return {section: its text} of a docstring in Google style; "" holds what comes before."""
    found, name = {"": ""}, ""
    for line in inspect.cleandoc(doc).splitlines():
        head = line[:-1] if line.endswith(":") else ""
        if head in SECTIONS:
            name = head
        found[name] = found.get(name, "") + line + "\n"
    return found


def read_entries(section: str) -> list[str]:
    """Return the names that a section has an entry for; `a, b:` is an entry of both."""
    lines = re.findall(r"^ {4}([\w*., ]+):", section, re.MULTILINE)
    return [name.strip().lstrip("*") for line in lines for name in line.split(",")]


def list_raised(function: Callable[..., Any]) -> set[str]:
    """Return the names of the exceptions that the body raises, without those of inner functions."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    todo, found = list(ast.iter_child_nodes(tree.body[0])), set()
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        todo += ast.iter_child_nodes(node)
    return found


def check_summary(doc: str) -> Iterator[str]:
    """Yield what is wrong with the first line: it is one sentence on a line of its own."""
    first, _, rest = inspect.cleandoc(doc).partition("\n")
    if not first.endswith("."):
        yield "the summary is not one line that ends with a full stop"
    if rest and not rest.startswith("\n"):
        yield "no empty line follows the summary"


def check_function(function: Callable[..., Any], *, example: bool = True) -> list[str]:
    """Return what the docstring of a function or method lacks."""
    doc = function.__doc__
    if not doc:
        return ["no docstring"]
    faults, sections = [*check_summary(doc)], read_sections(doc)
    inner = inspect.unwrap(function)
    taken = [name for name in inspect.signature(inner).parameters if name not in ("self", "cls")]
    entries = read_entries(sections.get("Args", ""))
    options = "options" in taken
    if not options and entries != [name for name in taken if name in entries]:
        faults.append(f"Args: {entries} are not in the order of {taken}")
    faults += [f"Args: no {name}" for name in taken if name not in entries and name != "options"]
    returned = inspect.signature(inner).return_annotation
    if returned not in (None, "None") and "Returns" not in sections:
        faults.append("no Returns:")
    faults += [
        f"Raises: no {name}"
        for name in sorted(list_raised(function))
        if name not in read_entries(sections.get("Raises", ""))
    ]
    if example and ">>>" not in sections.get("Example", ""):
        faults.append("no Example:")
    return faults


def check_property(function: Callable[..., Any]) -> list[str]:
    """Return what the docstring of a property lacks: its summary says what it returns."""
    doc = function.__doc__
    if not doc:
        return ["no docstring"]
    faults = [*check_summary(doc)]
    if not doc.startswith("Return "):
        faults.append("the summary does not start with Return")
    sections = read_sections(doc)
    return faults + [
        f"Raises: no {name}"
        for name in sorted(list_raised(function))
        if name not in read_entries(sections.get("Raises", ""))
    ]


def check_class(kind: type) -> list[str]:
    """Return what the docstring of a class lacks: what it is made of, what it holds, an example."""
    doc = vars(kind).get("__doc__")
    if not doc or doc.startswith(f"{kind.__name__}("):
        return ["no docstring"]
    faults, sections = [*check_summary(doc)], read_sections(doc)
    if ">>>" not in sections.get("Example", ""):
        faults.append("no Example:")
    if issubclass(kind, Exception):
        return faults
    taken = [n for n in inspect.signature(kind).parameters if not n.startswith("_")]
    entries = read_entries(sections.get("Args", sections.get("Attributes", "")))
    faults += [f"Args or Attributes: no {name}" for name in taken if name not in entries]
    faults += [f"Args or Attributes: {n} is no parameter" for n in entries if n not in taken]
    return faults


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_a_function_is_documented(function: Callable[..., Any]) -> None:
    assert check_function(function) == []


@pytest.mark.parametrize("kind", CLASSES, ids=lambda one: one.__name__)
def test_a_class_is_documented(kind: type) -> None:
    assert check_class(kind) == []


@pytest.mark.parametrize("function", METHODS)
def test_a_method_is_documented(function: Callable[..., Any]) -> None:
    assert check_function(function) == []


@pytest.mark.parametrize("function", PROPERTIES)
def test_a_property_is_documented(function: Callable[..., Any]) -> None:
    assert check_property(function) == []


# --- the check itself finds what is missing


def halve(number: float, *, whole: bool = False) -> float:
    """Return half of a number.

    Args:
        number: A number, 0 or more.
        whole: Whether the half is rounded down.

    Returns:
        The half.

    Raises:
        ValueError: The number is negative.

    Example:
        >>> halve(3.0)
        1.5
    """
    if number < 0:
        raise ValueError("The number is negative.")
    return number // 2 if whole else number / 2


BREAKS = {
    "the summary is not one line that ends with a full stop": ("a number.\n", "a number\n"),
    "no empty line follows the summary": ("a number.\n\n", "a number.\n"),
    "Args: no whole": ("        whole: Whether the half is rounded down.\n", ""),
    "Args: ['number', 'wide'] are not in the order of ['number', 'whole']": ("whole: W", "wide: W"),
    "no Returns:": ("    Returns:\n        The half.\n", ""),
    "Raises: no ValueError": ("        ValueError: The", "        KeyError: The"),
    "no Example:": (">>> halve(3.0)\n        1.5", "none"),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_missing_part_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    assert check_function(halve) == []
    old, new = BREAKS[fault]
    assert old in str(halve.__doc__)
    monkeypatch.setattr(halve, "__doc__", str(halve.__doc__).replace(old, new))
    assert fault in check_function(halve)


def test_a_class_and_a_property_without_parts_are_found() -> None:
    class Bare:
        """A thing"""

        def __init__(self, size: int) -> None:
            self.size = size

        @property
        def half(self) -> float:
            """Half of it."""
            raise KeyError("size")

    assert check_class(Bare) == [
        "the summary is not one line that ends with a full stop",
        "no Example:",
        "Args or Attributes: no size",
    ]
    assert check_property(vars(Bare)["half"].fget) == [
        "the summary does not start with Return",
        "Raises: no KeyError",
    ]


# --- examples


@pytest.fixture(scope="module")
def given() -> SimpleNamespace:
    """Return the objects that examples use by name: those that a user has at that point."""
    net = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)),
        *(torch.nn.Flatten(), torch.nn.Linear(4, 3)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in (net[0], net[4]):
            part.reset_parameters()
        images = torch.randn(2, 3, 8, 8)
    model = bench.Explainee(net, size=8, layer="1", name="doc-net")
    prober = Prober(model)
    subset = bench.load_subset("scenes-val", limit=4)
    trace = bench.Trace(prober, images, torch.tensor([0, 2]), ids=("one", "two"))
    maps = trace.upsample(trace.activations.sum(1))
    fields = METRICS.get("deletion").all_reads
    case = Case(trace, maps, bench.Protocol(steps=4).view((*fields, "removed", "baseline")))
    records = toy_records.random_records(n=4, k=3, models=("net-a",))
    return SimpleNamespace(
        bench=bench,
        torch=torch,
        np=np,
        model=model,
        images=images,
        prober=prober,
        trace=trace,
        case=case,
        maps=maps,
        subset=subset,
        records=records,
        Job=Job,
        Prober=Prober,
        Case=Case,
        Value=Value,
        METRICS=METRICS,
        MODELS=MODELS,
    )


def list_documented() -> Iterator[Any]:
    """Yield everything whose examples are run."""
    yield from (*FUNCTIONS, _label)
    for kind in CLASSES:
        yield kind
        yield from (getattr(one, "__func__", one) for _, one in list_members(kind))


def run_examples(one: Any, names: dict[str, Any]) -> doctest.TestResults:
    """Run the examples of one docstring."""
    name = getattr(one, "__qualname__", "property")
    test = doctest.DocTestParser().get_doctest(str(one.__doc__), names, name, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    runner.run(test, out=output.append)
    print("".join(output))
    return runner.summarize(verbose=False)


@pytest.fixture(scope="module")
def board(given: SimpleNamespace) -> bench.Board:
    frame = given.records.frame
    kept = frame[frame["metric"] != "pixel_histogram"]
    return bench.leaderboard(bench.Records(kept, given.records.provenance), resamples=20)


@pytest.mark.parametrize("one", list_documented(), ids=lambda one: getattr(one, "__qualname__", ""))
def test_examples_are_true(one: Any, given: SimpleNamespace, board: bench.Board) -> None:
    module = vars(sys.modules.get(getattr(one, "__module__", None) or "", bench))
    own = {"board": board, "report": board.report()}
    result = run_examples(one, {**module, **vars(given), **own})
    assert result.failed == 0


def test_most_examples_are_run() -> None:
    parser = doctest.DocTestParser()
    found = [e for one in list_documented() for e in parser.get_examples(str(one.__doc__))]
    skipped = [e for e in found if e.options.get(doctest.SKIP)]
    assert len(skipped) <= len(found) // 5
    assert len(found) > 60


def test_a_wrong_example_fails() -> None:
    function = SimpleNamespace(__doc__=">>> 1 + 1\n3\n", __qualname__="add")
    assert run_examples(function, {}).failed == 1
