"""The grids of a run: its networks choose their images, and see them at n times the side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.data import Geometry, Subset
from bench.data.grids import CONFIDENCE, GridForm, GridSource, OpenGrids, close_grids, draw_grids
from bench.errors import BenchError, NotApplicable, state_assumption
from bench.models.explainee import Explainee
from bench.models.grid_networks import enlarge_model, separate_cells
from bench.run.class_match import match_classes
from bench.run.confident_images import Confidences, find_confident

ChooseGeometry = Callable[[Subset, Sequence[Explainee], str], Geometry]


class ChosenGrids(NamedTuple):
    """What a run is made of once its networks have chosen the grids.

    subset, models: as the run scores them.  notes: what was assumed, one sentence each.
    """

    subset: Subset
    models: tuple[Explainee, ...]
    notes: tuple[str, ...] = ()


def choose_grids(
    subset: Subset,
    models: Sequence[Explainee],
    choose_geometry: ChooseGeometry,
    rule: str = "own",
) -> ChosenGrids:
    """Return a run's subset and models; of open grids the chosen ones, else what was given.

    Args:
        subset: Any subset.
        models: The networks of the run, at their own size.
        choose_geometry: Finds the frame that the networks see of one image.
        rule: The protocol's `geometry`, for it.

    Raises:
        BenchError: too few images are confident, or no network can take a grid.
    """
    source = subset.source
    if not isinstance(source, OpenGrids):
        return ChosenGrids(subset, tuple(models))
    form = source.form
    fitting, notes = _fit_networks(subset.name, models, form)
    inner, told = match_classes([model for model, _ in fitting], source.inner)
    own = [model for model, _ in fitting]
    geometry = choose_geometry(inner, own, rule)
    found = find_confident(inner, own, geometry)
    if found.forwards:
        state_assumption(
            f"The networks looked at the images of {subset.name} in {found.forwards} forwards, "
            "whose results are kept for later runs."
        )
    grids = draw_grids(inner, found.confident, form)
    sentence = _describe_choice(subset, own, found, len(grids))
    if not grids or min(subset.positions) >= len(grids) * form.cells:
        raise BenchError(f"{sentence} Choose a larger subset, fewer networks, or surer ones.")
    networks = tuple(model.weights_id for model in own)
    closed = close_grids(
        subset, GridSource(inner, geometry, form, tuple(grids), networks), (sentence,)
    )
    return ChosenGrids(closed, tuple(seeing for _, seeing in fitting), (*notes, *told, sentence))


def _fit_networks(
    name: str, models: Sequence[Explainee], form: GridForm
) -> tuple[list[tuple[Explainee, Explainee]], tuple[str, ...]]:
    """Return (network, the same as it sees grids) of those that can, and why the others cannot."""
    fitting, notes = [], []
    for model in models:
        try:
            see = separate_cells if form.separate else enlarge_model
            fitting.append((model, see(model, form.side)))
        except NotApplicable as reason:
            notes.append(str(reason))
    if not fitting:
        raise BenchError(f"No network of the run can be shown {name}: {' '.join(notes)}")
    return fitting, tuple(notes)


def _describe_choice(
    subset: Subset, models: Sequence[Explainee], found: Confidences, grids: int
) -> str:
    """Write how many images are confident, and how many grids they make."""
    names = ", ".join(model.name for model in models)
    lost = f" ({found.unreadable} could not be read)" if found.unreadable else ""
    return (
        f"Of {found.looked} images{lost}, {len(found.confident)} are right with p > {CONFIDENCE} "
        f"in {names}: they make {grids} grids for {subset.name}."
    )
