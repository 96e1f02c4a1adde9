"""The keys of a model card: what each means, and the checks of their values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, suggestions
from bench.schema import Keys, check_table, describe_key, parse_json
from bench.size_limits import check_text_size

EXAMPLE = {
    "file": "mine.pth",
    "library": "timm",
    "arch": "resnet18",
    "kwargs": {"num_classes": 12},
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "size": 224,
}
"""An entry of a card, for messages and the docs."""

LARGEST_STD = 2.0  # a std of 1 leaves pixels as they are; those of 0..255 are 50 and more
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_NUMBERS = "a list of numbers, one per input channel"
_RECORD = "any"
_COMPUTED = {"kwargs", "mean", "std", "size", "wrap", "top1", "top1_parent", "parameters"}


def _record(about: str) -> Any:
    """Return a key that says how a model came to be; nothing is computed from it."""
    return describe_key(None, _RECORD, about)


class CardKeys(Keys):
    """The keys of a card's entry."""

    file: str = describe_key(
        ..., 'text, such as "mine.pth"', "weights file, relative to the card's folder"
    )
    library: str = describe_key(
        ...,
        'text, such as "timm"',
        "what builds the network: timm, torchvision, transformers, cambench",
    )
    arch: str = describe_key(
        ..., 'text, such as "resnet18"', "name of the architecture in that library"
    )
    kwargs: dict[str, Any] = describe_key(
        {}, "a table of arguments", "arguments of the architecture, such as `num_classes`"
    )
    mean: list[float] | None = describe_key(
        None, _NUMBERS, "of the normalisation, for pixels in 0..1; else the library's own"
    )
    std: list[float] | None = describe_key(
        None, _NUMBERS, "of the normalisation, for pixels in 0..1; else the library's own"
    )
    size: int | float | str | list[int] | None = describe_key(
        None,
        "a whole number of pixels, or [height, width]",
        "of the input: its side, or height and width; else the library's own",
    )
    layer: str | None = describe_key(
        None, "the name of a module", "explained layer; else it is found"
    )
    sha256: str | None = describe_key(
        None, "64 hex digits", "of the weights file, which is checked against it"
    )
    parent: str = describe_key("", "text", "model that this one was made from")
    wrap: dict[str, Any] | None = describe_key(
        None, "a table with kind and its arguments", "trained part around the network: abn, ..."
    )
    notes: Any = _record("anything for a reader")
    licence: Any = _record("of the weights")
    parameters: Any = _record("how many the network has")
    top1: Any = _record("accuracy in percent")
    top1_parent: Any = _record("accuracy of the parent in percent")
    top1_subset: Any = _record("images of the accuracy")
    published_top1: Any = _record("accuracy that others published")
    attention_top1: Any = _record("accuracy of the attention branch in percent")
    command: Any = _record("command line of the training")
    data: Any = _record("training images")
    epoch: Any = _record("epoch that was kept")
    recipe: Any = _record("settings of the training")
    masks: Any = _record("channels that a training held down")
    maps: Any = _record("attention maps that a training read")
    held_out: Any = _record("what the training changed on held-out images: before, after")
    agreement: Any = _record("of attention with those maps")
    simulated: Any = _record("whether the maps were simulated")
    pattern: Any = _record("class that a pattern decides, and in percent how surely")
    parent_sha256: Any = _record("fingerprint of the parent")
    sister_of: Any = _record("fingerprint of the parent, of which this is a sister")
    top1_half_masked: Any = _record("accuracy of a sister with half of each image masked")
    parent_agreement: Any = _record("whole images of which a sister and its parent say the same")
    torch: Any = _record("version of the training")


def read_card(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a card file: {name: {file, library, arch, kwargs, mean, std, sha256,
    ...}}.
    """
    check_text_size(path, "The card file")
    try:
        card = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_refuse_twice)
    except (FileNotFoundError, IsADirectoryError):
        raise BenchError(f"There is no card file {path}; check the path.") from None
    except OSError as error:
        raise BenchError(f"The card file {path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise BenchError(f"The card file {path} is not valid JSON ({error}).") from None
    if isinstance(card, dict) and {"file", "library", "arch"} & card.keys():
        raise BenchError(
            f'The card file {path} is an entry without a name; write {{"mine": {{...}}}} around it.'
        )
    if not isinstance(card, dict) or not all(isinstance(e, dict) for e in card.values()):
        raise BenchError(
            f"The card file {path} must be an object of entries, such as {describe_example()}."
        )
    if not card:
        raise BenchError(f"The card file {path} has no entry; add {describe_example()}.")
    return card


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object, each key once: the last would win in silence."""
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return table


def describe_example(file: str = "mine.pth") -> str:
    """Return an example of a card as JSON, in one line."""
    return json.dumps({"mine": EXAMPLE | {"file": file}})


def check_entry(facts: dict[str, Any], where: str) -> CardKeys:
    """Return the keys of a card's entry.

    Args:
        facts: the entry, as it was read.
        where: FILE#ENTRY.

    Raises:
        BenchError: an unknown key, a wrong type, a value that cannot be meant.
    """
    where = f"The entry {where}"
    for name in sorted(_COMPUTED & facts.keys()):
        if not _is_finite(facts[name]):
            raise BenchError(
                f"{where} has {name} = {str(facts[name])[:70]}, in which a number is NaN or "
                "infinite; write the number."
            )
    keys = check_table(CardKeys, facts, where)
    if keys.sha256 is not None and not _SHA256.fullmatch(keys.sha256):
        raise BenchError(
            f"{where} has sha256 = {keys.sha256[:70]!r}; it must be the 64 hex digits that "
            "sha256sum prints for the file."
        )
    for name in ("pretrained", "weights", "checkpoint_path"):
        if name in keys.kwargs:
            raise BenchError(
                f"{where} has {name} in its kwargs; leave it out, since the weights come from its "
                "file."
            )
    if keys.wrap is not None and "kind" not in keys.wrap:
        raise BenchError(f"{where} has a wrap without kind; add one, such as abn.")
    check_normalisation(keys.mean, keys.std, where)
    return keys


def _is_finite(value: Any, depth: int = 20) -> bool:
    """Tell whether all numbers in a value of JSON are finite; what is nested too deeply is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, (dict, list))
    return not nested or (depth > 0 and all(_is_finite(part, depth - 1) for part in parts))


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, where: str
) -> None:
    """Refuse a mean or std that cannot be of pixels in 0..1; None is not stated.

    where: names the place at the start of a sentence.
    """
    for name, values, low, high in (("mean", mean, 0, 1), ("std", std, 0, LARGEST_STD)):
        if values is None:
            continue
        if len(values) == 0:
            raise BenchError(f"{where} has an empty {name}; give a number per input channel.")
        if not all(low <= value for value in values) or (name == "std" and min(values) <= 0):
            raise BenchError(
                f"{where} has {name} = {list(values)}; the values of pixels in 0..1 "
                f"{'are positive' if name == 'std' else 'are not negative'}."
            )
        if max(values) > high:
            raise BenchError(
                f"{where} has {name} = {list(values)}, which is of pixels in 0..255; cambench "
                f"has pixels in 0..1, so divide mean and std by 255."
            )


def check_layer(layer: str | None, modules: Iterable[str], where: str) -> None:
    """Refuse a layer that the network does not have; None is found."""
    names = [name for name in modules if name]
    if layer is not None and layer not in names:
        raise BenchError(
            f"{where} has layer = {layer!r}, which the network does not have."
            f"{suggestions(layer, names)}"
        )
