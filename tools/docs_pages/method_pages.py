"""A page for each family of methods, with everything that the registry knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import bench
from bench.engine.counts import Counts
from bench.methods import METHODS, Method
from bench.methods.variants import find_ranges, write_value
from docs_pages.markdown import escape, write_docstring, write_list, write_table
from docs_pages.method_pictures import SCENE_WORDS, draws_on

FAMILIES = {
    "focus": (
        "The five systems",
        "The systems that cambench is built around. Lists name them `focus/*`.",
    ),
    "cam": (
        "Class activation maps",
        "They weigh the maps of one layer. The result is as coarse as that layer's grid.",
    ),
    "gradient": (
        "Gradients",
        "They ask how the score changes with each pixel. The result has the image's detail.",
    ),
    "perturbation": (
        "Perturbation",
        "They change the image many times and watch the score. They need no gradients but time.",
    ),
    "attention": (
        "Attention",
        "They read the attention of transformers, or of an attention branch network.",
    ),
    "control": (
        "Controls",
        "Yardsticks, not proposals. A value that a control wins says little about methods.",
    ),
}
"""The title of each family's page, and what the methods share."""

FIDELITY = {
    "official": "official: compared with the authors' code",
    "paper": "paper: the paper's formulas; the authors' code was not matched",
    "reconstruction": "reconstruction: parts are our reading, named below",
    "control": "control: no proposal of anybody",
}
"""What the words of fidelity mean."""

COST_MODEL = "resnet-scenes"


def list_methods(family: str) -> list[Method]:
    """Return the methods of a family's page: each method has one, that of the systems first."""
    found = [METHODS.get(name) for name in (*METHODS.names, *METHODS.unlisted)]
    return [one for one in found if find_family(one) == family]


def find_family(method: Method) -> str:
    """Return the family whose page holds a method."""
    return "focus" if "focus" in method.groups else method.group


def write_family_page(family: str) -> str:
    """Return the page of a family."""
    title, about = FAMILIES[family]
    methods = list_methods(family)
    caption = f"Maps of the methods of this page. {SCENE_WORDS}"
    parts = [
        f"# {title}",
        about,
        f"![{caption}](pictures/{family}.png)",
        f"*{caption}*",
        write_table(
            ("method", "fidelity", "needs gradients", "passes, head passes"),
            [list_cells(one) for one in methods],
        ),
        f"Passes are counted on `{COST_MODEL}`, beyond the pass that all methods share: forward "
        "and backward together, through the whole network, then through its head alone.",
    ]
    return "\n\n".join([*parts, *(write_method(one) for one in methods)]) + "\n"


def list_cells(method: Method) -> tuple[str, ...]:
    """Return a method's row in the table at the top of its page."""
    work = count_work(method)
    return (
        f"[`{method.name}`](#{method.base})",
        method.fidelity,
        "yes" if needs_gradients(work) else "no",
        f"{work.forwards + work.backwards:,}, {work.head_forwards + work.head_backwards:,}",
    )


def count_work(method: Method) -> Counts:
    """Return the work of a method alone on the network of the tables, beyond the shared pass."""
    return method.plan_work(_load_model())


def needs_gradients(work: Counts) -> bool:
    """Tell whether a method runs backward."""
    return work.backwards + work.head_backwards > 0


def write_method(method: Method) -> str:
    """Return the section of a method."""
    parts = [f"## `{method.name}` {{#{method.base}}}", write_docstring(method.function)]
    parts.append(write_list(list_facts(method)))
    if given := method.all_parameters:
        ranges = find_ranges(method.function)
        rows = [
            (f"`{name}`", escape(write_value(value)), escape(ranges.get(name, "")))
            for name, value in given.items()
        ]
        parts.append(write_table(("parameter", "default", "can be"), rows))
    parts.append(f"```bash\ncambench run --methods {quote(method.name)} --limit 20\n```")
    return "\n\n".join(parts)


def quote(name: str) -> str:
    """Return a method's name as a shell takes it."""
    return f'"{name}"' if set(name) & set("()[]") else name


def list_facts(method: Method) -> Iterator[str]:
    """Yield what the registry knows of a method, one sentence each."""
    if method.citation:
        yield f"Source: {escape(method.citation)}."
    yield f"Fidelity: {FIDELITY.get(method.fidelity, method.fidelity)}."
    for caveat in method.caveats:
        yield f"Note: {escape(caveat)}."
    work = count_work(method)
    yield f"Cost on `{COST_MODEL}`: {describe_work(work)}{describe_variation(method)}."
    yield f"Gradients: {'needed' if needs_gradients(work) else 'not needed'}."
    if method.class_agnostic:
        yield "It draws one map for all classes."
    if method.compared_with:
        yield f"It compares the image with: {method.compared_with}."
    if "truth" in method.needs:
        yield "It reads boxes or masks of the object."
    if not draws_on(method):
        yield "The picture lacks it: it does not fit the networks drawn there."
    groups = ", ".join(f"`{group}`" for group in method.groups if group != "seed")
    yield f"Groups: {groups}."


def describe_variation(method: Method) -> str:
    """Return why a method's cost depends on the image, where it does."""
    return f", at most, since {escape(method.why_varies)}" if method.why_varies else ""


def describe_work(work: Counts) -> str:
    """Return counts as words.

    >>> describe_work(Counts(forwards=2, head_backwards=1))
    '2 forward passes, 1 backward pass of the head'
    """
    names = {
        "forwards": ("forward pass", ""),
        "backwards": ("backward pass", ""),
        "head_forwards": ("forward pass", " of the head"),
        "head_backwards": ("backward pass", " of the head"),
    }
    counted: Mapping[str, Any] = {name: getattr(work, name) for name in names}
    words = [
        f"{number:,} {names[name][0]}{'es' if number != 1 else ''}{names[name][1]}"
        for name, number in counted.items()
        if number
    ]
    return ", ".join(words) or "nothing beyond the shared pass"


def _load_model() -> bench.Explainee:
    from docs_pages.pictures.stage import load_stage

    return load_stage().model
