"""Files of weights: what a file is by its content, and how its tensors are read without running
code.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickletools
import re
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from bench.errors import BenchError, take_first_line
from bench.file_contents import file_sha256
from bench.size_limits import check_unpacked

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar", ".pkl", ".th")
"""How files of weights are usually called; what a file is, its content says."""

SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch.save wrote before 1.6
_WORDS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights; run git lfs pull",
    b"<": "is a web page or XML, not weights; download the file itself",
    b"\x89HDF": "is an HDF5 file (Keras); export the tensors as .safetensors or with torch.save",
    b"{": "is JSON, not weights; name the file that holds the tensors",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
}
"""What other files begin with, and what to do."""


def is_weights_name(text: str) -> bool:
    """Return whether a text is named as files of weights are."""
    return Path(text).suffix.lower() in SUFFIXES


def read_checkpoint(path: Path, name: str, sha256: str | None = None) -> Any:
    """Return what a file of weights holds, on the CPU; no code of the file runs.

    Args:
        path: the file.
        name: the model that it is for.
        sha256: what the file's digest must be; None where nothing is known.

    Raises:
        BenchError: the file is missing, is something else, is damaged, or holds Python objects.
    """
    if path.is_dir():
        raise BenchError(
            f"The weights {path} of {name} are a folder; name the file in it that holds the "
            "tensors, such as model.safetensors."
        )
    if not path.is_file():
        raise BenchError(f"There is no weights file {path} for {name}; check the path.")
    kind = find_kind(path)
    if sha256 is not None and file_sha256(path) != sha256.lower():
        raise BenchError(
            f"The weights file {path} is not the one its card names (sha256 differs); take that "
            "file, or write the sha256 of this one into the card."
        )
    return _read_safetensors(path) if kind == SAFETENSORS else _read_pickled(path, kind)


def find_kind(path: Path) -> str:
    """Return what a file is by its first bytes: "safetensors", "zip" or "pickle" of torch.save."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise BenchError(
            f"The weights file {path} cannot be read ({error.strerror}); check its permissions."
        ) from None
    if not head:
        raise BenchError(f"The weights file {path} is empty; copy or download it again.")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if head[:1] == b"\x80" and head[1] in range(2, 6):
        return PICKLE
    for first, words in _WORDS.items():
        if head.lstrip().startswith(first):
            raise BenchError(f"The weights file {path} {words}.")
    raise BenchError(
        f"The weights file {path} cannot be read: it is neither a .safetensors file nor one of "
        "torch.save; save model.state_dict()."
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except Exception as error:  # safetensors has its own class of errors
        raise BenchError(_describe_damage(path, error)) from error
    return tensors


def _read_pickled(path: Path, kind: str) -> Any:
    """Return the content of a file of torch.save, through weights_only=True.

    timm's reader is not used: old versions of timm and torch together unpickle without
    weights_only where a file raises TypeError.
    """
    names = _list_classes(path, kind)
    try:
        # An open file: of a path, new versions of torch believe the suffix.
        with _allow_plain_data(), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip errors alike
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise BenchError(_describe_damage(path, error)) from error
        raise BenchError(_describe_objects(path, refused[1], names)) from error


def _describe_damage(path: Path, error: Exception) -> str:
    if "Unsupported operand" in str(error):
        return (
            f"The weights file {path} cannot be read: it was written with a pickle protocol that "
            "torch reads only by running code; save torch.save(model.state_dict(), PATH)."
        )
    return (
        f"The weights file {path} cannot be read: it is damaged or cut short at "
        f"{path.stat().st_size:,} bytes ({take_first_line(error)}); copy or download it again."
    )


def _describe_objects(path: Path, refused: str, names: list[str]) -> str:
    """Return why a file with Python objects is not read; names: its classes and functions."""
    if any(name.startswith("torch.nn.modules.") for name in names):
        return (
            f"The weights file {path} cannot be read without running code: it holds a pickled "
            f"network ({refused}); load it where you trust it and save model.state_dict()."
        )
    return (
        f"The weights file {path} cannot be read without running code: it holds Python objects "
        f"beside its tensors ({refused}); load it where you trust it and save its state dict "
        'alone, torch.save(checkpoint["state_dict"], "weights.pth").'
    )


# --- what a pickle names


def _list_classes(path: Path, kind: str) -> list[str]:
    """Return the classes and functions that a file of torch.save names, in their order.

    Raises BenchError for a pickle or a zip archive that torch.save did not write.
    """
    try:
        if kind == ZIP:
            return list(_scan_archive(path))
        with path.open("rb") as file:
            if next(_scan(file), (None, None))[1] != _MAGIC:
                raise BenchError(
                    f"The weights file {path} cannot be read: it is a plain pickle; save the "
                    "tensors with torch.save(model.state_dict(), PATH)."
                )
            # magic number, protocol, machine, then the object
            file.seek(0)
            return [str(name) for _ in range(4) for what, name in _scan(file) if what == "class"]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, IndexError) as error:
        raise BenchError(_describe_damage(path, error)) from error


def _scan_archive(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        unpacked = sum(one.file_size for one in archive.infolist())
        check_unpacked(path, unpacked, "The weights file")  # torch.save packs nothing
        if any(name.endswith("/constants.pkl") for name in names):
            raise BenchError(
                f"The weights file {path} is a TorchScript program (torch.jit.save); save the "
                "original module's state_dict()."
            )
        objects = [name for name in names if name.endswith("/data.pkl")]
        if len(objects) != 1:
            raise BenchError(
                f"The weights file {path} is a zip archive without the data of torch.save; unpack "
                "it, or save model.state_dict()."
            )
        with archive.open(objects[0]) as file:
            yield from (str(name) for what, name in _scan(file) if what == "class")


def _scan(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield ("class", module.name) and ("value", number) of the next pickle of a file."""
    texts: list[str] = []
    stream: BinaryIO = file
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "GLOBAL":
            yield "class", str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
            yield "class", ".".join(texts[-2:])
        elif isinstance(argument, str):
            texts.append(argument)
        elif isinstance(argument, int) and operation.name.startswith("LONG"):
            yield "value", argument


def _allow_plain_data() -> AbstractContextManager[None]:
    """Let torch.load read what trainers store beside the tensors: arguments, numbers, paths, times.

    These classes hold data and run nothing. torch before 2.6 cannot name them and refuses them.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        return nullcontext()
    core = np._core if hasattr(np, "_core") else np.core
    scalars = {type(np.dtype(code)) for code in "?bhilqBHILQefdSU"}
    plain = (argparse.Namespace, collections.defaultdict, datetime.datetime, datetime.timedelta)
    named = [
        (core.multiarray.scalar, f"numpy.{package}.multiarray.scalar")
        for package in ("core", "_core")
    ]
    # A path of another system cannot be made here; what it would do to files it never does.
    pure = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    named += [
        (kind, f"{module}.{name}")
        for name, kind in pure.items()
        for module in ("pathlib", "pathlib._local")
    ]
    allowed: Any = [*plain, *scalars, np.dtype, dict, list, int, float, str, *named]
    context: AbstractContextManager[None] = torch.serialization.safe_globals(allowed)
    return context
