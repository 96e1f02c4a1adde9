"""The result of a board in words, only from tests that the board made.

A terminal shows at most eight sentences; the page of a board has all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.board.comparison import Comparison
from bench.board.control_wins import write_control_wins
from bench.board.grid_floor import flag_floor
from bench.board.measures import CORRECT
from bench.board.network_pairs import name_outcome
from bench.board.network_words import describe_own_items, describe_pair, join_outcomes
from bench.board.scores import FAMILIES, Scores, list_originals
from bench.board.significance import ALPHA
from bench.board.text import OVERALL, REFERENCE
from bench.board.tie_groups import describe_order
from bench.board.tuned import find_pairs

MOST_SENTENCES = 8
MOST_NAMES = 3
MOST_NETWORK_SENTENCES = 3
"""... of which so many compare networks."""

CHEAPER = 2
"""A method that equals another one is named where it takes so many times fewer passes."""

PASSES = ("forwards", "backwards", "head_forwards", "head_backwards")
"""The cost values that add up to the passes of a method."""

TITLES = {"faithfulness": "Faithfulness", "localization": "Localisation"}


@dataclass(frozen=True)
class Lead:
    """Who leads one ranked value of one table.

    Attributes:
        metric: The value.
        methods: No other method is told to be better than these; the best first. No controls.
        images: How many images the value is a mean of.
        needed: Images that would separate the two best methods; None where no number would.
        favoured: Those of the methods that the value favours by its construction.
    """

    metric: str
    methods: tuple[str, ...]
    images: int
    needed: float | None
    favoured: frozenset[str] = frozenset()


def describe_result(board: Scores, *, whole: bool = False) -> list[str]:
    """Return the result of a board in words.

    Args:
        board: The board. Its comparisons of methods are used as they are.
        whole: Return every sentence.

    Returns:
        At most eight sentences, or all: controls that win, then who leads each family of values,
        what to use, how fine-tuned networks compare with their originals, and networks with each
        other.

    Example:
        >>> for sentence in describe_result(board):  # doctest: +SKIP
        ...     print(sentence)
    """
    sentences = [write_control_wins(board.frame), *flag_floor(board.frame)]
    networks = [*_compare_tuned(board), *compare_networks(board)]
    for subset, model in choose_scopes(board):
        sentences += _describe_scope(board, subset, model)
    found = [sentence for sentence in sentences if sentence]
    if whole:
        return found + networks
    few = networks[:MOST_NETWORK_SENTENCES]
    return found[: MOST_SENTENCES - len(few)] + few


def choose_scopes(board: Scores) -> list[tuple[str, str]]:
    """Return the tables that words describe: the overall one of a subset, else its original
    networks'.
    """
    scopes = []
    for subset in dict.fromkeys(subset for subset, _ in board.scopes):
        models = [model for one, model in board.scopes if one == subset]
        own = [OVERALL] if OVERALL in models else list_originals(models, board.provenance)
        scopes += [(subset, model) for model in own]
    return scopes


def find_leads(board: Scores, subset: str, model: str) -> dict[str, list[Lead]]:
    """Return {family: who leads each of its ranked values} of a table, faithfulness first."""
    rows = board.select(subset=subset, model=model)
    controls = set(rows.loc[rows["control"], "method"])
    coupled = rows[rows["coupled"]].groupby("metric")["method"].agg(frozenset).to_dict()
    families = dict(zip(rows["metric"], rows["family"], strict=True))
    found: dict[str, list[Lead]] = {}
    for metric, _ in board.list_ranked(subset, model):
        one = board.comparisons.get((subset, model, metric))
        favoured = coupled.get(metric, frozenset())
        lead = None if one is None else find_lead(metric, one, controls, favoured)
        if lead is not None:
            found.setdefault(families[metric], []).append(lead)
    return dict(sorted(found.items(), key=lambda item: (FAMILIES.get(item[0], 9), item[0])))


def find_lead(
    metric: str, one: Comparison, controls: set[str], favoured: frozenset[str] = frozenset()
) -> Lead | None:
    """Return who leads a value; None where fewer than two methods can be compared."""
    own = [place for place in one.order if one.methods[place] not in controls]
    if len(own) < 2:
        return None
    leaders = [place for place in own if not one.wins[own, place].any()]
    two = describe_order(one, controls).get("first_two", {})
    methods = tuple(one.methods[place] for place in leaders)
    return Lead(metric, methods, one.images, two.get("n_needed"), favoured & set(methods))


def _describe_scope(board: Scores, subset: str, model: str) -> Iterator[str]:
    families = find_leads(board, subset, model)
    several = len(choose_scopes(board)) > 1
    where = f" ({subset}, {model})" if several else ""
    for family, leads in families.items():
        yield describe_family(TITLES.get(family, family.capitalize()), leads) + where + "."
    leads = [lead for found in families.values() for lead in found]
    if leads:
        advice = _recommend(board, subset, model, leads)
        yield advice and advice + where + "."


def describe_family(title: str, leads: list[Lead]) -> str:
    """Return which methods no other one beats in a family of values, without a full stop.

    >>> one = Lead("deletion", ("a", "b"), 36, 120.0)
    >>> describe_family("Faithfulness", [one])
    'Faithfulness (deletion): no method beats a, b; 36 images cannot rank these, about 120 would'
    >>> two = Lead("insertion", ("c",), 36, None, frozenset("c"))
    >>> describe_family("Faithfulness", [one, two])
    'Faithfulness disagrees: deletion: a, b; insertion: c (favoured by construction)'
    """
    common = [m for m in leads[0].methods if all(m in lead.methods for lead in leads)]
    names = ", ".join(lead.metric for lead in leads)
    if not common:
        each = "; ".join(f"{lead.metric}: {name_leaders(lead)}" for lead in leads)
        return f"{title} disagrees: {each}"
    favours = [lead.metric for lead in leads if lead.favoured & set(common[:MOST_NAMES])]
    note = f"; {', '.join(favours)} favours some of these by construction" if favours else ""
    if len(common) == 1:
        return f"{title} ({names}): no method beats {common[0]}{note}"
    needed = leads[0].needed if len(leads) == 1 else None
    images = min(lead.images for lead in leads)
    enough = f", about {needed:,.0f} would" if needed and needed > images else ""
    return (
        f"{title} ({names}): no method beats {list_names(common)}; {images} images cannot rank "
        f"these{enough}{note}"
    )


def name_leaders(lead: Lead) -> str:
    """Return the leaders of a value, and whether it favours them by its construction."""
    note = " (favoured by construction)" if lead.favoured & set(lead.methods[:MOST_NAMES]) else ""
    return list_names(lead.methods) + note


def list_names(names: Iterable[str]) -> str:
    """Return at most three names, and how many more there are.

    >>> list_names(["a", "b", "c", "d"]), list_names(["a", "b"])
    ('a, b, c and 1 more', 'a, b')
    """
    known = list(names)
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return ", ".join(known[:MOST_NAMES]) + more


def _recommend(board: Scores, subset: str, model: str, leads: list[Lead]) -> str:
    """Return which method to use: it leads most values, and its places in them are the best.

    Beside it stand the cheapest method that equals it, and those that know no class. A value that
    favours a method by its construction does not count for it.
    """
    passes = count_passes(board.select(subset=subset, model=model))
    names = list(dict.fromkeys(name for lead in leads for name in lead.methods))
    hits = {
        name: sum(name in lead.methods and name not in lead.favoured for lead in leads)
        for name in names
    }
    most = max(hits.values())
    if not most:
        return ""
    best = [name for name in names if hits[name] == most]
    places = {
        name: [lead.methods.index(name) for lead in leads if name in lead.methods] for name in best
    }
    chosen = min(best, key=lambda name: (sum(places[name]) / len(places[name]), name))
    text = f"Use {chosen}: no method beats it in {most} of {len(leads)} ranked values"
    own = [lead for lead in leads if chosen in lead.methods and chosen not in lead.favoured]
    known = [n for n in best if n in passes and all(n in lead.methods for lead in own)]
    cheapest = min(known, key=lambda name: (passes[name], best.index(name)), default=chosen)
    if chosen in passes and passes[chosen] >= CHEAPER * passes[cheapest]:
        text += f"; {cheapest} equals it at 1/{passes[chosen] / passes[cheapest]:.0f} of the passes"
    blind = [name for name in best if board.provenance["methods"][name].get("class_agnostic")]
    if blind:
        text += (
            f"; {list_names(blind)} {'draw' if len(blind) > 1 else 'draws'} one map for all classes"
        )
    return text


def count_passes(rows: pd.DataFrame) -> dict[str, float]:
    """Return {method: its forwards, backwards and head replays, and the shared pass}."""
    cost = rows[rows["metric"].isin(PASSES)].groupby("method")["mean"].sum()
    return {str(method): 1 + float(value) for method, value in cost.items()}


def compare_networks(board: Any) -> Iterator[str]:
    """Yield how networks compare with each other, by the maps of one method."""
    yield from describe_own_items(dict.fromkeys(subset for subset, _ in board.scopes))
    for pair in board.networks:
        yield describe_pair(pair, board.provenance["models"])


def _compare_tuned(board: Any) -> Iterator[str]:
    """Yield how each fine-tuned network compares with its original, by the maps of one method."""
    table = board.tuned if find_pairs(board) else pd.DataFrame()
    if table.empty:
        return
    own = table[table["ranked"] & ~table["metric"].str.endswith(CORRECT)]
    for (subset, model, parent), rows in own.groupby(["subset", "model", "parent"], sort=False):
        rows = rows[(rows["method"] == rows["against"]) & rows["p_holm"].notna()]
        methods = list(rows["method"])
        if methods:
            method = REFERENCE if REFERENCE in methods else methods[0]
            rows = rows[rows["method"] == method]
            verdict = describe_change(rows.to_dict("records"))
            yield f"{model} against {parent} ({subset}, maps of {method}): {verdict}."


def describe_change(rows: list[dict[Any, Any]]) -> str:
    """Return in which values a network got better or worse, and n.

    >>> row = {"metric": "deletion", "better": "lower", "difference": -0.1, "low": -0.2}
    >>> describe_change([row | {"high": -0.05, "p_holm": 0.01, "n": 36}])
    'better in deletion (n = 36)'
    """
    found = []
    for row in rows:
        shown = row["p_holm"] < ALPHA and (row["low"] > 0 or row["high"] < 0)
        outcome = name_outcome(row["difference"], row["better"], shown)
        found.append((outcome, row["metric"], row["n"]))
    return join_outcomes(found)
