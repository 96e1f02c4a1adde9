"""Maps that several methods of a run want: each is made once for a batch and a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from bench.engine.counts import Counts
from bench.engine.shared_parts import SharedPart
from bench.methods import Method
from bench.methods.base import name_shared_map
from bench.models.explainee import Explainee
from bench.run.external_maps import ExternalMethod


def find_shared_maps(methods: Iterable[Method]) -> frozenset[str]:
    """Return the ids of the methods that a transform wraps and that another method of the run is,
    or wraps on the same trace, too.
    """
    listed = [method for method in methods if not isinstance(method, ExternalMethod)]
    readers = Counter(one.id for method in listed for one in _list_layers(method))
    wrapped = {
        one.inner.id
        for method in listed
        for one in _list_layers(method)
        if one.transform and one.inner is not None
    }
    return frozenset(identity for identity in wrapped if readers[identity] > 1)


def _list_layers(method: Method) -> Iterator[Method]:
    """Yield a method and those that it runs on the same trace, from the outside."""
    yield method
    if method.inner is not None and method.inner_models is None:
        yield from _list_layers(method.inner)


def list_shared_work(
    method: Method, model: Explainee, shared: Collection[str], pixels: int
) -> tuple[Counts, dict[str, SharedPart]]:
    """Return a method's own work per image and the shared parts that it reads, where the maps of
    these ids are shared parts, too.

    pixels: of a map, which the part keeps.
    """
    own, found = method.list_work(model)
    parts = {part.name: part for part in found}
    if method.inner is not None and method.inner_models is None and shared:
        whole, _ = method.inner.list_work(model)
        rest, inner_parts = list_shared_work(method.inner, model, shared, pixels)
        own, parts = own - whole + rest, inner_parts | parts
    if method.id in shared:
        name = name_shared_map(method.id)
        parts[name] = SharedPart(name, own, numbers=pixels)
        own = Counts()
    return own, parts
