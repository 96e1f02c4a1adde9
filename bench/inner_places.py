"""Names become places inside a folder: no text that somebody chose leads out of it.

A name may come from a user, a card, a manifest, a plug-in or a stranger's run.json. Whatever it
holds, its file lies in the folder that was meant, and every system can have it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError

Key = TypeVar("Key", bound=Hashable)

LONGEST = 120
"""UTF-8 bytes of a name that is made of a text: numbers, suffixes and the ends of temporary names
are still added, and file systems allow 255.
"""

_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE
)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff]')
"""What some system does not have in a name of a file."""


def replace_signs(text: str, other: str = "_") -> str:
    """Return a text whose characters beside letters, digits, `-`, `_` and `.` are `other`."""
    return "".join(c if c.isalnum() or c in "-_." else other for c in text)


def is_portable(name: str) -> bool:
    """Tell whether every system takes a text as the name of a file, as it is.

    >>> is_portable("my model"), is_portable("a/b"), is_portable("aux.txt"), is_portable("..")
    (True, False, False, False)
    """
    return (
        bool(name.strip())
        and name[0] not in ". "
        and name[-1] not in ". "
        and not _FORBIDDEN.search(name)
        and not is_device(name)
        and len(name.encode()) <= LONGEST
    )


def tame(name: str, text: str, other: str = "_", longest: int = LONGEST) -> str:
    """Return a name without separators so that every system takes it.

    Args:
        name: made of the text; it has no separators.
        text: what it was made of, which keeps long names apart.
        other: stands for a dot at an end.
        longest: UTF-8 bytes of the name.

    >>> tame("..", ".."), tame("nul.txt", "nul.txt"), len(tame("x" * 300, "x" * 300))
    ('__', '_nul.txt', 120)
    """
    bare = name.lstrip(".")
    name = other * (len(name) - len(bare)) + bare
    bare = name.rstrip(".")
    name = bare + other * (len(name) - len(bare)) or other
    if is_device(name):
        name = other + name
    if len(name.encode()) <= longest:
        return name
    mark = f"-{hash_name(text)}"
    return cut_bytes(name, longest - len(mark)) + mark


def is_device(name: str) -> bool:
    """Tell whether Windows takes a name for a device, such as nul.txt."""
    return _DEVICES.match(name) is not None


def cut_bytes(name: str, longest: int) -> str:
    """Return the beginning of a name that takes no more UTF-8 bytes."""
    return name.encode()[:longest].decode(errors="ignore")


def hash_name(text: str) -> str:
    """Return eight hex digits that keep texts apart."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def name_file(text: str) -> str:
    """Return a name of a file for a text: itself where every system takes it, else with a hash.

    >>> name_file("mine"), name_file("../../evil")
    ('mine', '___.._evil-0fbfd372')
    """
    if is_portable(text):
        return text
    return name_part(text)


def name_part(text: str) -> str:
    """Return the beginning of a file's name for a text, another one for each text.

    >>> name_part("a_b"), name_part("a/b")
    ('a_b', 'a_b-c14cddc0')
    """
    short = tame(replace_signs(text), text, longest=LONGEST - 9)
    return short if short == text else f"{short}-{hash_name(text)}"


def name_apart(
    keys: Iterable[Key], make: Callable[[Key], str], clashes: str = "--pairs"
) -> dict[Key, str]:
    """Return a name of a file for each key; names that a system may take as one get a hash.

    Args:
        keys: what is named.
        make: returns the name of a key, of which several keys may have the same.
        clashes: an end that files of another kind have.
    """
    names = {key: make(key) for key in keys}
    counts = Counter(name.casefold() for name in names.values())
    return {
        key: f"{name}-{hash_name(repr(key))}"
        if counts[name.casefold()] > 1 or name.casefold().endswith(clashes)
        else name
        for key, name in names.items()
    }


def place_inside(folder: Path, name: str, suffix: str = "") -> Path:
    """Return the file of a name in a folder.

    Args:
        folder: where it is to lie.
        name: any text.
        suffix: of the file.
    """
    return folder / f"{name_file(name)}{suffix}"


def refuse_links(folder: Path, *parts: str) -> None:
    """Refuse a folder of a run or board that is a link: what is written there lies elsewhere.

    folder: the user has named it and may link it.  parts: names of folders in it.

    Raises:
        BenchError: one of the parts is a symbolic link.
    """
    place = folder
    for part in parts:
        place /= part
        if place.is_symlink():
            raise BenchError(
                f"The folder {place} is a link to {place.resolve()}, and files are written only "
                f"inside {folder}; remove the link."
            )
