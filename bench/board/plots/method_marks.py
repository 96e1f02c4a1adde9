"""How a plot marks a method: its colour is the family, its shape the fidelity.

The colours are those of Okabe and Ito (2008), which readers without red, green or blue cones tell
apart. No plot relies on colour alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.board.plots.figures import GREY, INK
from bench.board.scores import Scores

FAMILY_COLOURS = {
    "cam": "#0072B2",
    "gradient": "#D55E00",
    "perturbation": "#009E73",
    "attention": "#CC79A7",
    "external": "#56B4E9",
}
"""{group of a method: its colour}; a family that is not named here is drawn in `INK`."""

FAMILY_TITLES = {"cam": "class activation"}
"""What the legend calls a family, where that differs from the group's name."""

SHAPES = {
    "official": "o",
    "paper": "s",
    "reconstruction": "^",
    "external": "D",
    "unstated": "P",
    "control": "X",
}
"""{fidelity: marker of matplotlib}."""

SHAPE_TITLES = {
    "official": "as in the authors' code",
    "paper": "as in the paper",
    "reconstruction": "partly reconstructed",
    "external": "maps made elsewhere",
    "unstated": "fidelity not stated",
    "control": "control",
}
MARK_SIZE = 4.5


@dataclass(frozen=True)
class MethodMark:
    """The mark of a method.

    Attributes:
        family: Its group, "control" for a control.
        fidelity: A key of `SHAPES`.
    """

    family: str
    fidelity: str

    @property
    def colour(self) -> str:
        """Return the colour of the family; controls are grey."""
        return GREY if self.family == "control" else FAMILY_COLOURS.get(self.family, INK)

    @property
    def shape(self) -> str:
        """Return the marker of the fidelity."""
        return SHAPES[self.fidelity]

    @property
    def ink(self) -> str:
        """Return the colour of the method's name."""
        return "#6b6b6b" if self.family == "control" else INK


def find_marks(board: Scores, subset: str, model: str) -> dict[str, MethodMark]:
    """Return the mark of each method of a table, in the order of the table."""
    known = board.provenance["methods"]
    marks = {}
    for name, row in board.methods(subset, model).items():
        family = "control" if row["control"] else str(known.get(name, {}).get("group", ""))
        fidelity = "control" if row["control"] else str(row["fidelity"])
        marks[name] = MethodMark(family, fidelity if fidelity in SHAPES else "unstated")
    return marks


def draw_mark(
    axis: Any, x: float, y: float, mark: MethodMark, *, hollow: bool = False, colour: str = ""
) -> None:
    """Draw a method's point; `colour` takes the place of its family's."""
    tint = colour or mark.colour
    axis.plot(
        [x],
        [y],
        mark.shape,
        ms=MARK_SIZE,
        color=tint,
        mfc="white" if hollow else tint,
        mec=tint,
        mew=0.9 if hollow else 0.4,
        zorder=3,
    )


def list_family_marks(marks: Iterable[MethodMark], *, colours: bool = True) -> list[Any]:
    """Return the entries of a legend: each family (where colours mean it), then each fidelity."""
    from matplotlib.lines import Line2D

    shown = list(marks)
    known = {mark.family for mark in shown} - {"control"}
    families = [name for name in FAMILY_COLOURS if name in known]
    families += sorted(known - set(families))
    entries = [
        Line2D([], [], color=MethodMark(name, "official").colour, lw=4, label=_name_family(name))
        for name in (families if colours else ())
    ]
    present = {mark.fidelity for mark in shown}
    entries += [
        Line2D(
            [],
            [],
            ls="",
            marker=SHAPES[name],
            ms=MARK_SIZE + 1,
            color=GREY if name == "control" else INK,
            label=SHAPE_TITLES[name],
        )
        for name in SHAPES
        if name in present
    ]
    return entries


def _name_family(name: str) -> str:
    return FAMILY_TITLES.get(name, name or "family not stated")


def name_methods(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return what a plot calls each method: its name, and the method whose map is the same.

    >>> name_methods({"a": {"equal_to": ""}, "b": {"equal_to": "a"}})
    {'a': 'a', 'b': 'b = a'}
    """
    return {
        name: f"{name} = {row['equal_to']}" if row["equal_to"] else name
        for name, row in rows.items()
    }
