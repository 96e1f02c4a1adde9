"""The source of a plug-in's function: its files, the file that registers it, and what it carries.

What a function carries beside its text (enclosed values, bound arguments, attributes) is described
without addresses, so that the same source has the same digest in every process.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from bench.source_walk import SourceWalk, hash_text, is_own

Registrar = tuple[str, Path] | None
"""The user's module that registers a function, and its file."""

_ROOT = Path(__file__).parent.resolve()
_NOTED: weakref.WeakKeyDictionary[Callable[..., Any], tuple[str, Registrar]]
_NOTED = weakref.WeakKeyDictionary()


def is_built_in(function: Callable[..., Any]) -> bool:
    """Tell whether a function and all that it decorates stand in cambench's own files."""
    files = _list_files(function)
    return bool(files) and all(file.resolve().is_relative_to(_ROOT) for file in files)


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
    noted: tuple[str, Registrar] | None = None
    with suppress(TypeError):  # an object that cannot be a key was not noted
        noted = _NOTED.get(function)
    if noted is not None and _is_file_gone(function):
        return noted[0]  # what was imported still runs
    now = _digest(function, noted[1] if noted else None)
    return now if noted is None or noted[0] == now else hash_text(f"{noted[0]} {now}")[:12]


def note_source(function: Callable[..., Any]) -> None:
    """Remember the digest of a plug-in's function as it is now, when Python has just imported it.

    The nearest caller that is the user's own registers the function: its file counts, too.
    """
    registrar = _find_registrar()
    with suppress(TypeError):
        _NOTED[function] = _digest(function, registrar), registrar


def _is_file_gone(function: Callable[..., Any]) -> bool:
    return any(f.suffix == ".py" and not f.is_file() for f in _list_files(function))


def _find_registrar() -> Registrar:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.suffix == ".py" and is_own(file) and file.is_file():
            return str(frame.f_globals.get("__name__", "")), file
        frame = frame.f_back
    return None


def _digest(function: Callable[..., Any], registrar: Registrar) -> str:
    parts = SourceParts().collect(function, registrar)
    if list(parts) == [""]:
        return parts[""][:12]  # the id that a plug-in of one file has always had
    return hash_text(json.dumps(parts, sort_keys=True))[:12]


def _list_layers(function: Any) -> Iterator[Any]:
    """Yield a function and all that it is a decorated, bound or partial form of."""
    while function is not None:
        yield function
        inner = (getattr(function, name, None) for name in ("__wrapped__", "__func__", "func"))
        function = next((one for one in inner if callable(one)), None)


def _list_files(function: Callable[..., Any]) -> list[Path]:
    """Return the files that the code of all layers stands in."""
    codes = [layer.__code__ for layer in _list_layers(function) if hasattr(layer, "__code__")]
    return [Path(code.co_filename) for code in codes]


def _find_own_file(value: Any) -> Path | None:
    """Return the user's own file that a module, function or class comes from, or None."""
    module = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__ or "")
    file = getattr(module, "__file__", None)
    return Path(file) if file and is_own(Path(file)) else None


class SourceParts:
    """{name: hash} of everything that decides what a function computes."""

    def __init__(self) -> None:
        self.walk = SourceWalk()
        self.state: dict[str, str] = {}
        self._described: set[int] = set()

    def collect(self, function: Callable[..., Any], registrar: Registrar) -> dict[str, str]:
        """Return the parts of a function; the file that it stands in has the name ""."""
        for number, layer in enumerate(_list_layers(function)):
            code = getattr(layer, "__code__", None)
            file = Path(code.co_filename) if code else _find_own_file(type(layer))
            if file is not None and file.suffix == ".py" and file.is_file():
                self.walk.walk(layer.__module__ if code else type(layer).__module__, file)
                said = self._describe_state(layer)
            else:
                said = self.describe(layer)
            if said:
                self.state[f"state {number}"] = hash_text(said)
        if registrar is not None:
            self.walk.walk(*registrar)
        return {**self.state, **self.walk.parts}

    def _describe_state(self, layer: Any) -> str:
        """Return what a layer carries beside the text of its file."""
        if isinstance(layer, functools.partial):
            return self.describe([layer.args, layer.keywords])
        if isinstance(layer, MethodType):
            return self.describe(layer.__self__)
        if not hasattr(layer, "__code__"):
            return self.describe(layer)
        if not getattr(layer, "__closure__", None):
            return ""
        return self.describe(dict(inspect.getclosurevars(layer).nonlocals))

    def describe(self, value: Any) -> str:
        """Return a text that says what a value is, without addresses; own files are walked."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return repr(value)
        if id(value) in self._described:
            return "seen"
        self._described.add(id(value))
        if isinstance(value, (list, tuple)):
            return f"{type(value).__name__} [{', '.join(map(self.describe, value))}]"
        if isinstance(value, (set, frozenset)):
            return f"set [{', '.join(sorted(map(self.describe, value)))}]"
        if isinstance(value, dict):
            items = [f"{self.describe(k)}: {self.describe(v)}" for k, v in value.items()]
            return f"dict [{', '.join(sorted(items))}]"
        if hasattr(value, "__array__") and not inspect.isclass(value):
            return _describe_array(value)
        return self._describe_object(value)

    def _describe_object(self, value: Any) -> str:
        named = isinstance(value, (ModuleType, FunctionType)) or inspect.isclass(value)
        file = _find_own_file(value) if named else None
        if isinstance(value, ModuleType):
            if file is not None:
                self.walk.walk(value.__name__, file)
            return f"module {value.__name__}"
        if isinstance(value, FunctionType):
            return self._describe_function(value, file)
        if inspect.isclass(value):
            return self._describe_class(value, file)
        if isinstance(value, MethodType):
            return f"method {self.describe(value.__func__)} of {self.describe(value.__self__)}"
        if isinstance(value, functools.partial):
            return f"partial {self.describe([value.func, value.args, value.keywords])}"
        if hasattr(value, "__wrapped__"):
            return f"wrapped {self.describe(value.__wrapped__)}"
        return f"{self.describe(type(value))} {self.describe(_read_attributes(value))}"

    def _describe_function(self, function: FunctionType, file: Path | None) -> str:
        carried: list[Any] = [function.__defaults__, function.__kwdefaults__]
        carried.append(inspect.getclosurevars(function).nonlocals if function.__closure__ else None)
        if file is not None:
            self.walk.walk(function.__module__, file)
            return f"function {function.__qualname__} {self.describe(carried)}"
        if Path(function.__code__.co_filename).is_file():  # an installed package's
            return f"function {function.__module__}.{function.__qualname__}"
        named = {name for code in _list_codes(function.__code__) for name in code.co_names}
        space = {n: function.__globals__[n] for n in named if n in function.__globals__}
        return f"{_describe_code(function.__code__)} {self.describe([*carried, space])}"

    def _describe_class(self, kind: type, file: Path | None) -> str:
        if file is not None:
            self.walk.walk(kind.__module__, file)
        elif kind.__module__ == "__main__":  # typed into a session
            functions = {n: v for n, v in vars(kind).items() if isinstance(v, FunctionType)}
            return f"class {kind.__qualname__} {self.describe(functions)}"
        return f"class {kind.__module__}.{kind.__qualname__}"


def _read_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots included."""
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})}


def _describe_array(value: Any) -> str:
    """Return the form and the content of a tensor or an array."""
    for step in ("detach", "cpu"):
        value = getattr(value, step)() if hasattr(value, step) else value
    array = value.__array__()
    content = hashlib.sha256(array.tobytes()).hexdigest()
    return f"array {array.shape} {array.dtype} {content}"


def _list_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _list_codes(constant)


def _describe_code(code: CodeType) -> str:
    """Return what code does, without addresses: the same code gives the same text everywhere."""
    constants = [
        _describe_code(c) if inspect.iscode(c) else SourceParts().describe(c)
        for c in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))
