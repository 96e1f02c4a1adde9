"""The digests of the bundled cards and weights: `SHA256SUMS`, which `sha256sum -c` reads too."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.file_contents import file_sha256
from bench.files import replaced_file
from bench.seals import DamagedFileError, describe_damage

SUMS = "SHA256SUMS"
"""The file of the digests, beside the cards."""

REMEDY = "install cambench again"


def check_bundled_card(card: Path) -> None:
    """Refuse a bundled card whose bytes are not the shipped ones; the card's own sha256 is of the
    weights.

    Raises:
        DamagedFileError: the card is damaged.
        BenchError: the list of digests cannot be read.
    """
    known = read_sums(card.parent)
    if card.name in known and known[card.name] != file_sha256(card):
        raise DamagedFileError(card, describe_damage(f"The bundled card {card}", REMEDY))


def read_sums(folder: Path) -> dict[str, str]:
    """Return {file name: sha256} of a folder of bundled models; {} where it has no list."""
    file = folder / SUMS
    if not file.is_file():
        return {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise BenchError(f"The list of digests {file} cannot be read; {REMEDY}.") from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def write_sums(folder: Path) -> None:
    """Write the digests of a folder's cards and weights."""
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    with replaced_file(folder / SUMS) as temporary:
        lines = [f"{file_sha256(file)}  {file.name}\n" for file in files]
        temporary.write_text("".join(lines), encoding="utf-8")
