"""Files that no command can use: cards, manifests, tables, plug-ins, maps, baselines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.manifest_keys import ManifestKeys
from bench.models.card_keys import CardKeys

DEEP = "[" * 100_000
LONG = "9" * 5_000

WRONG = (None, True, -1, 1e308, "x" * 300, [], {}, [[[]]], {"a": {"b": []}}, ["a\u0000b"])
"""Values of types and depths that no key of a card or manifest has throughout."""

TEXTS = (
    b"",
    b"\x00" * 64,
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    DEEP.encode(),
    b'{"a": ' + LONG.encode(),
)
"""Contents that are no card, manifest, table, board or maps."""

PLUGINS = {
    "latin": "# caf\xe9\n".encode("latin-1"),
    "cookie": "# -*- coding: latin-1 -*-\nx = 'caf\xe9'\n1 / 0\n".encode("latin-1"),
    "syntax": b"def (:\n",
    "null": b"x = 1\x00\n",
    "exit0": b"import sys\nsys.exit(0)\n",
    "exit1": b"raise SystemExit(1)\n",
    "typer": b"import typer\nraise typer.Exit(0)\n",
    "abort": b"import typer\nraise typer.Abort\n",
    "deep": b"x = " + b"(" * 5_000 + b")" * 5_000,
    "recursion": b"def f(): f()\nf()\n",
    "memory": b"raise MemoryError\n",
    "stop": b"raise StopIteration\n",
    "generator": b"raise GeneratorExit\n",
    "long": b"raise ValueError('x' * 10**6)\n",
    "lines": b"raise ValueError('a\\nTraceback\\nb\\x1b[31m')\n",
    "warning": b"import warnings\nwarnings.simplefilter('error')\nwarnings.warn('x')\n",
    "encoding": b"# -*- coding: nonsense -*-\n",
}
"""Plug-ins that fail at import."""

METHODS = {
    "complex": "trace.upsample(trace.activations.sum(1)) * 1j",
    "flat": "trace.activations.sum((1, 2, 3))",
    "tuple": "(1, 2)",
    "none": "None",
    "exit": "__import__('sys').exit(0)",
    "exit1": "__import__('sys').exit(1)",
    "typer": "(_ for _ in ()).throw(__import__('typer').Exit(0))",
    "recursion": "(lambda f: f(f))(lambda f: f(f))",
    "memory": "(_ for _ in ()).throw(MemoryError())",
    "interrupt": "(_ for _ in ()).throw(GeneratorExit())",
    "empty": "trace.images[:0, 0]",
    "text": "'map'",
    "latin": "None  # caf\xe9",
}
"""What a plug-in's method returns or does."""


@dataclass(frozen=True)
class Place:
    """A folder for nasty files; `write` numbers them."""

    root: Path

    @staticmethod
    def make(root: Path) -> Place:
        """Return a place in a new folder."""
        root.mkdir(parents=True)
        return Place(root)

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file in a folder of its own."""
        folder = self.root / f"{len([*self.root.iterdir()])}"
        folder.mkdir()
        file = folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file


Words = list[str | Path]


def CASES(place: Place) -> Iterator[Words]:  # noqa: N802 - a list that is made when it is read
    """Yield the words of a command for each nasty file."""
    yield from try_cards(place)
    yield from try_manifests(place)
    yield from try_tables(place)
    yield from try_plugins(place)
    yield from try_maps(place)
    yield from try_records(place)


def try_cards(place: Place) -> Iterator[Words]:
    """Cards with one wrong value, and files that are none."""
    good = {"file": "a.pth", "library": "timm", "arch": "resnet18"}
    texts = [json.dumps({"mine": {**good, k: v}}) for k in CardKeys.model_fields for v in WRONG]
    for content in (*TEXTS, *(text.encode() for text in texts)):
        yield ["list", "models", place.write("card.json", content)]


def try_manifests(place: Place) -> Iterator[Words]:
    """Manifests with one wrong value, and files that are none."""
    wrong = ("true", "-1", "1e308", f'"{"x" * 300}"', "[]", "{}", "[[[]]]", "1979-05-27", LONG)
    base = {"name": '"a"', "kind": '"folder"'}
    for key in ManifestKeys.model_fields:
        for value in wrong:
            table = {**base, key: value}
            text = "\n".join(f"{name} = {one}" for name, one in table.items())
            yield plan(place.write("manifest.toml", text))
    for content in (*TEXTS, b"a = " + DEEP.encode()):
        yield plan(place.write("manifest.toml", content))


def plan(subset: Path, *more: str) -> Words:
    """Return the words of a short plan of a subset."""
    return [
        *("plan", "--no-measure", "--models=resnet-scenes", "--methods=random"),
        *("--metrics=complexity", "--limit=1", "--calibration=0", f"--subset={subset}", *more),
    ]


def try_tables(place: Place) -> Iterator[Words]:
    """Tables of annotations, COCO files and parquet files."""
    head = "file,label"
    tables = [
        ",".join(f"c{n}" for n in range(1_000_000)),
        f"{head}\na.png,{LONG}",
        f"{head}\n{'a' * 300}.png,0",
        f"{head}\n/etc/passwd,0",
        f"{head}\na\x00b.png,0",
        f"{head},x0,y0,x1,y1\na.png,0,{LONG},nan,inf,x",
        f"{head},{head}\na,b,c,d",
        "\n" * 1000,
        f'{head}\n"{"a" * 200_000},0',
    ]
    for raw in (*TEXTS, *(table.encode() for table in tables)):
        yield plan(place.write("annotations.csv", raw))
    for key in ("images", "annotations", "categories"):
        for value in WRONG:
            table = {"images": [], "annotations": [], "categories": [], key: value}
            yield plan(place.write("instances.json", json.dumps(table)))
            yield plan(place.write("instances.json", json.dumps({**table, key: [value]})))
    yield from (plan(place.write("instances.json", content)) for content in TEXTS)
    yield from (plan(file) for file in write_parquets(place))


def write_parquets(place: Place) -> Iterator[Path]:
    """Write parquet files with columns of other types."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [[1], [1.5], ["a"], [None], [[1, 2]], [{"a": 1}], [b"x"], [True], [[[b"x"]]]]
    for image in columns:
        for label in columns:
            file = place.write("train.parquet", b"")
            parquet.write_table(pa.table({"image": image, "label": label}), file)
            yield file
    yield from (place.write("train.parquet", content) for content in TEXTS)


def try_plugins(place: Place) -> Iterator[Words]:
    """Plug-ins that fail at import, and methods that fail or return no maps."""
    for name, content in PLUGINS.items():
        yield ["list", "methods", f"--plugin={place.write(f'{name}.py', content)}"]
    for name, value in METHODS.items():
        source = (
            "from bench import register_method\n"
            f"@register_method('nasty_{name}')\ndef nasty_{name}(trace):\n    return {value}\n"
        )
        file = place.write(f"method_{name}.py", source.encode("latin-1"))
        yield [
            *("run", f"--plugin={file}", "--limit=1"),
            *("--models=resnet-scenes", f"--methods=nasty_{name}", "--metrics=complexity"),
            *("--calibration=0", f"--out={place.root / f'run-{name}'}"),
        ]


def try_maps(place: Place) -> Iterator[Words]:
    """Maps of other types and shapes."""
    arrays = {
        "complex": np.ones((36, 8, 8), complex),
        "flat": np.ones(36),
        "text": np.array(["a"] * 36),
        "object": np.array([{}] * 36, dtype=object),
        "empty": np.ones((0, 8, 8)),
        "one": np.ones((36, 0, 8)),
        "time": np.zeros((36, 8, 8), "datetime64[s]"),
        "record": np.zeros((36, 8, 8), [("a", float)]),
        "five": np.ones((1, 2, 3, 4, 5)),
    }
    for name, array in arrays.items():
        file = place.write(f"{name}.npy", b"")
        np.save(file, array)
        yield score(file, place)
    for content in TEXTS:
        yield score(place.write("maps.npy", content), place)
        yield score(place.write("maps.npz", content), place)


def score(file: Path, place: Place) -> Words:
    """Return the words that score a file of maps."""
    return [
        *("score", "--model=resnet-scenes", "--subset=scenes-val", "--methods=random"),
        *("--metrics=complexity", "--calibration=0", f"--out={place.root / 'scored'}", file),
    ]


def try_records(place: Place) -> Iterator[Words]:
    """Run folders and baselines that hold something else."""
    for content in TEXTS:
        for name in ("run.json", "records.parquet"):
            folder = place.write(name, content).parent
            yield ["board", folder]
            yield ["health", folder, "--stored"]
            yield ["baseline", folder, f"--out={place.root / 'baseline.parquet'}"]
            yield ["merge", folder, f"--out={place.root / 'merged'}"]
            yield ["check", folder, f"--against={place.write('base.parquet', content)}"]
