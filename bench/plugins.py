"""Plug-ins: a Python file (`--plugin mine.py`) or an installed package of the entry point group
`cambench.plugins`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.errors import BenchError, forbid_exit
from bench.source_walk import find_spec, read_imports

_PLUGINS: dict[Path, ModuleType] = {}


def load_plugin(path: str | Path) -> ModuleType:
    """Import a plug-in file once; what it registers is then known by name.

    The file may import modules that lie beside it. A file inside a package (a folder with
    `__init__.py`) is imported as a module of that package, so that relative imports work.

    Args:
        path: A Python file.

    Returns:
        The imported module.

    Raises:
        BenchError: The path is not a Python file, or the import fails.
    """
    file = Path(path).resolve()
    if file in _PLUGINS:
        return _PLUGINS[file]
    if not file.is_file():
        raise BenchError(f"The plug-in {path} is not a file; give the path of a Python file.")
    root, name = find_place(file)
    _refuse_other_helpers(file, root, path, loaded=True)
    with _searched_first(root):
        module = _import_file(file, name, path)
    _refuse_other_helpers(file, root, path, loaded=False)
    _PLUGINS[file] = module
    return module


@contextmanager
def _searched_first(root: Path) -> Iterator[None]:
    """Search a folder before all others while a plug-in is imported, and last from then on.

    First, since a helper beside the plug-in is meant; later last, since no file beside a plug-in
    may hide an installed module from cambench.
    """
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        if str(root) not in sys.path:
            sys.path.append(str(root))


def _refuse_other_helpers(file: Path, root: Path, path: str | Path, *, loaded: bool) -> None:
    """Refuse a plug-in that would get another module than the one that lies beside it.

    Python keeps one module of a name. A helper of the same name beside another plug-in, or in the
    working folder, would take the place of this plug-in's own.  loaded: look only at modules that
    are loaded already.
    """
    inside = (
        find_place(file)[1].partition(".")[0] if (file.parent / "__init__.py").is_file() else ""
    )
    tops = {name.partition(".")[0] for level, name in read_imports(file) if level == 0} | {inside}
    for top in sorted(tops - {""}):
        if loaded and top not in sys.modules:
            continue  # it will be searched first in the plug-in's folder
        places = (root / f"{top}.py", root / top / "__init__.py")
        own = next((place for place in places if place.is_file()), None)
        spec = None if own is None else find_spec(top, root)
        if own is None or spec is None or spec.origin is None:
            continue
        if Path(spec.origin).resolve() != own.resolve():
            raise BenchError(
                f"The plug-in {path} means the module {own}, and Python finds another one of that "
                f"name ({spec.origin}); rename it."
            )


def find_place(file: Path) -> tuple[Path, str]:
    """Return the folder from which a plug-in's imports are found, and the name of its module."""
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if len(parts) > 1:
        return root, ".".join(parts)
    # The path is part of the module's name, so that two plug-ins called mine.py can live side by
    # side.
    return root, f"cambench_plugin_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class PluginFile:
    """A plug-in file as it travels: the module's name, the path here, and the source."""

    module: str
    path: str
    source: bytes


def plugin_files() -> list[PluginFile]:
    """Return the plug-in files that this process has loaded, in their order."""
    return [PluginFile(m.__name__, str(file), _SOURCES[m.__name__]) for file, m in _PLUGINS.items()]


def load_plugin_file(plugin: PluginFile) -> ModuleType:
    """Import a plug-in that another process has loaded, under the same module name, so that what it
    pickles is found.

    Where its path does not hold the same source here (another machine), a copy of the source is
    imported.
    """
    if plugin.module in sys.modules:
        return sys.modules[plugin.module]
    file = Path(plugin.path)
    if not file.is_file() or file.read_bytes() != plugin.source:
        copies = tempfile.TemporaryDirectory(prefix="cambench-")
        _COPIES.append(copies)
        file = Path(copies.name) / file.name
        file.write_bytes(plugin.source)
    _PLUGINS[file] = _import_file(file, plugin.module, plugin.path)
    return _PLUGINS[file]


_SOURCES: dict[str, bytes] = {}
"""What was imported, by module: the file may have been edited since."""

_COPIES: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of copied plug-ins: a method's id is that of its source, which is read when it is
wanted.
"""


def _import_file(file: Path, name: str, path: str | Path) -> ModuleType:
    """Import a file as the module `name`; `path` is what it is called where it fails."""
    try:
        with forbid_exit(f"The plug-in {path}"):
            package = name.rpartition(".")[0]
            if package:
                importlib.import_module(package)
            if package and name in sys.modules:  # its package has imported it
                _check_same(sys.modules[name], file, path)
                _SOURCES[name] = file.read_bytes()
                return sys.modules[name]
            return _execute_file(file, name, path)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(
            f"The plug-in {path} failed at import with {type(error).__name__}: {error}."
        ) from error


def _execute_file(file: Path, name: str, path: str | Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BenchError(f"The plug-in {path} cannot be imported; it must be a Python file (.py).")
    module = importlib.util.module_from_spec(spec)
    _SOURCES[name] = file.read_bytes()
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half a module would pass for a whole one
        raise
    return module


def _check_same(module: ModuleType, file: Path, path: str | Path) -> None:
    loaded = getattr(module, "__file__", None)
    if loaded is None or Path(loaded).resolve() != file.resolve():
        raise BenchError(
            f"The plug-in {path} is the module {module.__name__}, and Python has loaded another "
            f"one of that name ({loaded}); rename the folder or the file."
        )


@functools.lru_cache(maxsize=1)
def load_entry_points(group: str = "cambench.plugins") -> tuple[str, ...]:
    """Import every installed plug-in package that announces itself under the entry point group,
    once.

    Returns a sentence for each that failed: one broken package must not stop the others.
    """
    import importlib.metadata  # a tenth of `cambench --help`, which needs no plug-in

    failures = []
    for point in importlib.metadata.entry_points(group=group):
        try:
            with forbid_exit("It"):
                point.load()
        except Exception as error:
            failures.append(
                f"The installed plug-in {point.value} failed at import with "
                f"{type(error).__name__}: {error}."
            )
    return tuple(failures)
