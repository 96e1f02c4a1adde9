"""Hugging Face datasets: a folder that `save_to_disk` wrote, or a `Dataset` in Python.

Columns: `image` (or `img`), `label` (or `labels`), and boxes, `mask` and `id` as in parquet. In
place of a label a row may have `objects` with `bbox` and `category`: one item per image and
category.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.data.layouts.dataset_objects import open_objects
from bench.data.layouts.gathered import (
    SPLITS,
    Classes,
    Gathered,
    count_words,
    describe_truth,
    shorten_names,
)
from bench.data.manifest import Manifest
from bench.data.opened_files import OpenedFiles
from bench.data.parquet_table import open_rows, read_ids
from bench.errors import BenchError

_STATE, _PARTS = "state.json", "dataset_dict.json"
_IMAGE, _LABEL = "image", "label"
_OTHER_NAMES = {_IMAGE: ("img",), _LABEL: ("labels",)}
_OBJECTS = "objects"
_ROWS = 256  # read at once for the digest


def has_saved_dataset(place: Path) -> bool:
    """Tell whether `save_to_disk` wrote a folder."""
    return (place / _STATE).is_file() or (place / _PARTS).is_file()


def is_dataset(given: object) -> bool:
    """Tell whether an object is one of `datasets`' own, without importing it."""
    return type(given).__module__.partition(".")[0] == "datasets"


def gather_saved(place: Path, classes: Classes = (), manifest: Manifest | None = None) -> Gathered:
    """Return the items of a folder that `save_to_disk` wrote (see `gather_dataset`)."""
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(place))
    except Exception as error:  # datasets and pyarrow raise errors of many kinds
        raise BenchError(
            f"The folder {place} cannot be read as a saved dataset ({error})."
        ) from error
    return gather_dataset(dataset, classes, place, manifest)


def gather_dataset(
    given: Any,
    classes: Classes = (),
    place: Path | None = None,
    manifest: Manifest | None = None,
) -> Gathered:
    """Return the items of a `datasets.Dataset`, or of one part of a `DatasetDict`.

    Args:
        given: the dataset.
        classes: names by label that a manifest gives; () takes those of its features.
        place: the folder it was saved in; images must then lie inside it.
        manifest: says how boxes are written, and whether EXIF turns images.

    Raises:
        BenchError: it is streamed, a column is missing, or its values are no images or labels.
    """
    dataset, part, notes = choose_dataset_part(given)
    where = str(place) if place else "the dataset"
    dataset = _rename_columns(dataset.with_format(None), where)
    dataset = _undecode(dataset, where)
    if len(dataset) == 0:
        raise BenchError(f"{where[0].upper()}{where[1:]} has no rows; the subset is empty.")
    if place is not None:
        _check_paths(dataset, place)
    manifest = manifest or Manifest(name=where, kind="saved_dataset")
    if _LABEL in dataset.column_names:
        opened = _read_labelled(manifest, dataset, classes, where)
    else:
        opened = open_objects(manifest, dataset, read_ids(dataset)[0], classes, where)
    items, known = opened.items, opened.classes
    labels = sorted({int(label) for label in items.labels})
    shown = shorten_names([f"{i} {known[i]}" for i in labels]) if isinstance(known, tuple) else ""
    return Gathered(
        dataset=dataset,
        items=items,
        classes=known,
        what=f"{count_words(len(items.ids), 'item')} of {count_words(len(dataset), 'row')}; "
        f"labels: {shown or known}; {describe_truth(items)}",
        content=_digest_images(dataset),
        notes=notes,
        part=part,
        reading=opened.reading,
        settled=opened.manifest,
    )


def choose_dataset_part(given: Any) -> tuple[Any, str, tuple[str, ...]]:
    """Return a `Dataset`, the name of its part, and a sentence where a part was chosen."""
    import datasets

    if isinstance(given, datasets.DatasetDict):
        name = next((name for name in SPLITS if name in given), next(iter(given), ""))
        if not name:
            raise BenchError("The DatasetDict has no part; the subset is empty.")
        note = f"Of the parts {', '.join(given)} the subset is {name}; give another to take that."
        return given[name], name, (note,) if len(given) > 1 else ()
    if not isinstance(given, datasets.Dataset):
        raise BenchError(
            f"A {type(given).__name__} has no fixed order and length; load it without "
            "streaming=True, and give the datasets.Dataset."
        )
    return given, "", ()


def name_dataset(given: Any) -> str:
    """Return a name for a dataset in memory, which is also fit for a folder."""
    dataset, part, _ = choose_dataset_part(given)
    info = dataset.info
    name = getattr(info, "dataset_name", None) or info.builder_name or "dataset"
    part = part or ("" if dataset.split is None else str(dataset.split))
    return re.sub(r"[^\w.-]+", "-", f"{name}-{part}" if part else name)


def _rename_columns(dataset: Any, where: str) -> Any:
    """Return the dataset with its columns called `image` and `label`."""
    for name, others in _OTHER_NAMES.items():
        there = [other for other in others if other in dataset.column_names]
        if name not in dataset.column_names and there:
            dataset = dataset.rename_column(there[0], name)
    have = dataset.column_names
    like = [column for column in have if column.endswith("_label")]
    if _IMAGE not in have or not {_LABEL, _OBJECTS}.intersection(have):
        missing = "image" if _IMAGE not in have else "label"
        hint = f" (rename one of {', '.join(like)})" if like and missing == "label" else ""
        raise BenchError(
            f"No column {missing!r} is in {where}{hint}; its columns are {', '.join(have)}."
        )
    return dataset


def _undecode(dataset: Any, where: str) -> Any:
    """Return the dataset with its images as encoded bytes or paths."""
    from datasets import Image as ImageFeature

    feature = dataset.features[_IMAGE]
    text = getattr(feature, "dtype", "") in ("string", "large_string", "binary")
    if not isinstance(feature, ImageFeature) and not text:
        raise BenchError(
            f"The column 'image' of {where} holds {type(feature).__name__}, not encoded images; "
            "cast it with cast_column('image', datasets.Image())."
        )
    return dataset.cast_column(_IMAGE, ImageFeature(decode=False))


def _check_paths(dataset: Any, place: Path) -> None:
    """Refuse images that lie outside the folder of a saved dataset."""
    root = place.resolve()
    records = dataset.select_columns([_IMAGE]).flatten()
    for batch in records.with_format("arrow").iter(batch_size=_ROWS):
        paths, contents = batch[f"{_IMAGE}.path"], batch[f"{_IMAGE}.bytes"].is_valid()
        for path, inside in zip(paths.to_pylist(), contents.to_pylist(), strict=True):
            if path and not inside and not (root / path).resolve().is_relative_to(root):
                raise BenchError(
                    f"The saved dataset {place} names the image {path!r} outside its folder; save "
                    "it with the images in it."
                )


def _read_labelled(manifest: Manifest, dataset: Any, classes: Classes, where: str) -> OpenedFiles:
    """Return one item per row of a dataset with labels."""
    values = list(dataset[_LABEL])
    for row, value in enumerate(values):
        if value is None or isinstance(value, (list, dict)) or value == -1:
            what = "no label" if value is None or value == -1 else "several labels"
            raise BenchError(
                f"Row {row} of {where} has {what} ({value!r}); an item has one class: select the "
                "rows that have, or take another part of the data set."
            )
    begin = f"{where[0].upper()}{where[1:]}"
    return open_rows(manifest, dataset, classes, begin, where)


def _digest_images(dataset: Any) -> str:
    """Return the sha256 of the images' bytes or paths, and of masks', in the order of rows."""
    total = hashlib.sha256()
    for content in _list_contents(dataset):
        total.update(content)
    return total.hexdigest()


def _list_contents(dataset: Any) -> Iterator[bytes]:
    """Yield a digest of each encoded image and mask of a dataset."""
    columns = [name for name in (_IMAGE, "mask") if name in dataset.column_names]
    from datasets import Image as ImageFeature

    chosen = dataset.select_columns(columns)
    for column in columns:
        chosen = chosen.cast_column(column, ImageFeature(decode=False))
    for batch in chosen.iter(batch_size=_ROWS):
        for column in columns:
            for record in batch[column]:
                yield hashlib.sha256(_read_content(record)).digest()


def _read_content(record: Mapping[str, Any] | None) -> bytes:
    if not record:
        return b""
    content = record.get("bytes")
    return str(record.get("path")).encode() if content is None else bytes(content)
