"""Channel importance of an attention branch: which classes' channels make its map, before and after
fine-tuning.

The map head is one convolution over the C class channels and a batch norm. A channel's importance
is its weights summed over the kernel, signed and absolute (the same for 1x1 up to the sign), times
gamma / sqrt(var + eps) of that batch norm, whose sign matters. Importance is compared before and
after, and tested: the map without its strongest channels.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from bench.data import Subset
from bench.errors import BenchError
from bench.files import replaced_file, write_json
from bench.finetune.attention_maps import upsample_attention
from bench.finetune.placement import attention_net, energy_inside, frame_of
from bench.folder_owner import own_folder
from bench.models.abn import AttentionBranchNetwork
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.plain_figures import plain_texts, read_no_formulas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOPS = (1, 3, 5)
"""How many of the strongest channels are taken away, one ablation each."""
MOST_BARS = 30
"""Channels in the chart; of more classes those that changed most."""
TITLE_LETTERS = 9
"""Letters of a title per inch."""
BATCH = 64


@dataclass(frozen=True)
class Importance:
    """Importance of each class channel for the attention map: signed and absolute, [C] float64
    each.
    """

    signed: torch.Tensor
    absolute: torch.Tensor

    @property
    def order(self) -> list[int]:
        """Return the channels, the strongest (by absolute importance) first."""
        return self.absolute.argsort(descending=True, stable=True).tolist()


def importance(net: AttentionBranchNetwork) -> Importance:
    """Return sum(w_kuv) and sum(|w_kuv|) of the map head [1,C,k,k], times gamma / sqrt(var + eps)
    of its batch norm.

    The absolute sum is multiplied by the factor's absolute value.
    """
    weight, norm = net.attention.to_map.weight.detach().double()[0], net.attention.bn_map
    variance = norm.running_var
    assert variance is not None
    factor = norm.weight.detach().double() / (variance.double() + norm.eps).sqrt()
    return Importance(weight.sum((1, 2)) * factor, weight.abs().sum((1, 2)) * factor.abs())


@dataclass(frozen=True)
class ChannelComparison:
    """Importance before and after.

    table: channel, name, before, after, delta (signed importance), absolute_before, absolute_after.
    correlation: Spearman between before and after, signed; absolute_correlation: of the absolute
    importance. ablation: see `ablate`, of both models; empty without a subset.
    """

    before: str
    after: str
    table: pd.DataFrame
    correlation: float
    absolute_correlation: float
    ablation: pd.DataFrame
    simulated: bool = False

    def __str__(self) -> str:
        maps = " (simulated maps)" if self.simulated else ""
        return (
            f"{self.before} against {self.after}{maps}: rank correlation of the {len(self.table)} "
            f"channels {self.correlation:.3f} signed, {self.absolute_correlation:.3f} absolute"
        )


def compare_channels(
    before: Explainee, after: Explainee, subset: Subset | None = None, tops: Sequence[int] = TOPS
) -> ChannelComparison:
    """Return how the importance of the class channels changed from one attention branch network to
    another.

    subset: images on which each network's strongest channels are taken away; also gives the
    classes' names.
    """
    one, other = (importance(attention_net(model)) for model in (before, after))
    if len(one.signed) != len(other.signed):
        raise BenchError(
            f"{before.name} has {len(one.signed)} class channels and {after.name} "
            f"{len(other.signed)}; compare a model with what was fine-tuned from it."
        )
    count = len(one.signed)
    names = (
        subset.class_names
        if subset is not None and subset.num_classes == count
        else [str(n) for n in range(count)]
    )
    table = pd.DataFrame(
        {
            "channel": range(count),
            "name": list(names),
            "before": one.signed.numpy(),
            "after": other.signed.numpy(),
            "delta": (other.signed - one.signed).numpy(),
            "absolute_before": one.absolute.numpy(),
            "absolute_after": other.absolute.numpy(),
        }
    )
    ablations = [] if subset is None else [ablate(model, subset, tops) for model in (before, after)]
    return ChannelComparison(
        before.name,
        after.name,
        table,
        correlation(table["before"], table["after"]),
        correlation(table["absolute_before"], table["absolute_after"]),
        pd.concat(ablations, ignore_index=True) if ablations else pd.DataFrame(),
        bool(after.card.get("simulated", False)),
    )


def correlation(one: pd.Series, other: pd.Series) -> float:
    """Return Spearman's rank correlation; NaN where one of them is constant."""
    if one.nunique() < 2 or other.nunique() < 2:
        return float("nan")
    return float(spearmanr(one, other).statistic)


def drop_channels(model: Explainee, channels: Sequence[int]) -> Explainee:
    """Return the model with these class channels' weights in the map head set to zero."""
    net = copy.deepcopy(attention_net(model))
    with torch.no_grad():
        net.attention.to_map.weight[:, list(channels)] = 0
    return model.replace_net(net)


def ablate(model: Explainee, subset: Subset, tops: Sequence[int] = TOPS) -> pd.DataFrame:
    """Take the n strongest channels of the map head away, for each n of `tops` (and 0), and say
    what follows.

    Columns: model, removed, channels, top1 (%), energy (mean share of the map inside the truth, NaN
    without truth), change (mean absolute difference of the map from the whole one, in [0,1]).
    """
    order = importance(attention_net(model)).order
    rows, whole = [], torch.empty(0)
    for n in (0, *[n for n in tops if n <= len(order)]):
        right, energy, maps = _measure(drop_channels(model, order[:n]), subset)
        whole = maps if n == 0 else whole
        rows.append(
            {
                "model": model.name,
                "removed": n,
                "channels": " ".join(map(str, order[:n])),
                "top1": 100 * right,
                "energy": energy,
                "change": float((maps - whole).abs().mean()),
            }
        )
    return pd.DataFrame(rows)


def _measure(model: Explainee, subset: Subset) -> tuple[float, float, torch.Tensor]:
    """Return (share right in class, mean energy inside the truth, maps [n,h,w])."""
    net, geometry = attention_net(model), frame_of(model, subset)
    right, energies, maps = 0, list[float](), []
    for start in range(0, len(subset), BATCH):
        batch = subset.batch(range(start, min(start + BATCH, len(subset))), geometry)
        with guard_network(net), torch.no_grad():
            given = net.branches(model.normalise(batch.pixels.to(model.device)))
        own = given.attention[:, 0].cpu()
        maps.append(own)
        right += int((given.logits.argmax(1).cpu() == batch.labels).sum())
        truth = batch.truth.pixels(*model.frame)
        if truth is not None:
            energies += [
                e
                for e in energy_inside(upsample_attention(own[:, None], model.size), truth)
                if e is not None
            ]
    return (
        right / len(subset),
        float(np.mean(energies)) if energies else float("nan"),
        torch.cat(maps),
    )


# --- files


def write_channels(found: ChannelComparison, folder: Path) -> list[Path]:
    """Write channels.csv, ablation.csv, channels.json (correlations) and the chart channels.png;
    return the files.
    """
    with own_folder(folder, "comparison"):
        return _write_channels(found, folder)


def _write_channels(found: ChannelComparison, folder: Path) -> list[Path]:
    files = [folder / "channels.csv", folder / "channels.json", folder / "channels.png"]
    with replaced_file(files[0]) as temporary:
        found.table.to_csv(temporary, index=False, float_format="%.6g")
    facts = {
        name: getattr(found, name)
        for name in ("before", "after", "correlation", "absolute_correlation", "simulated")
    }
    write_json(files[1], facts)
    draw_channels(found, files[2])
    if len(found.ablation):
        files.append(folder / "ablation.csv")
        with replaced_file(files[-1]) as temporary:
            found.ablation.to_csv(temporary, index=False, float_format="%.6g")
    return files


def draw_channels(found: ChannelComparison, path: Path) -> None:
    """Draw bars of the signed importance before and after, and below them the difference."""
    with plain_texts():
        figure = build_channels_figure(found)
        read_no_formulas(figure)
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def build_channels_figure(found: ChannelComparison) -> Figure:
    """Return the figure of `draw_channels`."""
    import seaborn as sns
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found.table
    if len(shown) > MOST_BARS:
        changed = shown["delta"].abs().sort_values(ascending=False, kind="stable").index[:MOST_BARS]
        shown = shown.loc[sorted(changed)]
    long = shown.melt(
        id_vars=["name"], value_vars=["before", "after"], var_name="model", value_name="importance"
    )
    long["model"] = long["model"].map(
        {"before": f"{found.before} (before)", "after": f"{found.after} (after)"}
    )
    figure = Figure(figsize=(max(6, 0.42 * len(shown) + 2), 6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display and leaves the caller's backend alone
    with sns.axes_style("whitegrid"):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        sns.barplot(
            long, x="name", y="importance", hue="model", palette=["#8c96a3", "#2f6db3"], ax=upper
        )
        sns.barplot(shown, x="name", y="delta", color="#c7742f", ax=lower)
    maps = ", simulated maps" if found.simulated else ""
    most = (
        f", the {len(shown)} that changed most of {len(found.table)}"
        if len(shown) < len(found.table)
        else ""
    )
    title = (
        f"Class channels of the attention map{most}{maps}; rank correlation {found.correlation:.2f}"
    )
    # A title has one line whatever the figure's width, and is cut at both ends.
    figure.suptitle(textwrap.fill(title, int(figure.get_figwidth() * TITLE_LETTERS)))
    upper.set(xlabel="", ylabel="importance")
    upper.legend(title="")
    lower.set(xlabel="class channel", ylabel="after - before")
    for label in lower.get_xticklabels():
        label.set(rotation=60, ha="right", rotation_mode="anchor")
    for axes in (upper, lower):
        axes.axhline(0, color="#444", linewidth=0.8)
    return figure
