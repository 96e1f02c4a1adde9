"""The split of a network into `features(x) -> A` and `head(A) -> logits`, so that a head can be
replayed alone.

`WholeSplit` uses timm's `forward_features` and `forward_head`. `LayerSplit` captures the output of
a named module and replays the network from there: every module that had finished before the layer
answers from stand-ins, so that only the rest runs. Both leave the network as it was, also when a
forward raises. Which layer is cut by default is decided in `default_layer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from bench.errors import BenchError, NotApplicable, suggestions
from bench.models.containers import find_grid_part, list_tensors, map_tensors, replace_tensor
from bench.models.fast_path import call_submodules
from bench.models.output_kind import describe_output
from bench.models.stand_in import StandIn


@dataclass
class Captured:
    """What one pass leaves: activations in the network's own layout, logits [B,C], the image size
    (H, W), the outputs of earlier modules that by-pass the layer (skip connections around it), and,
    where the layer returns several tensors, all of them: the activations are number `part`.
    channels: of the images.
    """

    values: torch.Tensor
    logits: torch.Tensor
    size: tuple[int, int]
    bypass: dict[str, list[Any]] = field(default_factory=dict)
    whole: Any = None
    part: int = 0
    channels: int = 3

    def select(self, rows: torch.Tensor) -> Captured:
        """Return the captured pass of the images at `rows` [n]."""
        bypass = {
            name: [_take(out, rows, len(self.values)) for out in outs]
            for name, outs in self.bypass.items()
        }
        whole = _take(self.whole, rows, len(self.values))
        return replace(
            self, values=self.values[rows], logits=self.logits[rows], bypass=bypass, whole=whole
        )

    def values_at(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the values of the images at `rows` [n], to be read only: a view where all rows are
        one image.
        """
        values: torch.Tensor = _take(self.values, rows, len(self.values))
        return values


class Split(Protocol):
    """A network cut at one layer."""

    layer: str
    is_bypassed: bool

    def capture(self, x: torch.Tensor) -> Captured:
        """Run the network once on x [B,3,H,W] and keep the layer's output."""
        ...

    def head(self, values: torch.Tensor, captured: Captured, rows: torch.Tensor) -> torch.Tensor:
        """Return logits [n,C] for activations [n,...] that replace those of the images at `rows`
        [n].
        """
        ...


class HeadInput:
    """Gives a head the activations to replay: a copy only where the head writes into what it is
    given.

    An activation that works in place at the start of a head would change the caller's tensor, so a
    copy is given until a run has been watched: a tensor counts what is written into it, unless it
    was made under `torch.inference_mode`.
    """

    def __init__(self) -> None:
        self.written: bool | None = None

    def run(
        self, head: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor
    ) -> torch.Tensor:
        """Return head(values); under autograd always of a copy, which keeps the caller's leaf
        intact.
        """
        if self.written is False and not torch.is_grad_enabled() and _lies_as_copy(values):
            return head(values)
        own = values.clone()
        before = None if own.is_inference() else own._version
        logits = head(own)
        if before is not None:
            self.written = bool(self.written) or own._version != before
        return logits


def _lies_as_copy(values: torch.Tensor) -> bool:
    """Return whether a copy would lie in memory as the tensor does: another order may move a
    result's last bits.
    """
    return (
        bool(values.storage_offset() == 0)
        and torch.empty_like(values, device="meta").stride() == values.stride()
    )


class WholeSplit:
    """timm's own split: A = forward_features(x), logits = forward_head(A); checked to equal net(x)
    by the explainee.
    """

    layer = "forward_features"
    is_bypassed = False

    def __init__(self, net: nn.Module) -> None:
        self.net: Any = net
        self._input = HeadInput()

    def capture(self, x: torch.Tensor) -> Captured:
        values = self.net.forward_features(x)
        if not isinstance(values, torch.Tensor):
            raise NotApplicable(
                "This network's features are not one tensor; name a layer (layer=...) to explain."
            )
        return Captured(
            values, self._input.run(self.net.forward_head, values), (x.shape[-2], x.shape[-1])
        )

    def head(self, values: torch.Tensor, captured: Captured, rows: torch.Tensor) -> torch.Tensor:
        return self._input.run(self.net.forward_head, values)


class ModuleCalls:
    """Keeps what the layer gave in its last call, and what the modules around it gave before.

    finished: outputs of the modules that finished before the layer's last call, and of the layer's
    own earlier calls.  One that runs inside another is not kept: it is not called when that one
    answers.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.runs = 0
        self.kept: Any = None
        self.finished: dict[str, list[Any]] = {}
        self._later: list[tuple[str, Any]] = []
        self._running: list[str] = []

    def enter(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            self._running.append(name)

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            self._running.pop()
            if name == self.layer:
                if self.runs:
                    self._later.insert(0, (name, self.kept))
                for earlier, out in self._later:
                    self.finished.setdefault(earlier, []).append(out)
                self._later.clear()
                self.runs += 1
                # A later in-place activation would change what was captured.
                self.kept = map_tensors(output, torch.Tensor.clone)
            elif not self._running:
                self._later.append((name, output))

        return hook


class LayerSplit:
    """The network cut at the output of a named module; of a module that runs several times, at the
    output of its last call.

    runs: how often the module ran in the last pass; 0: there was none yet.  is_bypassed: whether
    the network reads earlier outputs beside the layer's; known from the first pass.
    """

    def __init__(self, net: nn.Module, layer: str) -> None:
        modules = dict(net.named_modules())
        if layer not in modules or not layer:
            raise BenchError(
                "The network has no layer "
                f"{layer!r}.{suggestions(layer, [n for n in modules if n])}"
            )
        self.net = net
        self.layer = layer
        self.runs = 0
        self._modules = modules
        self._needs_bypass: bool | None = None
        self.is_bypassed = False
        self._input = HeadInput()
        self._before = self._outermost()

    def capture(self, x: torch.Tensor) -> Captured:
        watch = ModuleCalls(self.layer)
        hooked = (
            (self._modules[name], watch.enter(name), watch.leave(name))
            for name in (*self._before, self.layer)
        )
        with call_submodules(), _hooks(hooked):
            logits = self.net(x)
        if not isinstance(logits, torch.Tensor):
            raise BenchError(describe_output(logits))
        if not watch.runs:
            raise NotApplicable(
                f"Layer {self.layer!r} does not run in a forward; choose another layer."
            )
        self.runs = watch.runs
        values, whole, part = watch.kept, None, 0
        if not isinstance(values, torch.Tensor):
            whole, part = values, self._find_part(values)
            values = list_tensors(whole)[part]
        size = (x.shape[-2], x.shape[-1])
        return self._drop_needless_bypass(
            Captured(values, logits, size, watch.finished, whole, part, x.shape[1])
        )

    def _find_part(self, output: Any) -> int:
        part = find_grid_part(output)
        if part is None:
            raise NotApplicable(
                f"Layer {self.layer!r} returns {type(output).__name__}, in which there is no grid; "
                "choose another layer."
            )
        return part

    def _outermost(self) -> list[str]:
        """Return the modules that may finish before the layer and lie in no other such: its
        ancestors' children.
        """
        ancestors = {""} | {
            self.layer.rsplit(".", n)[0] for n in range(1, self.layer.count(".") + 1)
        }
        parents = {name: name.rpartition(".")[0] for name in self._modules if name}
        return [
            n
            for n, parent in parents.items()
            if parent in ancestors and n not in ancestors and n != self.layer
        ]

    def _drop_needless_bypass(self, captured: Captured) -> Captured:
        """Keep earlier outputs only when the rest of the network reads them (a skip connection
        around the layer).
        """
        if self._needs_bypass is None:
            self._needs_bypass = self.is_bypassed = not self._replays_alone(captured)
        if not self._needs_bypass:
            # Not NaN any more: what no logit reads may still be computed on, and then 0 * NaN is in
            # the gradient.
            captured.bypass = _hollow(captured.bypass, 1.0)
        return captured

    def _replays_alone(self, captured: Captured) -> bool:
        hollow = replace(captured, bypass=_hollow(captured.bypass, torch.nan))
        try:
            replayed = self.head(captured.values, hollow, torch.arange(len(captured.values)))
        except (
            RuntimeError
        ):  # code between the modules writes in place, which a stand-in does not allow
            return False
        return torch.allclose(replayed, captured.logits, rtol=1e-4, atol=1e-4)

    def head(self, values: torch.Tensor, captured: Captured, rows: torch.Tensor) -> torch.Tensor:
        return self._input.run(lambda own: self._replay(own, captured, rows), values)

    def _replay(self, values: torch.Tensor, captured: Captured, rows: torch.Tensor) -> torch.Tensor:
        count = len(captured.values)
        answers: dict[str, list[Any]] = {
            name: [_take(out, rows, count) for out in outs]
            for name, outs in captured.bypass.items()
        }
        own = (
            values
            if captured.whole is None
            else replace_tensor(_take(captured.whole, rows, count), captured.part, values)
        )
        answers[self.layer] = [*answers.get(self.layer, []), own]  # its last call is explained
        x = values.new_zeros(1).expand(len(values), captured.channels, *captured.size)
        with call_submodules(), self._answer_calls(answers):
            return self.net(x)  # type: ignore[no-any-return]

    @contextmanager
    def _answer_calls(self, answers: dict[str, list[Any]]) -> Iterator[None]:
        """Let modules answer their first calls from `answers`; later calls of a shared module run
        for real.
        """
        patched: list[StandIn] = []
        try:
            for name, outs in answers.items():
                patched.append(StandIn(self._modules[name], list(outs)))
                patched[-1].start()
            yield
        finally:
            for one in patched:
                one.stop()


@contextmanager
def _hooks(
    triples: Iterator[tuple[nn.Module, Callable[..., None], Callable[..., None]]],
) -> Iterator[None]:
    handles = []
    try:
        for module, enter, leave in triples:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hollow(bypass: dict[str, list[Any]], value: float) -> dict[str, list[Any]]:
    """Replace outputs by views of one value, of the same shape and no memory; NaN shows in the
    logits if it is read.
    """

    def hollow(tensor: torch.Tensor) -> torch.Tensor:
        shape = (1,) if tensor.ndim else ()
        return torch.full(shape, value, dtype=tensor.dtype, device=tensor.device).expand(
            tensor.shape
        )

    return {
        name: [map_tensors(out, hollow) if _all_float(out) else out for out in outs]
        for name, outs in bypass.items()
    }


def _all_float(value: Any) -> bool:
    return all(tensor.is_floating_point() for tensor in list_tensors(value))


def _take(value: Any, rows: torch.Tensor, count: int) -> Any:
    """Return outputs of `count` images for the images at `rows`, without copying what is one image
    or not stored.

    An output may have several rows per image (windows, TNT's inner patches), or none of its own (a
    position table).
    """

    def take(tensor: torch.Tensor) -> torch.Tensor:
        per_image = _rows_per_image(tensor, count)
        if per_image == 0:
            return tensor
        if per_image > 1:
            parts = tensor.unflatten(0, (count, per_image))  # type: ignore[no-untyped-call]
            return one(parts).flatten(0, 1)
        return one(tensor)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if all(stride == 0 for stride in tensor.stride()):
            return tensor[:1].expand(len(rows), *tensor.shape[1:])
        if len(rows) and bool((rows == rows[0]).all()):
            return tensor[rows[0] : rows[0] + 1].expand(len(rows), *tensor.shape[1:])
        return tensor[rows]

    return map_tensors(value, take)


def _rows_per_image(tensor: torch.Tensor, count: int) -> int:
    """Return how many rows of a tensor belong to each of `count` images; 0: it does not depend on
    them.

    Of one image alone a table [N,K] cannot be told from N rows; two axes are read as a table then.
    """
    if tensor.ndim == 0 or count == 0 or tensor.shape[0] % count:
        return 0
    if count == 1 and tensor.shape[0] > 1 and tensor.ndim < 3:
        return 0
    return tensor.shape[0] // count
