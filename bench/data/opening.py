"""Subsets by name or path: the registry, and how a manifest or somebody's own data is opened."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.data.expressions import is_expression, open_expression
from bench.data.imagenet import open_imagenet
from bench.data.inner_paths import DATA_VARIABLE as DATA_VARIABLE
from bench.data.inner_paths import ROOTS_VARIABLE, refuse_outside
from bench.data.layouts.saved_dataset import is_dataset
from bench.data.manifest import Manifest, manifest_folder
from bench.data.recognise import describe_layouts, open_by_kind, open_dataset, open_unnamed
from bench.data.scenes import open_scenes
from bench.data.subset import Subset
from bench.data.trigger_scenes import open_trigger
from bench.errors import BenchError, state_assumption, suggestions
from bench.registry import Registry
from bench.text_limits import check_text


@dataclass(frozen=True)
class SubsetEntry:
    """A named subset that is opened when asked for.

    make: data root (or None) -> Subset.  groups: names that lists may use for it.
    """

    name: str
    make: Callable[[Path | None], Subset]
    groups: tuple[str, ...] = ()


_PART = re.compile(r"(?P<name>.+)\[(?P<start>\d*):(?P<stop>\d*)\]")

SUBSETS: Registry[SubsetEntry] = Registry("subset")


def register_subset(
    name: str, groups: tuple[str, ...] = ()
) -> Callable[[Callable[[], Subset]], Callable[[], Subset]]:
    """Register a function that returns a `Subset` under a name.

    Args:
        name: Name on boards and in lists.
        groups: Other names that lists can use for it.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        BenchError: The name is taken. Later, when the subset is opened: the function returned
            something else.

    Example:
        >>> @bench.register_subset("mine")
        ... def mine():
        ...     return bench.load_subset("path/of/a/folder")
        >>> from bench.data import SUBSETS
        >>> SUBSETS.remove("mine")
    """

    def decorate(function: Callable[[], Subset]) -> Callable[[], Subset]:
        def make(_data_root: Path | None) -> Subset:
            subset = function()
            if not isinstance(subset, Subset):
                raise BenchError(
                    f"The registered subset {name} returned {type(subset).__name__}, not a Subset."
                )
            return subset

        SUBSETS.add(SubsetEntry(name, make, groups))
        return function

    return decorate


def load_subset(
    name_or_path: object, limit: int | None = None, data_root: str | Path | None = None
) -> Subset:
    """Return a subset by name or path, or of a `datasets.Dataset`.

    Args:
        name_or_path: A registered name, the path of a manifest (.toml) or of data in a layout of
            docs/data.md, or a `datasets.Dataset`. A folder's own manifest.toml is used if there is
            one. NAME[start:stop] is a part of its fixed order. grid(SUBSET,n) and di_full(SUBSET,n)
            are grids of its images; pasted(SUBSET) pastes its objects.
        limit: Take only the first items of the fixed order, at least 1; None takes all.
        data_root: Folder where named subsets find their files; None takes the environment variable
            CAMBENCH_DATA.

    Returns:
        The subset.

    Raises:
        BenchError: Name or path is unknown, or files are missing or wrong.

    Example:
        >>> len(bench.load_subset("scenes-val[:300]", limit=4))
        4
    """
    if isinstance(name_or_path, Subset) or is_dataset(name_or_path):
        subset = name_or_path if isinstance(name_or_path, Subset) else open_dataset(name_or_path)
        return subset if limit is None else subset.limit(limit)
    if not isinstance(name_or_path, (str, Path)):
        raise BenchError(
            f"A {type(name_or_path).__name__} is no subset; give a name, a datasets.Dataset, or "
            f"the path of {describe_layouts()}."
        )
    check_text("The subset", name_or_path)
    text, part = str(name_or_path), _PART.fullmatch(str(name_or_path))
    if part is not None and text not in SUBSETS and not Path(text).exists():
        whole = load_subset(part["name"], data_root=data_root)
        start, stop = (int(part[end]) if part[end] else None for end in ("start", "stop"))
        subset = whole.part(start, stop)
        return subset if limit is None else subset.limit(limit)
    given = data_root if data_root is not None else os.environ.get(DATA_VARIABLE)
    root = Path(given).expanduser() if given else None
    if is_expression(text) and not Path(text).exists():
        subset = open_expression(text, load_subset, data_root)
    elif str(name_or_path) in SUBSETS:
        subset = SUBSETS.get(str(name_or_path)).make(root)
    else:
        subset = _open_path(Path(name_or_path), root)
    subset = dataclasses.replace(subset, opener=load_subset)
    return subset if limit is None else subset.limit(limit)


def _open_path(path: Path, data_root: Path | None) -> Subset:
    if not path.exists():
        known = suggestions(str(path), SUBSETS.names)
        raise BenchError(f"There is no subset and no file or folder {str(path)!r}.{known}")
    if (path / "manifest.toml").is_file():
        path = path / "manifest.toml"
    if path.suffix == ".toml":
        return _open_manifest(path, data_root)
    return open_unnamed(path)


def _open_manifest(file: Path, data_root: Path | None) -> Subset:
    manifest = Manifest.read(file)
    root = _choose_root(manifest, file, data_root)
    _check_places(manifest, file, root, data_root)
    if manifest.kind == "scenes":
        return (open_trigger if manifest.network else open_scenes)(manifest, root)
    subset = (open_imagenet if manifest.kind == "imagenet" else open_by_kind)(manifest, root)
    # A path beside the manifest says nothing about where a named calibration subset lies.
    aside = manifest.path and not manifest.root and data_root is not None
    return dataclasses.replace(subset, data_root=data_root) if aside else subset


def _check_places(
    manifest: Manifest, file: Path, root: Path | None, data_root: Path | None
) -> None:
    """Refuse a manifest whose root or path leads out of the folders that the user has named."""
    named = [] if data_root is None else [data_root]
    if manifest.root and root is not None:
        _refuse_place(manifest.root, file.parent, named, f"The root of {file}")
    if manifest.path and root is not None:
        _refuse_place(manifest.path, root, named, f"The path of {file}")


def _refuse_place(text: str, folder: Path, named: list[Path], where: str) -> None:
    place = os.path.normpath(folder / text)
    if any(Path(place).is_relative_to(os.path.normpath(one)) for one in (folder, *named)):
        return  # a link that the user made there is the user's
    try:
        refuse_outside([Path(place)], folder, where)
    except BenchError:
        raise BenchError(
            f"{where} is {text!r}, which does not lie below {folder}; give the folder of the data "
            f"as the data root (--data-root), or name it in {ROOTS_VARIABLE}."
        ) from None


def _choose_root(manifest: Manifest, file: Path, data_root: Path | None) -> Path | None:
    """Return where a manifest's path starts: its own root, its folder, or the data root.

    The manifests that come with cambench lie apart from their files: these use the data root.
    """
    if manifest.root:
        return file.parent / manifest.root
    if not manifest.path and manifest.kind not in ("scenes", "imagenet"):
        return file.parent  # such a manifest lies beside its files
    if not manifest.path or file.parent.resolve() == manifest_folder().resolve():
        return data_root
    beside = file.parent / manifest.path
    if data_root is None or data_root.resolve() == file.parent.resolve():
        return file.parent
    if beside.exists():
        state_assumption(
            f"The path of {file} is taken from its own folder ({beside}), not from the data root "
            f"{data_root}."
        )
        return file.parent
    if (data_root / manifest.path).exists():
        state_assumption(
            f"The path of {file} is taken from the data root ({data_root / manifest.path}); there "
            f"is no {beside}."
        )
    return data_root


def _register_manifests() -> None:
    for file in sorted(manifest_folder().glob("*.toml")):
        # Only names are read here: an import of bench.data stays fast, and one bad manifest breaks
        # only itself.
        SUBSETS.add(
            SubsetEntry(
                file.stem, partial(_open_manifest, file), groups=(file.stem.partition("-")[0],)
            )
        )


_register_manifests()
