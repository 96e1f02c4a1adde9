"""Two networks of a board, or two layers of one: the same method's maps on the same items.

Each difference is first - second over the items that both scored. Two tests of
`bench.board.comparison` must show it, both in the same direction. The larger of their p values must
stay below .05 after Holm's correction over all differences that were asked for.
Networks that look at different items (pastes and grids of their own) are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bench.board.comparison import compare
from bench.board.cubes import Cube, Measure, build_cube, sample
from bench.board.method_differences import keep_common_items
from bench.board.scores import Scores, list_originals
from bench.board.significance import ALPHA, holm
from bench.board.statistics import Sampled
from bench.board.text import OVERALL, REFERENCE
from bench.data.expressions import is_expression
from bench.data.open_pastes import is_pastes
from bench.errors import BenchError, suggestions

OUTCOMES = ("better", "worse", "no difference shown")
"""What a comparison of two networks can show of the first one."""

MOST_NETWORKS = 4
"""All pairs of so many networks are compared unasked."""

LEAST_IMAGES = 2


@dataclass(frozen=True)
class NetworkDifference:
    """One value of the maps of two networks.

    Attributes:
        metric: The value; better: its better direction.
        difference: first - second; low, high: its interval.
        p: The larger p of the two tests; p_holm: after the correction over all that was asked.
        agree: Whether both tests point the same way.
        n: Items that both scored; images: of them.
        needed: Images that would show a difference of this size; infinite where none would.
    """

    metric: str
    better: str
    difference: float
    low: float
    high: float
    p: float
    agree: bool
    n: int
    images: int
    needed: float
    p_holm: float = math.nan

    @property
    def outcome(self) -> str:
        """Return "better", "worse" or "no difference shown", of the first network."""
        return name_outcome(self.difference, self.better, self.agree and self.p_holm < ALPHA)


def name_outcome(difference: float, better: str, shown: bool) -> str:
    """Return which of `OUTCOMES` a difference is.

    Args:
        difference: Of a value, first - second.
        better: The value's better direction.
        shown: Whether the tests show it.

    >>> name_outcome(-0.1, "lower", True), name_outcome(-0.1, "lower", False)
    ('better', 'no difference shown')
    """
    if not shown:
        return OUTCOMES[2]
    gain = difference if better == "higher" else -difference
    return OUTCOMES[0] if gain > 0 else OUTCOMES[1]


@dataclass(frozen=True)
class NetworkPair:
    """Two networks on one subset, and how the maps of one method differ.

    Attributes:
        subset, first, second: What is compared.
        method: Whose maps; "" where the two share none.
        differences: One for each ranked value that both have.
        reason: Why the two are not compared, or "".
    """

    subset: str
    first: str
    second: str
    method: str = ""
    differences: tuple[NetworkDifference, ...] = ()
    reason: str = ""


def choose_pairs(board: Scores) -> list[tuple[str, str, str]]:
    """Return the (subset, first, second) that are compared unasked.

    These are all pairs of at most four networks of a subset; of more networks, those of its
    originals. A fine-tuned network and its original are not among them (`bench.board.tuned`).
    """
    found = []
    for subset, models in list_networks(board).items():
        facts = board.provenance["models"]
        own = models if len(models) <= MOST_NETWORKS else list_originals(models, board.provenance)
        if len(own) <= MOST_NETWORKS:
            found += [
                (subset, first, second)
                for first, second in combinations(own, 2)
                if facts[first].get("parent") != second and facts[second].get("parent") != first
            ]
    return found


def list_networks(board: Scores) -> dict[str, list[str]]:
    """Return {subset: its networks, by name}."""
    found: dict[str, list[str]] = {}
    for subset, model in board.scopes:
        if model != OVERALL:
            found.setdefault(subset, []).append(model)
    return {subset: sorted(models) for subset, models in found.items()}


def name_pairs(board: Scores, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return all pairs of named networks, on each subset that both were scored on.

    Raises:
        BenchError: fewer than two names, an unknown one, or no subset that two of them share.
    """
    networks = list_networks(board)
    known = {model for models in networks.values() for model in models}
    for name in names:
        if name not in known:
            raise BenchError(f"No network {name!r} on this board.{suggestions(name, known)}")
    if len(set(names)) < 2:
        raise BenchError("A comparison needs two networks of the board; name another one.")
    found = [
        (subset, first, second)
        for first, second in combinations(dict.fromkeys(names), 2)
        for subset, models in networks.items()
        if first in models and second in models
    ]
    if not found:
        raise BenchError(
            f"{' and '.join(dict.fromkeys(names))} were scored on no subset in common, so they "
            "cannot be compared; run them on one."
        )
    return found


def compare_pairs_of_networks(
    board: Scores, pairs: Iterable[tuple[str, str, str]], method: str | None = None
) -> list[NetworkPair]:
    """Return how networks differ; Holm's correction is over all differences of all pairs.

    Args:
        board: The board.
        pairs: (subset, first, second) of each pair.
        method: Whose maps are compared; None: grad_cam where both have it, else the first method
            of the first network's table that both have.
    """
    found = [_compare_pair(board, *pair, method) for pair in pairs]
    differences = [one for pair in found for one in pair.differences]
    tested = [one for one in differences if not math.isnan(one.p)]
    adjusted = holm(np.array([one.p for one in tested], dtype=float))
    known = {id(one): float(p) for one, p in zip(tested, adjusted, strict=True)}
    return [
        replace(
            pair,
            differences=tuple(
                replace(one, p_holm=known.get(id(one), math.nan)) for one in pair.differences
            ),
        )
        for pair in found
    ]


def _compare_pair(
    board: Scores, subset: str, first: str, second: str, method: str | None
) -> NetworkPair:
    pair = NetworkPair(subset, first, second)
    if not _look_at_same(board, subset, first, second):
        return replace(pair, reason=f"they look at different items of {subset}")
    name = method or _choose_method(board, subset, first, second)
    if not name or not {name} <= _list_methods(board, subset, first) & _list_methods(
        board, subset, second
    ):
        return replace(pair, reason=f"they share no maps{f' of {method}' if method else ''}")
    pair = replace(pair, method=name)
    return replace(pair, differences=tuple(_find_differences(board, pair)))


def _look_at_same(board: Scores, subset: str, first: str, second: str) -> bool:
    """Return whether two networks were scored on the same items.

    Of a subset of files one may have more items than the other, and those of both are compared.
    Grids and pastes are made for networks: there items of one name are the same only where all are.
    """
    frame = board.records.frame
    rows = frame[(frame["subset"] == subset) & (frame["part"] == "eval")]
    rows = rows[rows["model"].isin([first, second])].drop_duplicates(["model", "item"])
    items = {name: set(table["item"]) for name, table in rows.groupby("model")}
    own, other = items.get(first, set()), items.get(second, set())
    made = is_expression(subset) or is_pastes(subset)
    if made and own != other:
        return False
    contents = rows[["item", "item_id"]].dropna().drop_duplicates() if "item_id" in rows else None
    changed = contents is not None and bool(contents["item"].duplicated().any())
    return bool(own & other) and not changed


def _list_methods(board: Scores, subset: str, model: str) -> set[str]:
    """Return the methods of a table that are no controls."""
    return {m for m, facts in board.methods(subset, model).items() if not facts["control"]}


def _choose_method(board: Scores, subset: str, first: str, second: str) -> str:
    """Return the method whose maps are compared, or "" where there is none."""
    both = _list_methods(board, subset, first) & _list_methods(board, subset, second)
    if REFERENCE in both:
        return REFERENCE
    return next((name for name in board.order(subset, first) if name in both), "")


def _find_differences(board: Scores, pair: NetworkPair) -> Iterator[NetworkDifference]:
    """Yield the difference of each ranked value that both networks have."""
    measures = {measure.name: measure for measure in board.measures[pair.subset]}
    second = {metric for metric, _ in board.list_ranked(pair.subset, pair.second)}
    for metric, better in board.list_ranked(pair.subset, pair.first):
        if metric in second:
            cells = place_networks(measures[metric], pair)
            if len(set(cells.images)) >= LEAST_IMAGES:
                places = [cells.methods.index(name) for name in (pair.first, pair.second)]
                yield _test_difference(board, measures[metric], better, cells, places)


def place_networks(measure: Measure, pair: NetworkPair) -> Cube:
    """Return a cube whose two columns are the two networks, on the items that both scored."""
    rows = measure.rows[measure.rows["method"] == pair.method]
    own = Measure(measure.name, measure.facts, rows[rows["model"].isin([pair.first, pair.second])])
    names = [pair.first, pair.second]
    if set(own.models) != set(names):
        nothing = np.array([], dtype=object)
        empty = np.zeros((0, 2), dtype=bool)
        return Cube(names, nothing, nothing, np.zeros((1, 0, 2)), empty, empty)
    # Networks stand where a table has methods: the tests are those of a table.
    return keep_common_items(build_cube(replace_columns(own), ["both"]))


def replace_columns(measure: Measure) -> Measure:
    """Return a measure whose methods are its networks."""
    rows = measure.rows.assign(method=measure.rows["model"], model="both")
    return Measure(measure.name, measure.facts, rows)


def _test_difference(
    board: Scores, measure: Measure, better: str, cells: Cube, places: list[int]
) -> NetworkDifference:
    """Test one value; places: the columns of the first and of the second network."""
    drawn = sample(measure, cells, board.resamples, board.seed)
    left, right = ([place] for place in places)
    gap = Sampled(
        drawn.point[left] - drawn.point[right],
        drawn.replicates[:, left] - drawn.replicates[:, right],
    )
    low, high = gap.interval()
    found = compare(measure, cells, drawn, {})
    test = found.tests.iloc[0]
    known = [float(test[name]) for name in ("p", "p_bootstrap") if not math.isnan(test[name])]
    return NetworkDifference(
        metric=measure.name,
        better=better,
        difference=float(gap.point[0]),
        low=float(low[0]),
        high=float(high[0]),
        p=max(known, default=math.nan),
        agree=bool(found.wins.any()),
        n=len(cells.items),
        images=len(set(cells.images)),
        needed=float(test["n_needed"]),
    )
