"""The pastes of a run: its network chooses which objects, pasted into which images, are items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data import Geometry, Subset
from bench.data.grids import CONFIDENCE
from bench.data.open_pastes import VERSION, OpenPastes, close_pastes, split_pools
from bench.data.pasted import CALIBRATING, LEAST_SHARE, MOST_SHARE, FramePool, Paste
from bench.engine.prober import Prober
from bench.errors import BenchError, state_assumption
from bench.files import cache_folder
from bench.identity import digest
from bench.models.explainee import Explainee
from bench.run.class_match import match_classes
from bench.run.confident_images import find_confident
from bench.run.paste_search import CONTROL, OWN_SIZE, RISE, SCALED, USES, PasteSearch

ChooseGeometry = Callable[[Subset, Sequence[Explainee]], Geometry]

PROBE = 100
"""Rescaled pastes by which it is decided whether boxes keep their size."""
FEW = 0.05
"""... which they do where a smaller share of these succeeds."""


def choose_pastes(
    subset: Subset,
    models: Sequence[Explainee],
    choose_geometry: ChooseGeometry,
    calibration: int = CALIBRATING,
) -> Subset:
    """Return a run's subset; of open pastes those that its network has chosen.

    Args:
        subset: Any subset.
        models: The networks of the run.
        choose_geometry: Finds the frame that the network sees of a photograph.
        calibration: Items that choose box thresholds; at most `CALIBRATING` are made.

    Raises:
        BenchError: the run has several networks, no paste moves the class, or too few do.
    """
    source = subset.source
    if not isinstance(source, OpenPastes):
        return subset
    model = _require_network(subset.name, source, models)
    inner, notes = match_classes(models, source.inner)
    geometry = choose_geometry(inner, models)
    choice = _Choice(subset.name, model, geometry)
    pools = split_pools(inner)
    frames = FramePool(pools[0], geometry)
    scored, size = choice.choose(frames, max(subset.positions) + 1, "--limit")
    every, pastes, found = [frames], [scored], [choice.sentence]
    wanted = min(calibration, CALIBRATING)
    if wanted and pools[1] is not None:
        every.append(FramePool(pools[1], geometry))
        pastes.append(choice.choose(every[1], wanted, "--calibration", size)[0])
        found.append(f"Calibration: {choice.sentence}")
    if choice.forwards:
        state_assumption(
            f"{model.name} chose the items of {subset.name} in {choice.forwards:,} forwards, "
            "whose results are kept for later runs."
        )
    names = (model.name, model.weights_id)
    return close_pastes(subset, tuple(every), tuple(map(tuple, pastes)), names, (*notes, *found))


def _require_network(name: str, source: OpenPastes, models: Sequence[Explainee]) -> Explainee:
    """Return the only network of a run, which the pastes are for."""
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise BenchError(
            f"Each network has items of its own in {name}, and the run has {names}; run them "
            "apart, one network each, into the same folder."
        )
    if source.network and source.network != models[0].name:
        raise BenchError(
            f"The items of {name} are for {source.network}, and the run has {models[0].name}; "
            f"name pasted({source.inner.name})."
        )
    return models[0]


@dataclass
class _Choice:
    """The choice of one network.

    Attributes:
        name: of the subset.  model, geometry: the network and its frame.
        forwards: of this process.  sentence: on the last search.
    """

    name: str
    model: Explainee
    geometry: Geometry
    forwards: int = 0
    sentence: str = ""

    def choose(
        self, pool: FramePool, wanted: int, option: str, size: str | None = None
    ) -> tuple[list[Paste], str]:
        """Return the pastes of a pool, and how boxes are sized; fewer than wanted are refused.

        option: the one that asks for fewer.  size: None decides it by the first pastes.
        """
        search = self._search(pool, size or SCALED, wanted, PROBE if size is None else 0)
        if size is None and search.state.rate < FEW:
            search = self._search(pool, OWN_SIZE, wanted, 0)
        self._describe(search)
        self._require(search, wanted, option)
        return search.state.kept, search.size

    def _search(self, pool: FramePool, size: str, wanted: int, least: int) -> PasteSearch:
        """Return a search that has what is wanted, or can find no more."""
        prober = Prober(self.model)
        search = PasteSearch(prober, pool, self._locate(pool, size), size)
        if search.is_done(wanted, least):
            return search
        found = find_confident(pool.subset, [self.model], self.geometry)
        places = {position: i for i, position in enumerate(pool.subset.positions)}
        search.begin([places[position] for position in found.confident])
        search.run(wanted, least)
        self.forwards += found.forwards + prober.counts.forwards
        return search

    def _locate(self, pool: FramePool, size: str) -> Path:
        """Return where the search in a pool is kept: by network, frame, rules and content."""
        subset, rows = pool.subset, range(len(pool.subset))
        contents = [subset.identify(i, self.geometry) for i in rows]
        identities = [None if one is None else one.identity for one in contents]
        rules = [VERSION, size, CONFIDENCE, RISE, CONTROL, USES, LEAST_SHARE, MOST_SHARE]
        key = [rules, self.model.weights_id, subset.manifest_id, self.geometry.id, subset.ids]
        return cache_folder() / "pastes" / f"{digest([*key, identities])}.json"

    def _describe(self, search: PasteSearch) -> None:
        state = search.state
        sized = (
            f"rescaled to {LEAST_SHARE:.0%} to {MOST_SHARE:.0%} of the frame"
            if search.size == SCALED
            else f"in their own size, since under {FEW:.0%} of rescaled ones succeed"
        )
        self.sentence = (
            f"Of {state.looked} images, {self.model.name} is right with p > {CONFIDENCE} in "
            f"{state.sure}, of which {state.usable} have one box that can be pasted; "
            f"{state.tried:,} pastes were tried ({sized}), {state.succeeded:,} of them succeed "
            f"({state.rate:.1%})."
        )

    def _require(self, search: PasteSearch, wanted: int, option: str) -> None:
        """Refuse a search that found too few."""
        kept = len(search.state.kept)
        if kept >= wanted:
            return
        if not kept:
            raise BenchError(
                f"No paste moves the class in {self.name} enough (by more than {RISE}, and the "
                f"control under {CONTROL}): {self.sentence} Choose a surer network or more images."
            )
        raise BenchError(
            f"Too few pastes move the class in {self.name}, {kept} of {wanted}: {self.sentence} "
            f"Give {option} {kept}, or choose more images."
        )
