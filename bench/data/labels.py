"""Labels as files hold them become class numbers, or one sentence that names the row.

Labels are numbers where all of them are, however they are written (`3`, `3.0`, ` 3`, `3e0`, `003`).
Otherwise they are names. A name is compared without the spaces around it and in one Unicode form.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

import numpy as np

from bench.data.class_names import describe_order, imagenet_index, imagenet_wnids
from bench.errors import BenchError, suggestions

Classes = tuple[str, ...] | str
Place = Callable[[int], str]
MOST_CLASSES = 100_000
"""Beyond it a number is an id, and counting up to it would fill the memory."""
LONGEST_LABEL = 1_000
"""Most characters of a label; one of 5,000 digits is no number that Python writes."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_HELD = re.compile(r"(?:tensor|array|(?:np\.|numpy\.)?u?(?:int|float)\d*)\(([^,()]*)(?:,.*)?\)")
"""A number as Python shows it, such as tensor(3) or np.int64(3)."""
_QUOTED = re.compile(r"'(.*)'|\"(.*)\"|'([^']*)")
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_SEVERAL = re.compile(r"[\[({]\s*[\d'\"].*[\])}]|\d+(\s*[,;|/ ]\s*\d+)+", re.ASCII | re.DOTALL)
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060"))
_WIDE_SIGNS = str.maketrans("．，＋－\u2212", ".,+--")
_LIKE_MISSING = {"na", "n/a", "nan", "null", "none", "nil"}
_BOOLEANS = ("False", "True")


@dataclass(frozen=True)
class LabelReading:
    """Labels as they were read.

    Attributes:
        labels: the class number of each value.
        classes: the names by number; or "imagenet-1k".
        sentence: how they were read, e.g. "12 classes, numbers 0..11".
        cautions: sentences about what may be wrong with them.
    """

    labels: tuple[int, ...]
    classes: Classes
    sentence: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Label:
    """One value: its text, and the number that it is (None: it is a name)."""

    text: str
    number: Decimal | None


def read_labels(
    values: Sequence[Any],
    classes: Classes,
    where: str,
    place: Place | None = None,
    indexed: bool = False,
) -> LabelReading:
    """Return class numbers of the values of a label column.

    Args:
        values: numbers, booleans or texts, one for each row.
        classes: the names by number, "imagenet-1k", or () where the data says them.
        where: the file or subset, for errors.
        place: what row i is called in errors; by default "row i + 1 of WHERE".
        indexed: numbers are known to be positions in `classes`, as `datasets` stores them.

    Raises:
        BenchError: a label is missing, a list, no whole number, or not one of the classes.
    """
    place = place or (lambda i: f"row {i + 1} of {where}")
    found = [_parse_label(value, place, i) for i, value in enumerate(values)]
    if not classes and all(label.text.casefold() in ("false", "true") for label in found):
        return _read_booleans(found)
    if all(label.number is not None for label in found):
        by_name = None if indexed else _match_number_names(found, classes, where)
        return by_name or _read_numbers(found, classes, place)
    if classes:
        return _match_names(found, classes, place)
    return _collect_names(found, place)


def _parse_label(value: Any, place: Place, i: int) -> _Label:
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return _parse_text(value, place, i)
    if isinstance(value, bool):
        return _Label(_BOOLEANS[value], Decimal(int(value)))
    if value is None or (isinstance(value, float) and math.isnan(value)) or str(value) == "<NA>":
        raise BenchError(f"There is no label in {place(i)}; fill it in, or take the row out.")
    if isinstance(value, int | float | Decimal):
        if isinstance(value, int) and value.bit_length() > 1_000:
            raise BenchError(f"The label in {place(i)} is a number of thousands of digits.")
        return _Label(str(value), Decimal(value))
    return _refuse_several(value, place(i))


def _parse_text(value: str, place: Place, i: int) -> _Label:
    if len(value) > LONGEST_LABEL:
        raise BenchError(
            f"The label in {place(i)} has {len(value):,} characters; at most {LONGEST_LABEL} fit."
        )
    text = normalise_name(value)
    if not text:
        raise BenchError(f"There is no label in {place(i)}; fill it in, or take the row out.")
    number = _write_number(text)
    if _COMMA.fullmatch(number):
        raise BenchError(
            f"The label {text!r} in {place(i)} holds a comma: it is a list or a decimal comma; "
            "write one whole number in each row."
        )
    if _NUMBER.fullmatch(number):
        return _Label(text, Decimal(number))
    if _SEVERAL.fullmatch(text):
        _refuse_several(text, place(i))
    return _Label(text, None)


def _write_number(text: str) -> str:
    """Return a text with the digits of any script as 0 to 9, and without what was put around it.

    >>> _write_number("３"), _write_number("'3'"), _write_number("tensor(3)"), _write_number("cat")
    ('3', '3', '3', 'cat')
    """
    for pattern in (_QUOTED, _HELD):
        if found := pattern.fullmatch(text):
            text = next(part for part in found.groups() if part is not None).strip()
    wide = text.translate(_WIDE_SIGNS)
    return "".join(str(unicodedata.decimal(sign, sign)) for sign in wide)


def read_whole_number(text: str) -> int | None:
    """Return the whole number from 0 on that a name is, however it is written; None for others.

    >>> read_whole_number("007"), read_whole_number("1.0"), read_whole_number("1.5")
    (7, 1, None)
    """
    written = _write_number(normalise_name(text))
    number = Decimal(written) if _NUMBER.fullmatch(written) else None
    if number is None or not 0 <= number < MOST_CLASSES or number != int(number):
        return None
    return int(number)


def find_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that differ only in capitals, spaces or Unicode form, or None."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        other = seen.setdefault(normalise_name(name).casefold(), name)
        if other != name:
            return other, name
    return None


def _refuse_several(value: Any, place: str) -> NoReturn:
    """Refuse a value that holds several labels, or is none."""
    if isinstance(value, str | Sequence | np.ndarray | set):
        shown = str(value) if len(str(value)) < 40 else str(value)[:36] + " ..."
        raise BenchError(
            f"The label {shown} in {place} is a list; an item has one label, so write a row for "
            "each class that is to be explained."
        )
    raise BenchError(
        f"The label in {place} is a {type(value).__name__}; labels are whole numbers or names."
    )


def count_classes(count: int) -> str:
    """Return a number of classes in words: "1 class", "2 classes"."""
    return f"{count} class{'es' * (count != 1)}"


def normalise_name(text: str) -> str:
    """Return a name as it is compared: in Unicode form NFC, without outer and doubled spaces.

    >>> normalise_name(" tabby  cat ")
    'tabby cat'
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split())


# --- numbers
# --------------------------------------------------------------------------------------------------
def _read_booleans(found: Sequence[_Label]) -> LabelReading:
    labels = tuple(int(label.text.casefold() == "true") for label in found)
    return LabelReading(labels, _BOOLEANS, "2 classes, False is 0 and True is 1")


def _read_numbers(found: Sequence[_Label], classes: Classes, place: Place) -> LabelReading:
    labels = tuple(_read_number(label, place, i) for i, label in enumerate(found))
    low, high = min(labels), max(labels)
    if not classes:
        return _number_classes(labels)
    count = len(imagenet_wnids()) if isinstance(classes, str) else len(classes)
    if high >= count:
        counted = (
            " The labels seem to count from 1; subtract 1." if low == 1 and high == count else ""
        )
        raise BenchError(
            f"The label {high} in {place(labels.index(high))} is not one of the {count} classes "
            f"(0..{count - 1}).{counted}"
        )
    sentence = f"{count_classes(count)}, numbers {low}..{high}"
    return LabelReading(labels, classes, sentence, _mind_number_names(classes))


def _mind_number_names(classes: Classes) -> tuple[str, ...]:
    """Return what to mind about classes that are called by other numbers than their own."""
    names = () if isinstance(classes, str) else tuple(_write_number(name) for name in classes)
    odd = [i for i, name in enumerate(names) if _NUMBER.fullmatch(name) and Decimal(name) != i]
    if not odd or not all(map(_NUMBER.fullmatch, names)):
        return ()
    return (
        f"Labels are positions in the list of classes, whose names are numbers: class {odd[0]} is "
        f"called {classes[odd[0]]}. Networks count positions.",
    )


def _number_classes(labels: tuple[int, ...]) -> LabelReading:
    """Return a reading without names: as many classes as the largest number says."""
    low, high, present = min(labels), max(labels), len(set(labels))
    sentence = f"{count_classes(high + 1)}, numbers {low}..{high}"
    if present != high + 1:
        sentence += f", {present} of them with images"
    cautions: tuple[str, ...] = ()
    if low == 1 and high == present > 1:
        cautions = (
            f"No image has the label 0, and the labels are 1..{high}: they seem to count from 1. "
            "Networks count their classes from 0; if yours has "
            f"{high} classes, subtract 1 from the labels.",
        )
    return LabelReading(labels, tuple(map(str, range(high + 1))), sentence, cautions)


def _read_number(label: _Label, place: Place, i: int) -> int:
    number = label.number
    assert number is not None
    if abs(number) >= MOST_CLASSES:
        raise BenchError(
            f"The label {label.text} in {place(i)} is no class number; they count from 0 to "
            "classes - 1."
        )
    if number != int(number):
        raise BenchError(
            f"The label {label.text!r} in {place(i)} is not a whole number; classes are numbered "
            "0, 1, 2, or named."
        )
    if number < 0:
        raise BenchError(
            f"The label {label.text} in {place(i)} is negative; classes count from 0, so give the "
            "row its class or take it out."
        )
    return int(number)


def _match_number_names(
    found: Sequence[_Label], classes: Classes, where: str
) -> LabelReading | None:
    """Return the labels by name where the classes are called by numbers and only that fits.

    None: they are positions. Where both are possible and differ, that is refused.
    """
    if isinstance(classes, str) or not classes:
        return None
    index = {Decimal(name): i for i, name in enumerate(classes) if _NUMBER.fullmatch(name.strip())}
    named = [index.get(label.number) for label in found if label.number is not None]
    if any(number is None for number in named):
        return None
    if all(label.number == number for label, number in zip(found, named, strict=True)):
        return None
    if any(label.number is not None and not 0 <= label.number < len(classes) for label in found):
        labels = tuple(number for number in named if number is not None)
        return LabelReading(labels, classes, _count_names(labels, classes))
    raise BenchError(
        f"The labels of {where} are numbers, and so are the names of the classes: {found[0].text} "
        "may be the name or the position of a class; give the classes names with letters."
    )


# --- names
# --------------------------------------------------------------------------------------------------
def _match_names(found: Sequence[_Label], classes: Classes, place: Place) -> LabelReading:
    index = imagenet_index() if isinstance(classes, str) else _index_names(classes)
    labels = []
    for i, label in enumerate(found):
        if label.text not in index:
            near = suggestions(label.text, index)
            raise BenchError(
                f"The label {label.text!r} in {place(i)} is not the name of a class.{near}"
            )
        number = index[label.text]
        if number < 0:
            raise BenchError(
                f"The label {label.text!r} in {place(i)} is the name of more than one class; give "
                "the number of the class."
            )
        labels.append(number)
    return LabelReading(tuple(labels), classes, _count_names(labels, classes))


def _count_names(labels: Sequence[int], classes: Classes) -> str:
    count = len(imagenet_wnids()) if isinstance(classes, str) else len(classes)
    return f"{count_classes(count)}, labels by name, {len(set(labels))} of them with images"


def _index_names(classes: tuple[str, ...]) -> Mapping[str, int]:
    """Return {name: number}; -1 for a name that stands twice."""
    index: dict[str, int] = {}
    for number, name in enumerate(map(normalise_name, classes)):
        index[name] = -1 if name in index else number
    return index


def _collect_names(found: Sequence[_Label], place: Place) -> LabelReading:
    """Return the labels by name; the sorted names are the classes."""
    _refuse_mixture(found, place)
    names = tuple(sorted({label.text for label in found}))
    _refuse_case(names, found, place)
    _refuse_joined(names, found, place)
    index = {name: i for i, name in enumerate(names)}
    shown = " .. ".join(dict.fromkeys((names[0], names[-1])))
    sentence = f"{count_classes(len(names))} by name: {shown}"
    cautions = [*describe_order(names)]
    if odd := [name for name in names if name.casefold() in _LIKE_MISSING]:
        cautions.append(
            f"The label {', '.join(map(repr, odd))} is read as the name of a class, not as a "
            "missing label."
        )
    return LabelReading(tuple(index[label.text] for label in found), names, sentence, (*cautions,))


def _refuse_mixture(found: Sequence[_Label], place: Place) -> None:
    """Refuse a column of numbers and names: the rarer kind is named."""
    numbers = [i for i, label in enumerate(found) if label.number is not None]
    names = [i for i, label in enumerate(found) if label.number is None]
    if not numbers:
        return
    odd = numbers[0] if len(numbers) < len(names) else names[0]
    raise BenchError(
        f"The label {found[odd].text!r} in {place(odd)} is "
        f"{'a number' if odd == numbers[0] else 'neither a whole number nor the name of a class'}, "
        f"and {max(len(numbers), len(names))} of {len(found)} are "
        f"{'names' if odd == numbers[0] else 'numbers'}; write all as numbers or all as names."
    )


def _refuse_case(names: tuple[str, ...], found: Sequence[_Label], place: Place) -> None:
    """Refuse names that differ only in capitals: one class, most likely, and two by the text."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            rows = [label.text for label in found]
            raise BenchError(
                f"The labels {other!r} in {place(rows.index(other))} and {name!r} in "
                f"{place(rows.index(name))} differ only in capitals; write them alike, or list "
                "both in the manifest's classes."
            )


def _refuse_joined(names: tuple[str, ...], found: Sequence[_Label], place: Place) -> None:
    """Refuse names that are joined by a bar or semicolon, of which parts stand alone or recur."""
    known = set(names)
    joined = {name: {part.strip() for part in re.split(r"[|;]", name)} for name in names}
    uses = Counter(part for parts in joined.values() for part in parts)
    for i, label in enumerate(found):
        bars = joined[label.text]
        commas = [part.strip() for part in re.split(r"[|;,]", label.text)]
        if len(bars) > 1 and any(uses[part] > 1 for part in bars):
            _refuse_several(label.text, place(i))
        if len(commas) > 1 and all(part in known for part in commas):
            _refuse_several(label.text, place(i))
