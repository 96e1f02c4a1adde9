"""Who leads each value, by the test of the tables: what plots shade and state."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from bench.board.result_words import Lead, find_leads, list_names
from bench.board.scores import Scores, list_rows
from bench.board.text import interval

LEAD_NOTE = "no other method is better by the board's paired test, controls left out"
MOST_VALUES = 4
"""Values that a statement names."""


def find_value_leads(board: Scores, subset: str, model: str) -> dict[str, Lead]:
    """Return {ranked value: who leads it} of a table, in its order.

    A board of chosen methods keeps the tests of all: only its own methods are named.
    """
    there = set(board.select(subset=subset, model=model)["method"])
    found = {
        lead.metric: replace(lead, methods=tuple(m for m in lead.methods if m in there))
        for leads in find_leads(board, subset, model).values()
        for lead in leads
        if there & set(lead.methods)
    }
    ranked = [metric for metric, _ in board.list_ranked(subset, model)]
    return {metric: found[metric] for metric in ranked if metric in found}


def list_leaders(board: Scores, subset: str, model: str) -> dict[str, tuple[str, ...]]:
    """Return {ranked value: the methods that no other one is told to be better than}."""
    return {m: lead.methods for m, lead in find_value_leads(board, subset, model).items()}


def write_intervals(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return {(value, method): its mean and interval} of a table as text."""
    return {
        (row["metric"], row["method"]): interval(row["mean"], row["low"], row["high"])
        for row in list_rows(rows)
    }


def state_leaders(board: Scores, subset: str, model: str) -> str:
    """Return who leads each value, with numbers, in sentences; controls are left out."""
    leads = find_value_leads(board, subset, model)
    numbers = write_intervals(board.select(subset=subset, model=model))
    shown = list(leads.items())[:MOST_VALUES]
    sentences = [_state_lead(lead, numbers) for _, lead in shown]
    if len(leads) > MOST_VALUES:
        sentences.append(f"and {len(leads) - MOST_VALUES} more values")
    if not sentences:
        return "The images do not tell which method leads."
    return "; ".join(sentences) + "."


def _state_lead(lead: Lead, numbers: dict[tuple[str, str], str]) -> str:
    best, *others = lead.methods
    text = f"{lead.metric}: {best} leads with {numbers.get((lead.metric, best), 'n/a')}"
    if best in lead.favoured:
        text += " (favoured by construction)"
    if others:
        text += f", not told apart from {list_names(others)}"
    return text
