"""Measure how tidy the code of a checkout is, and hold its laws.

    python tools/measure_house.py            print the table
    python tools/measure_house.py --check    exit 1 where a law is broken
    python tools/measure_house.py --list     also print every breach, and the names below the table

`house.py` says what an import is. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from house import House, Module, Node, find_cycles, reach

FILE_LINES, FUNCTION_LINES, LINE_LENGTH, SENTENCE_WORDS = 400, 40, 100, 25

ARROWS = (
    "ground <- data <- models <- engine <- methods, metrics",
    "engine <- records",
    "methods, metrics, records <- run <- planning",
    "methods, metrics, records <- board",
    "run, board <- gate, health",
    "methods, metrics <- finetune <- editor",
)
"""Who imports whom: `a <- b` lets b import a, and all that a may import.

The board reads of methods and metrics what they declare: versions, references, derived values. The
command line (`cli`) may import everything. finetune reads what methods and metrics give, and no
records or boards. No arrow leads from finetune or editor to a room that measures.
"""

RICH_FILES = ("board/console.py", "gate/verdict_report.py", "progress.py", "text_console.py")

PARTICIPLES = """
    told said made found known taken given kept held left laid drawn shown written built
    rebuilt sent hidden spent lost met unmet done gone seen chosen begun thrown brought
    thought shaken bound paid withdrawn answering failing looking missing probing reaching
    reading telling waiting watching
"""
"""First words of a name that are participles, beside those that end in "ed"."""

PREPOSITIONS = """
    about above after again against along alone anew around as at before below beside between
    by for in inside not of on once out over per through together too twice under until why
    with without
"""
"""First words of a name that are prepositions or adverbs; `from_x` and `to_x` are conversions."""

NO_VERBS = frozenset(PARTICIPLES.split() + PREPOSITIONS.split())
VERBS_IN_ED = {"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "succeed"}

# --- laws: each returns its breaches


def list_allowed(arrows: tuple[str, ...] = ARROWS) -> dict[str, set[str]]:
    """Return {room: the rooms that it may import}, the transitive closure of the arrows."""
    direct: dict[str, set[str]] = {}
    for arrow in arrows:
        stops = [{name.strip() for name in stop.split(",")} for stop in arrow.split("<-")]
        for tail, head in itertools.pairwise(stops):
            for room in head:
                direct.setdefault(room, set()).update(tail)
    rooms = set(direct).union(*direct.values())
    return {room: reach(direct, room) for room in rooms} | {"cli": rooms | {"cli"}}


def check_files(house: House) -> list[str]:
    """Find the files that are too long."""
    lengths = {one.path: len(one.text.splitlines()) for one in house.modules.values()}
    return [f"{path}: {count} lines" for path, count in lengths.items() if count > FILE_LINES]


def check_functions(house: House) -> list[str]:
    """Find the functions that are too long."""
    counts = (
        (m, node, m.count_lines(node)) for m in house.modules.values() for node in m.functions
    )
    return [
        f"{m.path}:{node.lineno} {node.name}: {n} lines"
        for m, node, n in counts
        if n > FUNCTION_LINES
    ]


def check_lines(house: House) -> list[str]:
    """Find the files with lines that are too long, in the package, the tests and the tools."""
    found = []
    for folder in (house.package, "tests", "tools"):
        for file in sorted((house.root / folder).rglob("*.py")):
            wide = sum(
                len(line) > LINE_LENGTH for line in file.read_text(encoding="utf-8").splitlines()
            )
            found += [f"{file.relative_to(house.root).as_posix()}: {wide} lines"] if wide else []
    return found


def check_cycles(house: House) -> list[str]:
    """Find the modules that import each other, at load time or later."""
    return [" <-> ".join(loop) for loop in find_cycles(house.edges)]


def check_arrows(house: House) -> list[str]:
    """Find the imports against the arrows, and the modules in no known room.

    Imports for type checkers count: a room knows only what lies below it.
    """
    allowed = list_allowed()
    modules = [one for name, one in house.modules.items() if name != house.package]
    found = [f"{one.path}: {one.room} is no room" for one in modules if one.room not in allowed]
    for one in modules:
        targets = house.list_targets(one, lazy=True, typed=True)
        for target in sorted(targets - {house.package}):
            room = house.modules[target].room
            if one.room in allowed and room not in allowed[one.room]:
                found.append(f"{one.path}: {one.room} imports {room} ({target})")
    return found


def check_typer(house: House) -> list[str]:
    """Find the imports of typer outside the command line."""
    return [where for where, one in list_foreign(house, "typer") if one.room != "cli"]


def check_rich(house: House) -> list[str]:
    """Find the imports of rich outside the command line and the files that print."""
    found = list_foreign(house, "rich")
    return [where for where, one in found if one.room != "cli" and one.path not in RICH_FILES]


def list_foreign(house: House, library: str) -> list[tuple[str, Module]]:
    """Return (place, module) of each import of a library."""
    pairs = [(one, i) for one in house.modules.values() for i in one.imports]
    return [(f"{one.path}:{i.line}", one) for one, i in pairs if i.name.split(".")[0] == library]


def check_lazy(house: House) -> list[str]:
    """Find the imports of own modules inside functions that spare no heavy library."""
    found = []
    for one in house.modules.values():
        for statement in (i for i in one.imports if i.lazy):
            target = house.resolve(statement.name)
            if target is not None and not house.heavy[target] - house.heavy[one.name]:
                found.append(f"{one.path}:{statement.line} imports {target}")
    return list(dict.fromkeys(found))


def check_file_names(house: House) -> list[str]:
    """Find the file names that occur twice."""
    shared = ("__init__.py", "base.py")
    paths = [one.path for one in house.modules.values() if one.room != "cli"]
    return list_repeated(
        [(path.split("/")[-1], path) for path in paths if path.split("/")[-1] not in shared]
    )


def check_class_names(house: House) -> list[str]:
    """Find the class names that occur twice, private ones included."""
    return list_repeated(
        [
            (node.name, one.path)
            for one in house.modules.values()
            for node in one.nodes
            if isinstance(node, ast.ClassDef)
        ]
    )


def list_repeated(named: list[tuple[str, str]]) -> list[str]:
    """Return the names that stand in (name, place) more than once, with their places."""
    counts = Counter(name for name, _ in named)
    return [f"{n}: {', '.join(p for m, p in named if m == n)}" for n, c in counts.items() if c > 1]


LAWS: dict[str, tuple[str, Callable[[House], list[str]]]] = {
    "files": (f"files of more than {FILE_LINES} lines", check_files),
    "functions": (f"functions of more than {FUNCTION_LINES} code lines", check_functions),
    "lines": (f"files with lines of more than {LINE_LENGTH} characters", check_lines),
    "cycles": ("import cycles, lazy imports included", check_cycles),
    "arrows": ("imports against the arrows, modules in no room", check_arrows),
    "typer": ("imports of typer outside cli/", check_typer),
    "rich": (f"imports of rich outside cli/, {', '.join(RICH_FILES)}", check_rich),
    "lazy": ("lazy imports that spare no heavy library", check_lazy),
    "file names": ("file names that occur twice or more", check_file_names),
    "class names": ("class names that occur twice or more", check_class_names),
}
"""{name: what is counted, how its breaches are found}; a law holds where there is none."""


# --- measures without a law


def list_actions(house: House) -> list[str]:
    """Return the names of the functions that ought to start with a verb.

    Left out: properties, class methods (constructors), registered methods and metrics, and Python's
    own names.
    """
    names = []
    for one in house.modules.values():
        for node in one.functions:
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            noun = any(
                re.match(r"register_|(\w+\.)?(cached_)?property$|classmethod|overload", m)
                for m in marks
            )
            if (
                not noun
                and not node.name.startswith("__")
                and not any(m.endswith(".setter") for m in marks)
            ):
                names.append(node.name)
    return names


def is_no_verb(name: str) -> bool:
    """Return whether a function's name starts with a participle, a preposition or an adverb."""
    word = name.lstrip("_").partition("_")[0]
    return word in NO_VERBS or (word.endswith("ed") and len(word) > 3 and word not in VERBS_IN_ED)


def count_arguments(node: Node) -> int:
    """Return the number of arguments without self and cls; *args and **kwargs count one each."""
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return len([one for one in every if one.arg not in ("self", "cls")])


def list_long_sentences(house: House) -> list[str]:
    """Return the sentences of public docstrings that have too many words."""
    found = []
    for one in house.modules.values():
        nodes = [n for n in one.nodes if isinstance(n, (ast.Module, ast.ClassDef, Node))]
        public = [n for n in nodes if not getattr(n, "name", "").startswith("_")]
        sentences = [s for n in public for s in split_sentences(ast.get_docstring(n) or "")]
        found += [f"{one.path}: {s}" for s in sentences if len(s.split()) > SENTENCE_WORDS]
    return found


def list_long_texts(house: House) -> list[str]:
    """Return the sentences of help and error texts that have too many words.

    What is filled into a text counts as one word.
    """
    found = []
    for one in house.modules.values():
        for text in filter(None, map(read_user_text, one.nodes)):
            long = [s for s in split_sentences(text) if len(s.split()) > SENTENCE_WORDS]
            found += [f"{one.path}: {s}" for s in long]
    return found


def read_user_text(node: ast.AST) -> str:
    """Return the help text of an option or command, or the sentence of an error; else ""."""
    value: ast.expr | None = None
    if isinstance(node, ast.keyword) and node.arg == "help":
        value = node.value
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        value = node.exc.args[0]
    parts = value.values if isinstance(value, ast.JoinedStr) else [value]
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts if part
    )


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a docstring without its examples and indented blocks."""
    kept = re.sub(r"^( *>>>.*(\n.+)*|    .*)$", "", text, flags=re.MULTILINE)
    blocks = re.split(r"\n\s*\n|^ *(?:- |[\w*, `]+: )", kept, flags=re.MULTILINE)
    return [
        s for b in blocks for s in re.split(r"(?<=[.!?])\s+(?=[^a-z])", " ".join(b.split())) if s
    ]


def measure_size(folder: Path, pattern: str = "*") -> str:
    """Return the megabytes (10^6 bytes) of the files below a folder."""
    total = sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())
    return f"{total / 1e6:.1f} MB"


def measure(house: House) -> dict[str, str]:
    """Return {what is measured: its number} for all that has no law."""
    modules = list(house.modules.values())
    functions = [(one, node) for one in modules for node in one.functions]
    lines = sorted(one.count_lines(node) for one, node in functions) or [0]
    names = list_actions(house)
    bad = sum(map(is_no_verb, names))
    share = bad / max(1, len(names))
    arguments = [(count_arguments(n), n.name) for one, n in functions if one.room != "cli"]
    readme = house.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    lazy = [i for m in modules for i in m.imports if i.lazy and house.resolve(i.name)]
    most, widest = max(arguments, default=(0, "-"))
    return {
        "files, lines": f"{len(modules)}, {sum(len(one.text.splitlines()) for one in modules)}",
        "longest file": str(max((len(one.text.splitlines()) for one in modules), default=0)),
        "functions": str(len(functions)),
        "code lines of a function: median, p90, max": f"{statistics.median(lines):g}, "
        f"{lines[int(0.9 * (len(lines) - 1))]}, {lines[-1]}",
        "lazy imports of own modules": str(len(lazy)),
        "function names that start with no verb": f"{bad} of {len(names)} ({share:.1%})",
        "most arguments outside cli": f"{most} ({widest})",
        "functions with more than 6 arguments outside cli": str(sum(n > 6 for n, _ in arguments)),
        f"sentences of public docstrings over {SENTENCE_WORDS} words": str(
            len(list_long_sentences(house))
        ),
        f"sentences of help and error texts over {SENTENCE_WORDS} words": str(
            len(list_long_texts(house))
        ),
        "README: lines, words, table rows": f"{len(text.splitlines())}, {len(text.split())}, "
        f"{sum(line.startswith('|') for line in text.splitlines())}",
        "leaderboards": measure_size(house.root / "leaderboards"),
        "bundled weights": measure_size(house.root / house.package / "models", "*.safetensors"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 where a law is broken and `--check` is given."""
    parser = argparse.ArgumentParser(description="Measure how tidy the code is, and hold its laws.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--check", action="store_true", help="exit 1 where a law is broken")
    parser.add_argument("--list", action="store_true", help="print every breach and name")
    options = parser.parse_args(arguments)
    house = House.read(options.root)
    breaches = {name: check(house) for name, (_, check) in LAWS.items()}
    for name, found in breaches.items():
        print(f"{'broken' if found else 'holds':<7}  {len(found):>6}  {LAWS[name][0]}")
        print("".join(f"{'':17}  {one}\n" for one in found) if options.list else "", end="")
    for title, value in measure(house).items():
        print(f"         {value:>6}  {title}")
    if options.list:
        counted = Counter(filter(is_no_verb, list_actions(house)))
        print(
            "no verb:", ", ".join(f"{n} x{c}" if c > 1 else n for n, c in sorted(counted.items()))
        )
        print("\n".join([*list_long_sentences(house), *list_long_texts(house)]))
    return int(options.check and any(breaches.values()))


if __name__ == "__main__":
    sys.exit(main())
