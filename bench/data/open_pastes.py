"""Open pastes: the subset that `pasted(SUBSET)` names, before a network has chosen its items."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bench.data.manifest import NONE
from bench.data.pasted import CALIBRATING, SCORED, FramePool, Paste, PastedSource
from bench.data.subset import CALIBRATION_SHARE, Int64s, Opener, Subset, id_hash
from bench.errors import BenchError
from bench.registry import split_list
from bench.types import Sample

FORM = "pasted(SUBSET)"
"""How the expression is written. A run adds its network: pasted(SUBSET,MODEL)."""

POOL = 1000
"""Images that pastes are made of at most, and as many for the calibration part."""

VERSION = 1
"""Version of the rules that choose and compose pastes; part of the manifest's id."""


class OpenPastes:
    """The source of pastes that no network has chosen yet: only what all networks share.

    inner: the photographs.  network: the name of the only network that may choose, or "".
    """

    has_boxes = True
    has_masks = True

    def __init__(self, inner: Subset, network: str) -> None:
        self.inner, self.network = inner, network

    @property
    def num_classes(self) -> int:
        """Return the number of classes of the photographs."""
        return self.inner.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes of the photographs."""
        return self.inner.class_names

    def _refuse(self) -> NoReturn:
        raise BenchError(
            f"A network chooses the items of {name_pastes(self.inner, self.network)}, so only "
            "commands and functions that are given one take such a subset; name another."
        )

    @property
    def ids(self) -> tuple[str, ...]:
        """Raise BenchError: nobody has chosen the items yet."""
        self._refuse()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Raise BenchError: nobody has chosen the items yet."""
        self._refuse()

    @property
    def labels(self) -> Int64s:
        """Raise BenchError: nobody has chosen the items yet."""
        self._refuse()

    def read(self, position: int) -> Sample:
        """Raise BenchError: nobody has chosen the items yet."""
        self._refuse()

    def attribution(self, position: int) -> str | None:
        """Raise BenchError: nobody has chosen the items yet."""
        self._refuse()


def is_pastes(text: str) -> bool:
    """Return whether the name of a subset, or of a part of one, is written as pastes.

    >>> is_pastes("pasted(scenes-val)[:10]"), is_pastes("scenes-val")
    (True, False)
    """
    return re.fullmatch(r"\s*pasted\(.*\)(\[\d*:\d*\])?\s*", text) is not None


def name_pastes(inner: Subset, network: str) -> str:
    """Return the expression of the pastes of a subset, for one network or for any ("")."""
    return f"pasted({inner.name},{network})" if network else f"pasted({inner.name})"


def open_pastes(
    inside: str,
    is_expression: Callable[[str], bool],
    opener: Opener,
    data_root: str | Path | None,
) -> Subset:
    """Return the subset of pastes that no network has chosen yet.

    Args:
        inside: What stands between the brackets: SUBSET or SUBSET,MODEL.
        is_expression: Tells whether a text is itself an expression.
        opener: What opens the subset inside.
        data_root: Where named subsets find their files.

    Raises:
        BenchError: it is written wrongly, or the photographs have no boxes.
    """
    text, *network = [part.strip() for part in split_list(inside)]
    if not text or len(network) > 1 or not all(network):
        raise BenchError(
            f"The subset pasted({inside}) is no {FORM} and no pasted(SUBSET,MODEL); write "
            "pasted(scenes-val), say."
        )
    if is_expression(text):
        raise BenchError(
            f"The subset pasted({inside}) asks for objects of {text}; name a subset of images."
        )
    inner = opener(text, data_root=data_root)
    if not inner.has_boxes:
        raise BenchError(
            f"The images of {inner.name} have no boxes, and pasted() cuts objects out by their "
            "boxes; name a subset with boxes."
        )
    chosen = network[0] if network else ""
    name = name_pastes(inner, chosen)
    manifest = dataclasses.replace(
        inner.manifest,
        name=name,
        kind="pasted",
        title=f"Pasted objects that move the class; made of {inner.name}",
        calibration=NONE,
        explain="label",
        sha256="",
        sha256_head="",
    )
    scored, aside = range(SCORED), range(SCORED, SCORED + CALIBRATING)
    return Subset(name, manifest, OpenPastes(inner, chosen), tuple(scored), tuple(aside))


def split_pools(inner: Subset) -> tuple[Subset, Subset | None]:
    """Return the photographs for scored items, and those for the calibration part.

    The second are the subset's own calibration images. A subset without any gives those with
    sha256(image id) mod 5 == 0; None where these are all or none.
    """
    own = inner.calibration()
    if own is not None:
        return inner.limit(POOL), own.limit(POOL)
    ids = inner.source.image_ids
    aside = [p for p in inner.positions if int(id_hash(ids[p]), 16) % CALIBRATION_SHARE == 0]
    rest = [p for p in inner.positions if p not in set(aside)]
    if not aside or not rest:
        return inner.limit(POOL), None
    parts = (dataclasses.replace(inner, positions=tuple(some)) for some in (rest, aside))
    scored, calibrating = parts
    return scored.limit(POOL), calibrating.limit(POOL)


def close_pastes(
    subset: Subset,
    pools: tuple[FramePool, ...],
    pastes: tuple[tuple[Paste, ...], ...],
    network: tuple[str, str],
    found: tuple[str, ...],
) -> Subset:
    """Return a subset of open pastes with the pastes that a network has chosen.

    Args:
        subset: The open one.
        pools: The photographs of the scored items, and of the calibration part where there is one.
        pastes: Of each pool.
        network: Name and weights id of the network.
        found: What is to be said of the choice.
    """
    open_source = subset.source
    assert isinstance(open_source, OpenPastes)
    source = PastedSource(pools, pastes, network[1])
    count = len(pastes[0])
    name = name_pastes(open_source.inner, network[0])
    frame = pools[0].geometry
    content = [VERSION, pools[0].subset.manifest_id, frame.id, network[1], SCORED, CALIBRATING]
    manifest = dataclasses.replace(
        subset.manifest,
        name=name,
        classes=pools[0].subset.manifest.classes,
        geometry=type(frame)(frame.size, "none", frame.size),
        sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    )
    return dataclasses.replace(
        subset,
        name=name_part(subset.name, open_source, name),
        manifest=manifest,
        source=source,
        positions=tuple(p for p in subset.positions if p < min(count, SCORED)),
        calibrating=tuple(range(count, len(source.ids))) or None,
        found=(*subset.found, *found),
    )


def name_part(given: str, source: OpenPastes, name: str) -> str:
    """Return the name of chosen pastes; a part such as [:10] keeps its brackets."""
    return name + given.removeprefix(name_pastes(source.inner, source.network))
