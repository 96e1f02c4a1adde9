"""Which records of a run folder still belong to the items of a plan: contents are compared, names
are not trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.data import Subset
from bench.records.item_table import GONE, ItemKey, ItemTable, KnownItem
from bench.records.store import Done, DoneKey, Store
from bench.run.plan import Plan
from bench.types import ItemContent

PARTS = ("eval", "calibration")


@dataclass
class StandingWork:
    """What a run folder holds of a plan.

    Args:
        everything: all that is on disk.
        done: of the plan's items as they are now, under the plan's manifest id.
        items: the content of each item that has records.
        changed: items that hold something else than when they were scored.
        gone: items that have records and are no longer scored.
    gone_parts: the part of each of these.
    """

    everything: Done
    done: Done = field(default_factory=dict)
    items: ItemTable = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    gone_parts: list[str] = field(default_factory=list)

    def count_gone(self) -> dict[str, int]:
        """Return how many items of each part were found to be gone."""
        return {part: self.gone_parts.count(part) for part in PARTS}

    def describe(self, subset: str) -> Iterator[str]:
        """Yield what a user should know before the run."""
        if self.changed:
            yield (
                f"{write_images(self.changed)} of {subset} changed since the records were made; "
                "the run computes them anew, and the earlier records go to the folder replaced."
            )
        if self.gone:
            yield (
                f"{write_images(self.gone)} left {subset} since the records were made; their "
                "records stay in the folder and do not count."
            )


def write_images(items: list[str]) -> str:
    """Return how many images, with the name of the first.

    >>> write_images(["a.jpg"]), write_images(["a.jpg", "b.jpg"])
    ('1 image (a.jpg)', '2 images (a.jpg, ...)')
    """
    more = ", ..." if len(items) > 1 else ""
    return f"{len(items)} image{'s' * (len(items) > 1)} ({items[0]}{more})"


def check_items(plan: Plan, store: Store) -> StandingWork:
    """Compare each item that has records with what it holds now.

    A file is read only where its stamp is not the one of the folder's table.
    """
    standing = StandingWork(store.read_done(), items=dict(store.read_items()))
    before = store.provenance().get("subsets", {}).get(plan.subset.name, {})
    manifest = plan.manifest_id  # a digest: not to be made for each of many records
    same = before.get("manifest_id", manifest) == manifest
    for part in PARTS:
        _check_part(plan, part, standing, same)
    for key, cells in standing.everything.items():
        if key.subset == plan.subset.name and _is_current(key, manifest, standing.items):
            own = key._replace(manifest_id=manifest, item_id="")
            standing.done.setdefault(own, set()).update(cells)
    return standing


def _check_part(plan: Plan, part: str, standing: StandingWork, same: bool) -> None:
    """Look at the recorded items of a part.

    same: the manifest is that of the records, so that items beyond the plan's limit count, too.
    """
    recorded = _list_recorded(plan.subset.name, part, standing)
    subset = _find_part(plan, part) if recorded else None
    if not recorded or (subset is not None and not subset.identifies_items):
        return
    whole = {} if subset is None else _place_items(subset, same)
    for item, contents in recorded.items():
        key = (plan.subset.name, part, item)
        known = standing.items.get(key)
        if item not in whole or subset is None:
            if known is None or known.identity:
                standing.gone.append(item)
                standing.gone_parts.append(part)
            standing.items[key] = (known or GONE)._replace(identity="", changed=True)
            continue
        content = None if known is None else ItemContent(*known[:3])
        found = subset.identify_at(whole[item], plan.geometry, content)
        assert found is not None
        before = contents if known is None else {known.identity} - {""}
        if before and found.identity not in before:
            standing.changed.append(item)
        changed = contents - {found.identity} or (known is not None and known.changed)
        standing.items[key] = KnownItem(*found, bool(changed))


def _list_recorded(name: str, part: str, standing: StandingWork) -> dict[str, set[str]]:
    """Return {item: contents that its records name} of a part, for items that name any or are in
    the table.
    """
    recorded: dict[str, set[str]] = {
        item: set() for subset, its, item in standing.items if (subset, its) == (name, part)
    }
    for key in standing.everything:
        if (key.subset, key.part) == (name, part) and key.item_id:
            recorded.setdefault(key.item, set()).add(key.item_id)
    return recorded


def _find_part(plan: Plan, part: str) -> Subset | None:
    """Return a part of a plan's subset, whole where the plan does without calibration."""
    if part == "eval":
        return plan.subset
    return plan.calibration or plan.subset.calibration()


def _place_items(subset: Subset, same: bool) -> dict[str, int]:
    """Return {item: position in the source}: of the part's items, or of all that the source has."""
    ids = subset.source.ids
    positions = range(len(ids)) if same else subset.positions
    return {ids[position]: position for position in positions}


def _is_current(key: DoneKey, manifest: str, items: ItemTable) -> bool:
    """Return whether records of a plan's subset belong to what their item holds now."""
    known = items.get((key.subset, key.part, key.item))
    if key.item_id:
        return known is not None and known.identity == key.item_id
    return key.manifest_id == manifest and not (known is not None and known.changed)


def note_content(items: ItemTable, key: ItemKey, content: ItemContent) -> bool:
    """Put what a task has read into the table; return whether the table knew something else."""
    known = items.get(key)
    other = known is not None and known.identity not in ("", content.identity)
    items[key] = KnownItem(*content, other or (known is not None and known.changed))
    return other
