"""The files of the user's own that a module reaches by its import statements. Nothing is imported.

A file is the user's own if it lies outside the standard library, site-packages and cambench;
modules of editable installs are the user's own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

Imported = tuple[int, str]
"""(level, name) of a module that a file may import; level 0 is an absolute name."""


def hash_text(text: str) -> str:
    """Return the sha256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@functools.cache
def list_installed_folders() -> tuple[Path, ...]:
    """Return the folders of the standard library, of installed packages, and of cambench."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parent)]
    return tuple(dict.fromkeys(Path(path).resolve() for path in paths if path))


@functools.lru_cache(maxsize=4096)
def is_own(file: Path) -> bool:
    """Tell whether a file is the user's own: outside the standard library, site-packages and
    cambench.
    """
    resolved = file.resolve()
    if {"site-packages", "dist-packages"} & {*resolved.parts}:
        return False
    return not any(resolved.is_relative_to(folder) for folder in list_installed_folders())


@dataclass
class SourceWalk:
    """Collects the user's own files that modules reach by import statements, at any depth.

    Statements inside functions count, and so do relative ones, `import_module("name")` with a
    literal name, and the `__init__` files of packages.

    Args:
        parts: {module name: sha256 of its file}.
    """

    parts: dict[str, str] = field(default_factory=dict)
    _seen: set[Path] = field(default_factory=set)

    def walk(self, module: str, file: Path) -> None:
        """Add a module and everything that it reaches; the first module of a walk is named ""."""
        key = module if "" in self.parts else ""
        if is_own(file):
            self._add(key, module, file)
            self._reach(find_package(module, file))
        else:
            self.parts[key] = hash_text(_describe_distribution(module, file))

    def _add(self, key: str, module: str, file: Path) -> None:
        resolved = file.resolve()
        while not resolved.exists() and resolved != resolved.parent:
            resolved = resolved.parent  # a module in an archive: the archive counts
        if resolved in self._seen or not resolved.is_file():
            return
        self._seen.add(resolved)
        status = resolved.stat()
        self.parts[key], names = _read_source(resolved, status.st_mtime_ns, status.st_size)
        package = find_package(module, file)
        for level, name in names:
            self._reach(make_absolute(level, name, package), beside=resolved.parent)

    def _reach(self, module: str, beside: Path | None = None) -> None:
        """Add a module and the packages around it, where they are the user's own."""
        names = [part for part in module.split(".") if part]
        for end in range(1, len(names) + 1):
            name = ".".join(names[:end])
            spec = find_spec(name, beside)
            if spec is None:
                return
            if spec.has_location and spec.origin:
                if not is_own(Path(spec.origin)):
                    return
                self._add(name, name, Path(spec.origin))


def find_package(module: str, file: Path) -> str:
    """Return the package that a module's relative imports start from."""
    if module == "__main__":
        return getattr(sys.modules.get(module), "__package__", "") or ""
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def read_imports(file: Path) -> tuple[Imported, ...]:
    """Return what a Python file may import; `from a import b` may mean the module a.b."""
    status = file.stat()
    return _read_source(file, status.st_mtime_ns, status.st_size)[1]


@functools.lru_cache(maxsize=1024)
def _read_source(file: Path, _changed: int, _size: int) -> tuple[str, tuple[Imported, ...]]:
    """Return a file's hash, whatever its line ends, and what it may import."""
    content = file.read_bytes()
    if file.suffix != ".py":  # of a compiled module the bytes count; its imports cannot be read
        return hashlib.sha256(content).hexdigest(), ()
    found = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return found, ()  # Python cannot import it either
    nodes = list(ast.walk(tree))
    loaders = {"import_module", "__import__"} | {
        alias.asname
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "importlib"
        for alias in node.names
        if alias.name == "import_module" and alias.asname
    }
    names = dict.fromkeys(name for node in nodes for name in _list_imported(node, loaders))
    return found, tuple(names)


def _list_imported(node: ast.AST, loaders: set[str]) -> Iterator[Imported]:
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        yield node.level, base
        yield from (
            (node.level, f"{base}.{a.name}".strip(".")) for a in node.names if a.name != "*"
        )
    elif isinstance(node, ast.Assign) and "__all__" in map(_get_name, node.targets):
        # `from package import *` imports the submodules that the package lists.
        yield from ((1, name) for name in _list_texts(node.value))
    elif isinstance(node, ast.Call) and _get_name(node.func) in loaders:
        yield from _list_loaded(node)


def _list_loaded(call: ast.Call) -> Iterator[Imported]:
    """Yield what `import_module("name", "package")` or `__import__` may import."""
    keywords = {one.arg: one.value for one in call.keywords}
    given = [*call.args[:1], *([keywords["name"]] if "name" in keywords else [])]
    packages = [*call.args[1:2], *([keywords["package"]] if "package" in keywords else [])]
    for text in (text for node in given for text in _list_texts(node)):
        name = text.lstrip(".")
        level = len(text) - len(name)
        yield level, name
        yield from ((0, f"{package}.{name}") for node in packages for package in _list_texts(node))
        if "fromlist" in keywords:
            yield from ((level, f"{name}.{one}") for one in _list_texts(keywords["fromlist"]))


def _list_texts(node: ast.AST) -> list[str]:
    """Return the literal texts of a constant, a list or a tuple."""
    nodes = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    values = [one.value for one in nodes if isinstance(one, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def _get_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def make_absolute(level: int, name: str, package: str) -> str:
    """Return the absolute name of a module that is imported inside a package.

    >>> make_absolute(2, "c", "a.b")
    'a.c'
    """
    around = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    return ".".join(part for part in (*around, name) if part)


def find_spec(module: str, beside: Path | None = None) -> ModuleSpec | None:
    """Return a module's spec without importing it: the loaded one, else that of the first finder
    that knows it.

    Editable installs bring finders of their own.  beside: the folder of the file that imports,
    searched last.
    """
    loaded: ModuleSpec | None = getattr(sys.modules.get(module), "__spec__", None)
    if loaded is not None:
        return loaded
    package = module.rpartition(".")[0]
    around = find_spec(package, beside) if package else None
    if package and (around is None or around.submodule_search_locations is None):
        return None
    path = None if around is None else around.submodule_search_locations
    for finder in sys.meta_path:
        found: ModuleSpec | None = None
        with suppress(AttributeError, ImportError, ValueError):
            found = finder.find_spec(module, path)
        if found is not None:
            return found
    if package or beside is None:
        return None
    return PathFinder.find_spec(module, [str(beside)])


def _describe_distribution(module: str, file: Path) -> str:
    """Return what an installed plug-in is known by: name, version and RECORD of its distribution,
    and its own file.
    """
    import importlib.metadata  # a tenth of `cambench --help`, which needs no plug-in

    facts = []
    top = module.partition(".")[0]
    for name in sorted({*importlib.metadata.packages_distributions().get(top, ())}):
        found = importlib.metadata.distribution(name)
        facts.append([name, found.version, hash_text(found.read_text("RECORD") or "")])
    return json.dumps([facts, hashlib.sha256(file.read_bytes()).hexdigest()])
