"""Read the modules of a checkout and the graph of their imports.

An edge of the graph goes from a module to the module that an import statement names. Imports
inside functions count. Imports below `if TYPE_CHECKING:` do not: only arrows between rooms count
them. `from bench.data import X` names the submodule `bench.data.X` where there is one, else the
package `bench.data`, which stands for its `__init__.py`. `from bench import X` names the module
where `_HOMES` of `bench/__init__.py` says that X lives; `_HOMES` itself gives no edge.

Python also runs the `__init__.py` of every package above a module. The graph leaves such edges out:
a package that imports its own modules would close a cycle with each of them. They count in
`House.heavy`, which lists the libraries that an import loads. What importlib loads by a string is
no edge.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

GROUND = frozenset(
    {"errors", "types", "files", "protocol", "registry", "plugins", "identity"}
    | {
        "file_moves",
        "randomness",
        "version",
        "work_stages",
        "progress",
        "json_state",
        "plain_streams",
        "field_text",
        "protocol_checks",
        "protocol_view",
        "ranges",
        "text_limits",
        "inner_places",
        "plain_figures",
        "plain_text",
        "size_limits",
        "toml_file",
        "text_console",
        "source_walk",
        "function_source",
        "schema",
        "file_contents",
        "file_errors",
        "folder_owner",
        "leftovers",
        "sealed_parquet",
        "seals",
    }
)
"""The modules directly below the package that every room may import."""

HEAVY = frozenset(
    {"torch", "torchvision", "timm", "captum", "datasets", "ray", "matplotlib", "seaborn", "scipy"}
    | {
        "numpy",
        "pyarrow",
        "pandas",
        "sklearn",
        "cv2",
        "starlette",
        "uvicorn",
        "statsmodels",
    }
)
"""Libraries that take long to import: only they justify an import inside a function."""

Node = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """An import statement of `name`, a dotted module, or a module and a name in it.

    lazy: it stands inside a function. typed: it stands below `if TYPE_CHECKING:`, and never runs.
    """

    name: str
    line: int
    lazy: bool
    typed: bool = False


@dataclass(frozen=True)
class Module:
    """A file: its dotted name, its path below the package with slashes, and its text."""

    name: str
    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """Return the first part of the path; "ground" for the modules that all rooms may import."""
        part = self.path.partition("/")[0].removesuffix(".py")
        return {"__main__": "cli"}.get(part, "ground" if part in GROUND else part)

    @functools.cached_property
    def statements(self) -> list[Import]:
        """Return all imports, with absolute names."""
        return list(find_imports(self.tree, self.name, self.path.endswith("__init__.py")))

    @functools.cached_property
    def imports(self) -> list[Import]:
        """Return the imports that run."""
        return [one for one in self.statements if not one.typed]

    @functools.cached_property
    def code_lines(self) -> set[int]:
        """Return the numbers of the lines that hold code: no docstring, comment or blank line."""
        skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT}
        skipped |= {tokenize.DEDENT, tokenize.ENDMARKER}
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in skipped:
                lines.update(range(token.start[0], token.end[0] + 1))
        for string in find_docstrings(self.nodes):
            lines.difference_update(range(string.lineno, (string.end_lineno or 0) + 1))
        return lines

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """Return all nodes of the syntax tree."""
        return list(ast.walk(self.tree))

    @functools.cached_property
    def functions(self) -> list[Node]:
        """Return all functions, those of classes and of functions included."""
        return [node for node in self.nodes if isinstance(node, Node)]

    def count_lines(self, function: Node) -> int:
        """Return the code lines of a function; of its body alone in the command line's room."""
        start = function.body[0].lineno if self.room == "cli" else function.lineno
        return len(self.code_lines & set(range(start, (function.end_lineno or 0) + 1)))


@dataclass(frozen=True)
class House:
    """A checkout: the folder that holds the package, and the package's modules by name."""

    root: Path
    package: str
    modules: dict[str, Module]

    @classmethod
    def read(cls, root: Path, package: str = "bench") -> House:
        """Read all modules of a package below `root`."""
        modules = {}
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            path = file.relative_to(root / package).as_posix()
            modules[name] = Module(name, path, file.read_text(encoding="utf-8"))
        return cls(root, package, modules)

    def resolve(self, name: str) -> str | None:
        """Return the own module that an imported name means; None for a foreign one."""
        name = self.homes.get(name, name)
        while name:
            if name in self.modules:
                return name
            name = name.rpartition(".")[0]
        return None

    @functools.cached_property
    def homes(self) -> dict[str, str]:
        """Return {public name: module where it lives}, from `_HOMES` of the package."""
        body = self.modules[self.package].tree.body if self.package in self.modules else []
        values = [
            n.value
            for n in body
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_HOMES"
        ]
        found = ast.literal_eval(values[0]) if values else {}
        return {f"{self.package}.{name}": home for name, home in found.items()}

    @functools.cached_property
    def edges(self) -> dict[str, set[str]]:
        """Return {module: the modules that it imports at any time}."""
        return {name: self.list_targets(one, lazy=True) for name, one in self.modules.items()}

    def list_targets(self, module: Module, *, lazy: bool, typed: bool = False) -> set[str]:
        """Return the own modules that a module imports.

        lazy: imports inside functions count too; else only what runs when the module is loaded.
        typed: imports for type checkers count too.
        """
        statements = module.statements if typed else module.imports
        found = {self.resolve(one.name) for one in statements if lazy or not one.lazy}
        return {name for name in found if name is not None} - {module.name}

    @functools.cached_property
    def heavy(self) -> dict[str, set[str]]:
        """Return {module: the heavy libraries that it loads, with the packages above it}."""
        parents = {
            name: {p for p in list_parents(name) if p in self.modules} for name in self.modules
        }
        direct = {
            n: self.list_targets(one, lazy=False) | parents[n] for n, one in self.modules.items()
        }
        return {
            name: {
                one.name.partition(".")[0]
                for reached in reach(direct, name)
                for one in self.modules[reached].imports
                if not one.lazy
            }
            & HEAVY
            for name in self.modules
        }


def find_imports(
    node: ast.AST, module: str, is_package: bool, lazy: bool = False
) -> Iterator[Import]:
    """Yield the imports below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parts = module.split(".")
            kept = len(parts) - child.level + is_package
            base = ".".join(
                [*parts[:kept], *filter(None, [child.module])]
                if child.level
                else [child.module or ""]
            )
            yield from (Import(f"{base}.{alias.name}", child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for one in find_imports(ast.Module(child.body, []), module, is_package, lazy):
                yield replace(one, typed=True)
            yield from find_imports(ast.Module(child.orelse, []), module, is_package, lazy)
        else:
            inside = lazy or isinstance(child, (Node, ast.Lambda))
            yield from find_imports(child, module, is_package, inside)


def find_docstrings(nodes: list[ast.AST]) -> Iterator[ast.Expr]:
    """Yield the docstrings of modules, classes and functions, and the strings below assignments."""
    for node in nodes:
        for one in (
            getattr(node, "body", ()) if not isinstance(node, (ast.Lambda, ast.IfExp)) else ()
        ):
            value = one.value if isinstance(one, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield one


def list_parents(name: str) -> list[str]:
    """Return the packages above a module."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def reach(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return what can be reached from a node, the node included."""
    found, waiting = {start}, [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node, sorted."""
    reached = {name: reach(graph, name) for name in graph}
    loops = {frozenset(o for o in reached[name] if name in reached.get(o, ())) for name in graph}
    return sorted(sorted(loop) for loop in loops if len(loop) > 1)
