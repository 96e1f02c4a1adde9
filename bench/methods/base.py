"""What a method is: one function from a trace to maps, sealed in a call that checks it and cleans
up after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from bench.engine.counts import Counts, Spent
from bench.engine.memory import wait_for
from bench.engine.part_store import Part
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.errors import BenchError, NotApplicable, forbid_exit
from bench.identity import digest, method_source
from bench.methods import variants
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network, leave_modes

MethodFunction = Callable[..., torch.Tensor]
PerModel = int | Callable[[Explainee, Mapping[str, Any]], int]
Parts = Sequence[SharedPart] | Callable[[Explainee, Mapping[str, Any]], Sequence[SharedPart]]
PerVariant = str | Callable[[Mapping[str, Any]], str]

FIDELITY = ("official", "paper", "reconstruction", "control", "external", "unstated")
"""official: read in the authors' code.  paper: stated in the paper.  reconstruction: our most
faithful reading where the text is not public to us.  control: a yardstick, not a proposal.
external: maps made elsewhere and read from files. unstated: a plug-in that does not say."""


@dataclass(frozen=True)
class Method:
    """A registered attribution method, or a variant of one; calling it makes maps of a trace.

    Args:
        name: the address of this variant (see `variants`).
        function: (trace, **parameters) -> maps [B,H,W], signed float32. A higher value is more
            evidence for the target. The function of a wrapper takes (trace, inner, **parameters).
        group: "cam", "gradient", "control", ...
        fidelity: one of `FIDELITY`.
        citation: the paper, for a reader.
        needs: ("truth",) where ground truth is read.
        fast: whether a few forwards are enough.
        class_agnostic: whether the map ignores the target.
        forwards, backwards: whole passes per image beyond the shared one and its parts. A number,
            or a function of the model and the parameters. Plans use it; runs count the true work.
        heads, head_backwards: replays and backwards of the head per image, likewise.
        parameters: those that differ from the function's defaults.
        more_groups: other groups that lists can name it by.
        parts: the shared parts that it reads, with their work. Methods of a run that read the same
            part pay once.
        inner: the method that a wrapper wraps.
        inner_models: the models that a wrapper runs it on, for plans; default: the model itself.
        version: raised by hand when a built-in method's numbers change; part of its id.
        varies: why the number of forwards depends on the image, or "".
        reference: what the map compares an image with, one of `REFERENCE_WORDS` or "". A word, or
            a function of the parameters.
        transform: whether a wrapper's map follows from the other method's map alone.
        caveat: what a reader must know wherever boards rank it, such as a part that it lacks.

    Raises:
        NotApplicable: a call needs ground truth that the images lack.
        BenchError: the function returns another shape, or writes into the trace.

    Example:
        >>> from bench.methods import METHODS
        >>> METHODS.get("score_cam").group
        'cam'
    """

    name: str
    function: MethodFunction
    group: str
    fidelity: str
    citation: str = ""
    needs: tuple[str, ...] = ()
    fast: bool = True
    class_agnostic: bool = False
    forwards: PerModel = 0
    backwards: PerModel = 0
    heads: PerModel = 0
    head_backwards: PerModel = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    more_groups: tuple[str, ...] = ()
    parts: Parts = ()
    inner: Method | None = None
    inner_models: Callable[[Explainee, Mapping[str, Any]], Sequence[Explainee]] | None = None
    version: int = 1
    varies: str = ""
    reference: PerVariant = ""
    transform: bool = False
    caveat: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups that lists can name this method by."""
        return (self.group, *self.more_groups, "fast" if self.fast else "slow")

    @property
    def base(self) -> str:
        """Return the name without wrapped method and parameters."""
        address = variants.read_address(self.name)
        return address.base if address else self.name

    @property
    def all_parameters(self) -> dict[str, Any]:
        """Return every parameter by public name, defaults included."""
        return variants.defaults(self.function) | dict(self.parameters)

    def variant(self, **given: Any) -> Method:
        """Return this method with other parameters; one that it does not have is an error.

        >>> from bench.methods import METHODS
        >>> METHODS.get("score_cam").variant().name
        'score_cam'
        """
        settings = variants.check_parameters(self.base, self.function, {**self.parameters, **given})
        inner = self.inner.name if self.inner else ""
        return replace(
            self, name=variants.write_address(self.base, inner, settings), parameters=settings
        )

    def wrap(self, inner: Method) -> Method:
        """Return this wrapper around another method."""
        return replace(
            self,
            name=variants.write_address(self.base, inner.name, self.parameters),
            inner=inner,
            needs=tuple(dict.fromkeys((*self.needs, *inner.needs))),
            fast=inner.fast,
            class_agnostic=inner.class_agnostic if self.transform else self.class_agnostic,
        )

    @property
    def control(self) -> bool:
        """Return whether this is a control."""
        return self.group == "control"

    @cached_property
    def id(self) -> str:
        """Return name@hash of version (of a plug-in: source) and parameters; an edited plug-in has
        another id.
        """
        given = {key: variants.identity(value) for key, value in self.parameters.items()}
        source = method_source(self.base, self.version, self.function)
        parts: dict[str, Any] = {"source": source, "parameters": given}
        if self.inner is not None:
            parts["inner"] = self.inner.id
        return f"{self.name}@{digest(parts)}"

    @property
    def versions(self) -> dict[str, int]:
        """Return {base name: version} of this method and of those that it wraps."""
        return {self.base: self.version} | ({} if self.inner is None else self.inner.versions)

    @property
    def why_varies(self) -> str:
        """Return why the count depends on the image, of this method or of the one that it wraps, or
        "".
        """
        return self.varies or ("" if self.inner is None else self.inner.why_varies)

    @property
    def compared_with(self) -> str:
        """Return what the map compares an image with: this method's reference, else that of the one
        that it wraps.
        """
        own = self.reference(self.all_parameters) if callable(self.reference) else self.reference
        return own or ("" if self.inner is None else self.inner.compared_with)

    @property
    def caveats(self) -> tuple[str, ...]:
        """Return what a reader must know of this method and of those that it wraps."""
        own = (self.caveat,) if self.caveat else ()
        return own if self.inner is None else tuple(dict.fromkeys((*own, *self.inner.caveats)))

    def plan_work(self, model: Explainee, paid: set[str] | None = None) -> Counts:
        """Return the work per image that a plan expects beyond the shared pass.

        paid: shared parts that other methods of the plan pay for; this method adds its own.
        """
        paid = set() if paid is None else paid
        own, parts = self.list_work(model)
        unpaid = [part for part in parts if part.name not in paid]
        paid |= {part.name for part in unpaid}
        return sum((part.counts for part in unpaid), own)

    def list_work(self, model: Explainee) -> tuple[Counts, tuple[SharedPart, ...]]:
        """Return the method's own work per image beyond the pass, and the shared parts that it
        reads.
        """
        given = self.all_parameters
        declared = (self.forwards, self.backwards, self.heads, self.head_backwards)
        own = Counts(*(count(model, given) if callable(count) else count for count in declared))
        parts = {
            part.name: part
            for part in (self.parts(model, given) if callable(self.parts) else self.parts)
        }
        if self.inner is not None and self.inner_models is None:
            work, read = self.inner.list_work(model)
            own, parts = own + work, parts | {part.name: part for part in read}
        elif (
            self.inner is not None and self.inner_models is not None
        ):  # elsewhere, where nothing is shared
            own = sum(
                (self.inner.plan_work(place) for place in self.inner_models(model, given)), own
            )
        return own, tuple(parts.values())

    def facts(self) -> dict[str, Any]:
        """Return what run.json and `cambench list` say of the method."""
        given = self.all_parameters
        compared = {"reference": self.compared_with} if self.compared_with else {}
        return {
            "id": self.id,
            "versions": self.versions,
            "group": self.group,
            "fidelity": self.fidelity,
            "citation": self.citation,
            "control": self.control,
            "class_agnostic": self.class_agnostic,
            "fast": self.fast,
            "parameters": {
                k: v if isinstance(v, (bool, int, float)) else variants.write_value(v)
                for k, v in given.items()
            },
            **compared,
        }

    def __call__(self, trace: Trace) -> torch.Tensor:
        """Return maps [B,H,W] float32; the model is left as it was, also when the method raises."""
        maps, _ = self.explain_counted(trace)
        return maps

    def explain_counted(self, trace: Trace) -> tuple[torch.Tensor, Spent]:
        """Make the maps [B,H,W] and count their cost; see `__call__`."""
        if "truth" in self.needs and trace.truth.pixels(*trace.size) is None:
            raise NotApplicable(
                f"{self.name} needs ground truth (boxes or masks), which these images do not have."
            )
        before, known = trace.prober.counts.copy(), set(trace.parts)
        trace.read.clear()
        start = time.perf_counter()
        with (
            leave_modes(),
            guard_network(trace.model.net),
            torch.no_grad(),
            self._forbid_writes(trace),
            forbid_exit(f"Method {self.name}"),
        ):
            maps = self.maps(trace)
            wait_for(trace.images.device)
        seconds = time.perf_counter() - start
        spent = Part(trace.prober.counts - before, seconds)
        return self._check_maps(maps, trace), _add_shared_costs(
            trace, spent, set(trace.parts) - known
        )

    def maps(self, trace: Trace) -> torch.Tensor:
        """Run the bare function: for methods that are built on this one, inside a sealed call of
        their own. A map that several methods of the trace want is made once.
        """
        if trace.wanted_maps and self.id in trace.wanted_maps:
            return trace.share(name_shared_map(self.id), lambda: self._make_maps(trace))
        return self._make_maps(trace)

    def _make_maps(self, trace: Trace) -> torch.Tensor:
        given = variants.keywords(self.function, self.parameters)
        return (
            self.function(trace, **given)
            if self.inner is None
            else self.function(trace, self.inner, **given)
        )

    @contextmanager
    def _forbid_writes(self, trace: Trace) -> Iterator[None]:
        """Refuse a method that writes into what all methods share."""
        shared = {
            "images": trace.images,
            "logits": trace.logits,
            "activations": trace.captured.values,
        }
        versions = {
            name: tensor._version for name, tensor in shared.items() if not tensor.is_inference()
        }
        yield
        for name, version in versions.items():
            if shared[name]._version != version:
                raise BenchError(
                    f"Method {self.name} wrote into the trace's {name}, which all methods share; "
                    "clone it."
                )

    def _check_maps(self, maps: Any, trace: Trace) -> torch.Tensor:
        expected = (len(trace), *trace.size)
        if not isinstance(maps, torch.Tensor) or tuple(maps.shape) != expected:
            got = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
            raise BenchError(
                f"Method {self.name} returned {got}; a method returns a tensor of shape {expected}."
            )
        if maps.is_complex():
            raise BenchError(
                f"Method {self.name} returned {maps.dtype}; a map holds real numbers, such as the "
                "absolute value."
            )
        own = maps.detach().to("cpu", torch.float32).contiguous()
        # A copy: whoever made the maps may hold them, and write into them later.
        return own.clone() if own.data_ptr() == maps.data_ptr() else own


def name_shared_map(identity: str) -> str:
    """Return the name of the shared part that holds the map of a method with this id."""
    return f"map {identity}"


def _add_shared_costs(trace: Trace, spent: Part, made: set[str]) -> Spent:
    """Return the cost of a method that runs alone.

    It is the method's own work, the shared pass, and every shared part that the method read.
    """
    counts, seconds = spent.counts, spent.seconds
    for name in made:  # it happened to be the first reader
        counts, seconds = counts - trace.parts[name].counts, seconds - trace.parts[name].seconds
    for name in trace.read | {"pass"}:
        if name in trace.parts:
            counts, seconds = counts + trace.parts[name].counts, seconds + trace.parts[name].seconds
    return Spent(counts, seconds, peak_memory_mib(trace))


def peak_memory_mib(trace: Trace) -> float:
    """Return the peak memory so far in MiB: of the GPU where the model is on one, else of this
    process.
    """
    if trace.images.is_cuda:
        return torch.cuda.max_memory_allocated(trace.images.device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    try:
        import resource
    except ImportError:  # a Python that was built without it
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
