"""One small registry, used for methods, metrics, models and subsets alike.

A duplicate name is an error, an unknown name is an error with suggestions, plug-ins arrive through the entry point
group `cambench.plugins` or as a file (`--plugin file.py`), and lists may hold wildcards and groups.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Generic, Protocol, TypeVar

from bench.errors import BenchError, suggestions


class Entry(Protocol):
    """What the registry needs of an entry: a name, and the groups that lists can name it by."""

    @property
    def name(self) -> str: ...

    @property
    def groups(self) -> tuple[str, ...]: ...


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Named entries of one kind.

    >>> from bench.methods import METHODS
    >>> METHODS.select(["control/fake*"])
    ['fake_cam']
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}
        self._lists: dict[str, str] = {}

    def add(self, entry: E) -> E:
        """Add an entry; a second one of the same name is an error."""
        if entry.name in self._entries:
            raise BenchError(f"There is already a {self.kind} named {entry.name!r}; give the new one another name.")
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Remove an entry (for tests and interactive work)."""
        self._entries.pop(name, None)

    def add_list(self, name: str, patterns: str) -> None:
        """Give a list of names, groups and wildcards a name; `select` keeps the order of the list."""
        self._lists[name] = patterns

    @property
    def lists(self) -> dict[str, str]:
        """Return the named lists: {name: patterns}."""
        return dict(self._lists)

    def other_names(self) -> dict[str, str]:
        """Return the names that stand for an entry beside its own: {other name: name of the entry}."""
        return {}

    def known_names(self) -> list[str]:
        """Return every name that `select` accepts: entries, their other names, groups and named lists."""
        groups = (group for entry in self for group in entry.groups)
        return list(dict.fromkeys((*self._entries, *self.other_names(), *groups, *self._lists, "all")))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._entries)

    def get(self, name: str) -> E:
        """Return the entry of this name; an unknown name is an error with suggestions."""
        if name not in self._entries:
            load_entry_points()  # it may be an installed plug-in's, which the command line loads and Python does not
        if name in self._entries:
            return self._entries[name]
        other = self.other_names()
        if name not in other:
            raise BenchError(f"Unknown {self.kind} {name!r}.{suggestions(name, [*self._entries, *other])}")
        return self._entries[other[name]]

    def select(self, patterns: str | list[str]) -> list[str]:
        """Return names for a list of names, groups (`fast`, `all`, `default`) and wildcards (`cam/*`), without repeats.

        A pattern starting with `-` removes what it matches from what stands before it.
        """
        items = split_list(patterns) if isinstance(patterns, str) else list(patterns)
        chosen: list[str] = []
        for item in (i.strip() for i in items):
            if not item:
                continue
            if item.startswith("-"):
                dropped = set(self._match(item[1:]))
                chosen = [name for name in chosen if name not in dropped]
            else:
                chosen += [name for name in self._match(item) if name not in chosen]
        return chosen

    def _match(self, pattern: str) -> list[str]:
        if pattern == "all":
            return self.names
        if pattern in self._entries:
            return [pattern]
        if pattern in self._lists:
            return self.select(self._lists[pattern])
        found = [e.name for e in self if self._fits(e, pattern)]
        if found:
            return found
        other = self.other_names()
        if pattern in other:
            return [other[pattern]]
        addresses = [f"{group}/{entry.name}" for entry in self for group in entry.groups]
        known = addresses if "/" in pattern else self.known_names()
        raise BenchError(f"Unknown {self.kind} {pattern!r}.{suggestions(pattern, known)}")

    @staticmethod
    def _fits(entry: E, pattern: str) -> bool:
        if pattern in entry.groups:
            return True
        addresses = [entry.name, *(f"{group}/{entry.name}" for group in entry.groups)]
        return any(fnmatch.fnmatchcase(address, pattern) for address in addresses)


def split_list(text: str) -> list[str]:
    """Split a comma-separated list; commas inside brackets belong to a name.

    >>> split_list("sa_cam[lambda=0.5,base=grad_cam_pp],tft(layer_cam)")
    ['sa_cam[lambda=0.5,base=grad_cam_pp]', 'tft(layer_cam)']
    """
    items, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += character
    return items


_PLUGINS: dict[Path, ModuleType] = {}


def load_plugin(path: str | Path) -> ModuleType:
    """Import a plug-in file once; what it registers is then known by name."""
    file = Path(path).resolve()
    if file in _PLUGINS:
        return _PLUGINS[file]
    if not file.is_file():
        raise BenchError(f"The plug-in {path} is not a file; give the path of a Python file.")
    # The path is part of the module's name, so that two plug-ins called mine.py can live side by side.
    name = f"cambench_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    _PLUGINS[file] = _imported(file, name, path)
    return _PLUGINS[file]


@dataclass(frozen=True)
class PluginFile:
    """A plug-in file as it travels: the module's name, the path here, and the source."""

    module: str
    path: str
    source: str


def plugin_files() -> list[PluginFile]:
    """Return the plug-in files that this process has loaded, in their order."""
    return [PluginFile(m.__name__, str(file), _SOURCES[m.__name__]) for file, m in _PLUGINS.items()]


def load_plugin_file(plugin: PluginFile) -> ModuleType:
    """Import a plug-in that another process has loaded, under the same module name, so that what it pickles is found.

    Where its path does not hold the same source here (another machine), a copy of the source is imported.
    """
    if plugin.module in sys.modules:
        return sys.modules[plugin.module]
    file = Path(plugin.path)
    if not file.is_file() or file.read_text() != plugin.source:
        copies = tempfile.TemporaryDirectory(prefix="cambench-")
        _COPIES.append(copies)
        file = Path(copies.name) / file.name
        file.write_text(plugin.source)
    _PLUGINS[file] = _imported(file, plugin.module, plugin.path)
    return _PLUGINS[file]


_SOURCES: dict[str, str] = {}
"""What was imported, by module: the file may have been edited since."""

_COPIES: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of copied plug-ins: a method's id is that of its source, which is read when it is wanted."""


def _imported(file: Path, name: str, path: str | Path) -> ModuleType:
    """Import a file as the module `name`; `path` is what it is called where it fails."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BenchError(f"The plug-in {path} cannot be imported; it must be a Python file (.py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _SOURCES[name] = file.read_text()
    try:
        spec.loader.exec_module(module)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(f"The plug-in {path} failed at import with {type(error).__name__}: {error}.") from error
    return module


@functools.lru_cache(maxsize=1)
def load_entry_points(group: str = "cambench.plugins") -> tuple[str, ...]:
    """Import every installed plug-in package that announces itself under the entry point group, once.

    Returns a sentence for each that failed: one broken package must not stop the others.
    """
    failures = []
    for point in importlib.metadata.entry_points(group=group):
        try:
            point.load()
        except Exception as error:
            failures.append(
                f"The installed plug-in {point.value} failed at import with {type(error).__name__}: {error}."
            )
    return tuple(failures)


@functools.lru_cache(maxsize=1024)
def source_digest(function: Callable[..., Any]) -> str:
    """Return 12 hex digits that change when what a function computes changes.

    Inside `bench`: the function, every function of `bench.methods` and of its own module that it reaches by name, and
    the plain constants that these read; comments, docstrings and decorators (a citation, a tag) do not count. Outside
    (a plug-in): the whole file, so that any edit is seen.
    """
    module = inspect.getmodule(function)
    try:
        if module is not None and module.__name__.startswith("bench."):
            text = "\n".join(_reachable(function))
        else:
            text = _module_source(function) or inspect.getsource(function)
    except (OSError, TypeError):
        # Typed into a session: there is no file to read, but there is code.
        text = repr(_code_facts(inspect.unwrap(function).__code__))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _module_source(function: Callable[..., Any]) -> str:
    """Return the source of the file that a function stands in, or "" for a notebook or an interactive session."""
    file = Path(inspect.unwrap(function).__code__.co_filename)
    return file.read_text() if file.suffix == ".py" and file.is_file() else ""


def _code_facts(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, without addresses: the same code gives the same facts in every session."""
    constants = tuple(_code_facts(c) if inspect.iscode(c) else repr(c) for c in code.co_consts)
    return code.co_code.hex(), code.co_names, code.co_varnames, constants


def _reachable(function: Callable[..., Any]) -> list[str]:
    """Return the bare sources of the functions that a function reaches, and the constants that they read."""
    seen: dict[str, str] = {}
    waiting: list[Any] = [function]
    while waiting:
        one = inspect.unwrap(waiting.pop())
        key = f"{one.__module__}.{one.__qualname__}"
        if key in seen:
            continue
        seen[key] = _bare_source(one)
        for name in sorted(_names_used(one)):
            value = getattr(one, "__globals__", vars(sys.modules[one.__module__])).get(name)
            if isinstance(value, (int, float, str, tuple)):
                seen[f"{one.__module__}:{name}"] = repr(value)
            waiting += [v for v in _functions_in(value) if _is_near(v, one)]
    return [f"{key}={seen[key]}" for key in sorted(seen)]


def _functions_in(value: Any) -> list[Any]:
    """Return a function or class itself, or those that a dictionary holds (a table of choices)."""
    values = value.values() if isinstance(value, dict) else [value]
    return [v for v in values if inspect.isfunction(v) or inspect.isclass(v)]


def _is_near(value: Any, function: Any) -> bool:
    """Return whether a function's numbers are the method's own: those of the engine have their own version."""
    module = str(value.__module__)
    registration = value.__name__.startswith("register_")
    return not registration and (module == function.__module__ or module.startswith("bench.methods."))


def _bare_source(function: Any) -> str:
    """Return the source without decorators, docstrings, comments and layout."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            part.decorator_list = []
            first = part.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(part.body) > 1:
                part.body = part.body[1:]
    return ast.unparse(node)


def _names_used(function: Any) -> set[str]:
    tree = ast.parse(_bare_source(function))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
