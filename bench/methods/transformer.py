"""Attention methods of transformers: maps from the attention probabilities A^l [B,heads,S,S] of all
blocks l.

All read one row: that of the class token where the head reads it (the mean of class and
distillation token for a distilled DeiT), the mean over the patches' rows where the head averages
the patches, and the row of the pooling query where it pools by attention. The row's patches are the
map, at patch resolution, then bilinear; what falls on prefix tokens (class, distillation,
registers) is left out. Only relative values matter, so nothing is normalised.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from bench.engine.attention import Attention, attention, attention_gradients, block_gradients
from bench.engine.counts import Counts
from bench.engine.shared_parts import SharedPart
from bench.engine.trace import Trace
from bench.methods.registration import register_method
from bench.ranges import Range

ATTENTION = SharedPart("attention", Counts(forwards=1))
ATTENTION_GRADIENTS = SharedPart("attention gradients", Counts(backwards=1))
"""What `attention` and `attention_gradients` cost; traces keep both, whatever their size."""


@register_method(
    "raw_attention",
    group="attention",
    fidelity="paper",
    citation="Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020 (their "
    "baseline, raw attention)",
    class_agnostic=True,
    parts=(ATTENTION,),
)
def raw_attention(trace: Trace) -> torch.Tensor:
    """The row of the last attention before the head, mean over heads. [B,H,W], >= 0.

    Attention pooling and CaiT's class attention are such an attention themselves.
    """
    found = attention(trace)
    row = (
        _first_row(found)
        if found.pool is not None
        else multiply_row(_first_row(found), found.layers[-1].mean(1))
    )
    return trace.upsample(found.patches(row))


@register_method(
    "attention_rollout",
    group="attention",
    fidelity="official",
    citation="Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3 "
    "(attention_flow)",
    class_agnostic=True,
    parts=(ATTENTION,),
)
def attention_rollout(trace: Trace) -> torch.Tensor:
    """The row of prod_l (0.5 I + 0.5 mean_heads A^l), the last layer leftmost. [B,H,W], >= 0.

    Attention pooling multiplies by its row from the left, without 0.5 I: its query is no token.
    """
    found = attention(trace)
    return trace.upsample(
        found.patches(roll_out(_first_row(found), [a.mean(1) for a in found.layers]))
    )


@register_method(
    "gradient_rollout",
    group="attention",
    fidelity="official",
    citation="Chefer, Gur and Wolf, Generic Attention-model Explainability, ICCV 2021, eq. 5-6, "
    "and the authors' code for ViT",
    parts=(ATTENTION, ATTENTION_GRADIENTS),
)
def gradient_rollout(trace: Trace) -> torch.Tensor:
    """The row of R - I: R = I, then for each layer R <- R + mean_heads((dS_c/dA * A)+) R. [B,H,W],
    >= 0.

    I itself reaches no patch from a class token. For average pooling, which is not in the paper, it
    would be the same constant at all patches, far above the rest, and is left out (as in the
    paper's eq. 8-9). Attention pooling: the row is mean_heads((dS_c/dP * P)+) R of its own map P,
    their rule for a query over other tokens (eq. 10, without its normalisation).
    """
    found, gradients = attention(trace), attention_gradients(trace)
    relevances = [relevance(a, g) for a, g in zip(found.layers, gradients.layers, strict=True)]
    if found.pool is None or gradients.pool is None:
        row = gather_relevance(_first_row(found), relevances)
    else:
        first = relevance(found.pool, gradients.pool).mean(1)
        row = first + gather_relevance(first, relevances)
    return trace.upsample(found.patches(row))


@register_method(
    "legrad",
    group="attention",
    fidelity="official",
    citation="Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via "
    "Feature Formation Sensitivity, ICCV 2025, arXiv:2404.03214 (WalBouss/LeGrad)",
    backwards=1,
    parts=(ATTENTION,),
)
def legrad(
    trace: Trace,
    *,
    layers: Annotated[int, Range(0, 10_000)] = 0,
    token: Literal["mean", "model"] = "mean",
) -> torch.Tensor:
    """mean over layers l, heads and query tokens of ReLU(d s^l / dA^l). [B,H,W], >= 0.

    s^l is the target's logit that norm and head give the tokens after block l. As in the authors'
    code for CLIP these are averaged over all tokens first, class token too; token="model" lets the
    head read its own (the class token). Attention pooling (their code for SigLIP): s^l of all
    tokens after block l, and the gradient by the pooling map. layers: how many of the last ones; 0:
    all, as the paper says (their code's default is 2). The classifier stands in place of their text
    embedding, with its logit in place of the cosine.
    """

    def mean_row(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.relu().mean((1, 2))

    rows = block_gradients(trace, layers, token == "mean", mean_row)
    return trace.upsample(attention(trace).patches(torch.stack(rows).mean(0)))


def _first_row(found: Attention) -> torch.Tensor:
    """Return what the head reads of each token, [B,S]: of the class token, the patches, or by the
    pooling query.
    """
    if found.pool is not None:
        return found.pool.mean((1, 2))
    return found.queries.expand(len(found.logits), -1)


def multiply_row(row: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return row [B,S] times matrix [B,S,S]."""
    return torch.einsum("bs,bst->bt", row, matrix)


def roll_out(row: torch.Tensor, layers: list[torch.Tensor]) -> torch.Tensor:
    """Return row [B,S] times prod_l (0.5 I + 0.5 A^l), A^l [B,S,S], the last layer first; a sum of
    1 stays 1.
    """
    for a in reversed(layers):
        row = 0.5 * row + 0.5 * multiply_row(row, a)
    return row


def relevance(probabilities: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Return mean_heads((gradient * A)+), [B,S,S] of [B,heads,S,S]."""
    return (gradients * probabilities).relu().mean(1)


def gather_relevance(row: torch.Tensor, relevances: list[torch.Tensor]) -> torch.Tensor:
    """Return row [B,S] times R - I, R = prod_l (I + E^l), E^l [B,S,S], the last layer first.

    I is never added and taken off again: relevances may be far smaller than its rounding.
    """
    total = torch.zeros_like(row)
    for e in reversed(relevances):
        total = total + multiply_row(row + total, e)
    return total
