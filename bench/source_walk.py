"""The source of a plug-in: every file of the user's own that its import statements reach, and what
was typed by hand.

Nothing is imported here. A file is the user's own if it lies outside the standard library,
site-packages and cambench; modules of editable installs are the user's own.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import inspect
import json
import site
import sys
import sysconfig
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

CONSTANTS = (bool, int, float, complex, str, bytes, tuple, type(None))
"""Global values whose text says what they are."""


def source_digest(function: Callable[..., Any]) -> str:
    """Return 12 hex digits that change when the source of a plug-in's function changes.

    The digest is taken when the function is registered (`note_source`), since files may be edited
    while Python still runs what it imported. If they differ now, nobody knows which of the two
    texts runs: both count.

    Args:
        function: A function outside `bench`, from a file or typed into a session.

    Returns:
        The digest of all source that the function reaches.
    """
    now = _digest_of(_parts_of(function))
    with suppress(TypeError):  # an object that cannot be a key was not noted
        noted = _NOTED.get(function, now)
        now = now if noted == now else _hash(f"{noted} {now}")[:12]
    return now


def note_source(function: Callable[..., Any]) -> None:
    """Remember the digest of a plug-in's function as it is now, when Python has just imported
    it.
    """
    with suppress(TypeError):
        _NOTED[function] = _digest_of(_parts_of(function))


_NOTED: weakref.WeakKeyDictionary[Callable[..., Any], str] = weakref.WeakKeyDictionary()


def _digest_of(parts: dict[str, str]) -> str:
    if list(parts) == [""]:
        return parts[""][:12]  # the id that a plug-in of one file has always had
    return _hash(json.dumps(parts, sort_keys=True))[:12]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _parts_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return {name: hash} of everything that decides what a function computes; its own file has the
    name "".
    """
    walk = SourceWalk()
    typed = dict[str, str]()
    for layer in _layers(function):
        code = getattr(layer, "__code__", None)
        file = Path(code.co_filename) if code else _file_of(type(layer))
        if file is not None and file.suffix == ".py" and file.is_file():
            module = layer.__module__ if code else type(layer).__module__
            walk.walk(module, file, key=module if "" in walk.parts else "")
        elif code:
            typed |= _parts_typed(layer)
        if state := _state_of(layer):
            typed[f"state {len(typed)}"] = _hash(state)
    return {**typed, **walk.parts}


def _layers(function: Any) -> Iterator[Any]:
    """Yield a function and all that it is a decorated, bound or partial form of."""
    while function is not None:
        yield function
        inner = (getattr(function, name, None) for name in ("__wrapped__", "__func__", "func"))
        function = next((one for one in inner if callable(one)), None)


def _state_of(layer: Any) -> str:
    """Return what a function carries beside its code: enclosed values, bound arguments, attributes
    of an object.
    """
    if isinstance(layer, functools.partial):
        return f"{layer.args!r} {sorted(layer.keywords.items())!r}"
    if not hasattr(layer, "__code__"):
        return f"{type(layer).__qualname__} {sorted(getattr(layer, '__dict__', {}).items())!r}"
    enclosed = (
        inspect.getclosurevars(layer).nonlocals if getattr(layer, "__closure__", None) else {}
    )
    plain = {name: value for name, value in enclosed.items() if isinstance(value, CONSTANTS)}
    return repr(sorted(plain.items())) if plain else ""


def _parts_typed(function: Any) -> dict[str, str]:
    """Return the parts of a function that was typed into a session: its code, and all that this
    names.
    """
    walk, parts = SourceWalk(), dict[str, str]()
    waiting, seen = [("", function)], set[int]()
    while waiting:
        name, one = waiting.pop()
        if id(one) in seen or not hasattr(one, "__code__"):
            continue
        seen.add(id(one))
        parts[name] = _hash(repr(_function_facts(one)))
        for used, value in sorted(_values_named(one).items()):
            file = _file_of(value)
            if file is not None:
                module = value if isinstance(value, ModuleType) else sys.modules[value.__module__]
                parts |= walk.walk(module.__name__, file, key=module.__name__)
            elif isinstance(value, FunctionType):
                waiting.append((used, value))
            elif isinstance(value, CONSTANTS):
                parts[f"{name}:{used}"] = _hash(repr(value))
    return parts


def _values_named(function: Any) -> dict[str, Any]:
    """Return the global and enclosed values that a function's code names, inner functions
    included.
    """
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return {**known, **inspect.getclosurevars(function).nonlocals}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _codes(constant)


def _file_of(value: Any) -> Path | None:
    """Return the user's own file that a module, function or class comes from, or None."""
    if not (isinstance(value, (ModuleType, FunctionType)) or inspect.isclass(value)):
        return None
    module = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    return Path(file) if file and is_own(Path(file)) else None


def _function_facts(function: Any) -> tuple[Any, ...]:
    return (
        _code_facts(function.__code__),
        repr(function.__defaults__),
        repr(function.__kwdefaults__),
    )


def _code_facts(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, without addresses: the same code gives the same facts in every
    session.
    """
    constants = tuple(_code_facts(c) if inspect.iscode(c) else repr(c) for c in code.co_consts)
    return code.co_code.hex(), code.co_names, code.co_varnames, constants


# --- the files that import statements reach


@functools.cache
def _list_installed_folders() -> tuple[Path, ...]:
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
    return not any(resolved.is_relative_to(folder) for folder in _list_installed_folders())


@dataclass
class SourceWalk:
    """Collects the user's own files that a module reaches by import statements, at any depth.

    Statements inside functions count, and so do relative ones, `import_module("name")` with a
    literal name, and the `__init__` files of packages.

    Args:
        parts: {module name: sha256 of its file}.
    """

    parts: dict[str, str] = field(default_factory=dict)
    _seen: set[Path] = field(default_factory=set)

    def walk(self, module: str, file: Path, key: str = "") -> dict[str, str]:
        """Return {module name: hash} of a module and of everything that it reaches; the module
        itself is `key`.
        """
        if is_own(file):
            self._add(key, module, file)
            self._reach(_package_of(module, file))
        else:
            self.parts[key] = _hash(_distribution_text(module, file))
        return self.parts

    def _add(self, key: str, module: str, file: Path) -> None:
        resolved = file.resolve()
        if resolved in self._seen:
            return
        self._seen.add(resolved)
        status = resolved.stat()
        self.parts[key], tree_names = _read_source(resolved, status.st_mtime_ns, status.st_size)
        package = _package_of(module, file)
        for level, name in tree_names:
            self._reach(_absolute(level, name, package), beside=resolved.parent)

    def _reach(self, module: str, beside: Path | None = None) -> None:
        """Add a module and the packages around it, where they are the user's own."""
        names = [part for part in module.split(".") if part]
        for end in range(1, len(names) + 1):
            name = ".".join(names[:end])
            spec = _find_spec(name, beside)
            if spec is None:
                return
            if spec.has_location and spec.origin:
                if not is_own(Path(spec.origin)):
                    return
                self._add(name, name, Path(spec.origin))


def _package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


@functools.lru_cache(maxsize=1024)
def _read_source(file: Path, _changed: int, _size: int) -> tuple[str, tuple[tuple[int, str], ...]]:
    """Return a file's hash and (level, name) of all modules that it may import; `from a import b`
    may mean a.b.
    """
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if file.suffix != ".py":
        return found, ()  # of a compiled module the bytes count; what it imports cannot be read
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return found, ()  # Python cannot import it either
    return found, tuple(
        dict.fromkeys(name for node in ast.walk(tree) for name in _list_imports(node))
    )


def _list_imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        yield node.level, base
        yield from (
            (node.level, f"{base}.{alias.name}".strip("."))
            for alias in node.names
            if alias.name != "*"
        )
    elif (
        isinstance(node, ast.Call)
        and node.args
        and _read_called_name(node) in ("import_module", "__import__")
    ):
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            name = first.value.lstrip(".")
            yield len(first.value) - len(name), name


def _read_called_name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _absolute(level: int, name: str, package: str) -> str:
    """Return the absolute name of a module that is imported inside a package.

    >>> _absolute(2, "c", "a.b")
    'a.c'
    """
    around = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    return ".".join(part for part in (*around, name) if part)


def _find_spec(module: str, beside: Path | None = None) -> importlib.machinery.ModuleSpec | None:
    """Return a module's spec without importing it: the loaded one, else that of the first finder
    that knows it.

    Editable installs bring finders of their own.  beside: the folder of the file that imports,
    searched last.
    """
    spec: importlib.machinery.ModuleSpec | None = getattr(sys.modules.get(module), "__spec__", None)
    if spec is not None:
        return spec
    package = module.rpartition(".")[0]
    around = _find_spec(package, beside) if package else None
    if package and (around is None or around.submodule_search_locations is None):
        return None
    path = None if around is None else around.submodule_search_locations
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, path)
        except (AttributeError, ImportError, ValueError):
            continue
        if spec is not None:
            return spec
    return (
        None
        if package or beside is None
        else importlib.machinery.PathFinder.find_spec(module, [str(beside)])
    )


def _distribution_text(module: str, file: Path) -> str:
    """Return what an installed plug-in is known by: name, version and RECORD of its distribution,
    and its own file.
    """
    import importlib.metadata  # a tenth of `cambench --help`, and only installed plug-ins need it

    facts = []
    for name in sorted(
        {*importlib.metadata.packages_distributions().get(module.partition(".")[0], ())}
    ):
        found = importlib.metadata.distribution(name)
        facts.append([name, found.version, _hash(found.read_text("RECORD") or "")])
    return json.dumps([facts, hashlib.sha256(file.read_bytes()).hexdigest()])
