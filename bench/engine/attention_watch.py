"""A watch over one forward: the attention probabilities of every block, and the block's output.

Nothing of the network is changed for it: while the pass runs, a torch function mode answers the
fused attention (`scaled_dot_product_attention`, and `multi_head_attention_forward` around it) by
the same attention written out, and keeps every softmax that runs inside a block. So `fused_attn`
flags, prefix tokens, query-key norms, rotary embeddings and relative position biases are all as
they are, and there is nothing to put back when the pass raises.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

_SOFTMAX = (torch.Tensor.softmax, torch.softmax, F.softmax)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)
_UNUSUAL = (
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "key_padding_mask",
    "attn_mask",
    "use_separate_proj_weight",
    "static_k",
    "static_v",
    "is_causal",
)
"""What `multi_head_attention_forward` can be given and no image classifier gives."""


class AttentionWatch(TorchFunctionMode):
    """Keeps the softmax [B,heads,rows,columns] of each attention by the name of the module that it
    runs in.

    maps: {name: probabilities, in order}; "" stands for all others.  outputs: {name: what the
    module returned, the first of several}.  running: the modules named that the pass is inside of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.outputs: dict[str, Any] = {}
        self.running: list[str] = []

    @property
    def inside(self) -> str:
        """Return the innermost module named that the pass is inside of, or ""."""
        return self.running[-1] if self.running else ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            return self._attend_multi_head(args, kwargs or {})
        out = func(*args, **(kwargs or {}))
        return self._keep(out) if func in _SOFTMAX and out.ndim == 4 else out

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **others: Any,
    ) -> torch.Tensor:
        """softmax(scale * Q K^T + mask) V; the network is in eval mode, so nothing is dropped."""
        if is_causal or any(
            others.values()
        ):  # no image classifier's; without a map it is not applicable
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, **others
            )
        scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(
            -2, -1
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._keep(scores.softmax(-1)) @ value

    def _attend_multi_head(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`nn.MultiheadAttention`, whose own pass hides its softmax: the same, written out."""
        bound = _MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        query = given["query"]
        if query.ndim != 3 or any(
            given[name] is not None and given[name] is not False for name in _UNUSUAL
        ):
            found: tuple[torch.Tensor, torch.Tensor | None] = F.multi_head_attention_forward(
                *args, **kwargs
            )
            return found
        length, count, channels = query.shape
        bias = given["in_proj_bias"]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        query, key, value = (
            F.linear(given[name], weight, one)
            .reshape(-1, count, given["num_heads"], channels // given["num_heads"])
            .permute(1, 2, 0, 3)
            for name, weight, one in zip(
                ("query", "key", "value"), given["in_proj_weight"].chunk(3), biases, strict=True
            )
        )
        values = (
            self._attend(query, key, value).permute(2, 0, 1, 3).reshape(length, count, channels)
        )
        output = F.linear(values, given["out_proj_weight"], given["out_proj_bias"])
        if not given["need_weights"]:
            return output, None
        weights = self.maps[self.inside][-1]
        return output, weights.mean(1) if given["average_attn_weights"] else weights

    def _keep(self, probabilities: torch.Tensor) -> torch.Tensor:
        if (
            not probabilities.requires_grad and torch.is_grad_enabled()
        ):  # the first of the pass: the graph starts here, not at the image
            probabilities.requires_grad_()
        self.maps[self.inside].append(probabilities)
        return probabilities


@contextmanager
def watch_blocks(net: nn.Module, names: Iterable[str]) -> Iterator[AttentionWatch]:
    """Run a block under a watch that knows inside which of the modules named the pass is."""
    watch = AttentionWatch()

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            watch.running.append(name)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            watch.running.pop()
            watch.outputs[name] = take_first(output)

        return hook

    handles = []
    try:
        for name in names:
            module = net.get_submodule(name)
            handles += [
                module.register_forward_pre_hook(enter(name)),
                module.register_forward_hook(leave(name)),
            ]
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def take_first(output: Any) -> Any:
    """Return a tensor itself, of a tuple or list its first member."""
    return output[0] if isinstance(output, (tuple, list)) and output else output
