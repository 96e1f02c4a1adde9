"""The three figures of guided fine-tuning: maps side by side, channel bars, what changed.

Yingyong, Wu and Yamauchi show what teaching by edited maps does. `maps.png` has a row for each
edited image: the original map, the edited one, the tuned one. `channels.png` has the importance of
each class channel before and after. `change.png` has the attention on the object of each
edited image. From the card of the tuned network it has the accuracy of both heads and the distance
to the maps. The numbers on other images show whether the network forgot something else.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.data import Subset
from bench.errors import BenchError
from bench.files import replaced_file
from bench.finetune.attention_maps import EditedMap, Grey, check_maps, map_facts, upsample_attention
from bench.finetune.channels import ChannelComparison, build_channels_figure, compare_channels
from bench.finetune.placement import attention_net, energy_inside, frame_of
from bench.folder_owner import own_folder
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.plain_figures import plain_texts, read_no_formulas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 6
"""Images in the figure of maps where the caller does not say."""
STAGES = ("original", "edited", "tuned")
BEFORE, AFTER, EDITED = "#8c96a3", "#2f6db3", "#c7742f"
COLOURS = "inferno"
"""Perceptually uniform."""
OPACITY = 0.65
PAGE = "figures.md"


@dataclass(frozen=True, eq=False)
class EditedImage:
    """One edited image: its pixels [H,W,3], its maps [3,H,W] and their energy inside the object.

    maps, energies: in the order of `STAGES`.  truth: the object [H,W] bool, or None.
    """

    item: str
    name: str
    frame: Grey
    maps: torch.Tensor
    energies: tuple[float | None, ...]
    truth: torch.Tensor | None

    @property
    def distances(self) -> tuple[float, float]:
        """Return the mean squared distance to the edited map: of the original and the tuned one."""
        original, edited, tuned = self.maps
        before, after = (float((one - edited).square().mean()) for one in (original, tuned))
        return before, after


@dataclass(frozen=True, eq=False)
class GuidedComparison:
    """What guided fine-tuning changed: see the module.

    Attributes:
        images: Of all edited maps, the one that missed its object most first.
        agreement: As in the card of the tuned network, {group: {"before": ..., "after": ...}}.
    """

    parent: str
    tuned: str
    simulated: bool
    images: list[EditedImage]
    channels: ChannelComparison
    agreement: dict[str, Any]

    @property
    def maps(self) -> str:
        """Return how the maps that taught are called."""
        return "simulated maps" if self.simulated else "edited maps"


def compare_guided(
    parent: Explainee, tuned: Explainee, maps: Sequence[EditedMap], subset: Subset
) -> GuidedComparison:
    """Return what the maps changed from a network to the one that they taught.

    Args:
        parent: Attention branch network that the maps were edited on.
        tuned: What `train_guided` made of it.
        maps: The edited maps.
        subset: The images that they are of.

    Raises:
        BenchError: The networks are not parent and child, the maps are not those that taught, or
            they are of other images.

    Example:
        >>> found = compare_guided(parent, tuned, load_maps("maps"), subset)  # doctest: +SKIP
        >>> write_figures(found, Path("figures"))  # doctest: +SKIP
    """
    _check_family(parent, tuned, maps)
    check_maps(maps, parent, subset)
    images = [_look(parent, tuned, one, subset) for one in maps]
    images.sort(key=lambda one: (one.energies[0] is None, one.energies[0] or 0.0))
    channels = compare_channels(parent, tuned)
    if subset.num_classes == len(channels.table):
        table = channels.table.assign(name=list(subset.class_names))
        channels = dataclasses.replace(channels, table=table)
    simulated = bool(tuned.card["maps"]["simulated"])
    return GuidedComparison(
        parent.name, tuned.name, simulated, images, channels, tuned.card["agreement"]
    )


def _check_family(parent: Explainee, tuned: Explainee, maps: Sequence[EditedMap]) -> None:
    for model in (parent, tuned):
        attention_net(model)
    facts = tuned.card.get("maps")
    if not isinstance(facts, dict) or "agreement" not in tuned.card:
        raise BenchError(
            f"{tuned.name} was not taught by edited maps; train it with `cambench finetune guided`."
        )
    if tuned.card.get("parent_sha256") != parent.fingerprint:
        raise BenchError(
            f"{tuned.name} was not trained from {parent.name} but from "
            f"{tuned.card.get('parent') or 'an unknown network'}; name that one first."
        )
    now = map_facts(maps)
    if facts.get("sha256") != now["sha256"]:
        raise BenchError(
            f"{tuned.name} learned from {facts.get('count')} maps, and the {now['count']} maps "
            "given are not these: some were added, changed or removed since; train it again."
        )


@torch.no_grad()
def _look(parent: Explainee, tuned: Explainee, edited: EditedMap, subset: Subset) -> EditedImage:
    index = subset.ids.index(edited.item)
    geometry = frame_of(parent, subset)
    batch = subset.batch([index], geometry)
    found = [torch.from_numpy(edited.values)]
    for model in (parent, tuned):
        with guard_network(model.net):
            x = model.normalise(batch.pixels.to(model.device))
            found.append(
                upsample_attention(attention_net(model).attention_map(x).cpu(), model.size)[0]
            )
    maps = torch.stack([found[1], found[0], found[2]])
    truth = batch.truth.pixels(*parent.frame)
    energies: Sequence[float | None] = (None,) * len(STAGES)
    if truth is not None:
        energies = energy_inside(maps, truth.expand(len(STAGES), *truth.shape[1:]))
    label = int(edited.facts["label"])
    name = subset.class_names[label] if label < len(subset.class_names) else str(label)
    frame = geometry.frame(subset[index].image)
    return EditedImage(
        edited.item, name, frame, maps, tuple(energies), None if truth is None else truth[0]
    )


# --- figures


def build_maps_figure(found: GuidedComparison, rows: int = ROWS) -> Figure:
    """Return a row for each edited image: the image, and its three maps on one colour scale."""
    shown = found.images[: max(1, rows)]
    figure = _make_figure(1.75 * (len(STAGES) + 1), 1.95 * len(shown) + 0.5)
    axes = figure.subplots(len(shown), len(STAGES) + 1, squeeze=False)
    for row, one in zip(axes, shown, strict=True):
        grey = one.frame.mean(-1)
        row[0].imshow(one.frame)
        row[0].set_ylabel(one.name, fontsize=8)
        most = float(one.maps.max()) or 1.0
        for axis, heat, energy in zip(row[1:], one.maps, one.energies, strict=True):
            axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
            axis.imshow(heat, cmap=COLOURS, alpha=OPACITY, vmin=0, vmax=most)
            text = "no object known" if energy is None else f"{100 * energy:.0f} % on the object"
            axis.set_xlabel(text, fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
            if one.truth is not None and one.truth.any() and not one.truth.all():
                axis.contour(one.truth.float(), [0.5], colors="white", linewidths=1)
    stages = [
        f"{name} (simulated)" if found.simulated and name == "edited" else name for name in STAGES
    ]
    for axis, name in zip(axes[0], ["image", *stages], strict=True):
        axis.set_title(name, fontsize=9)
    return figure


def build_change_figure(found: GuidedComparison) -> Figure:
    """Return what changed: the attention of each edited image, accuracy, distance to the maps."""
    figure = _make_figure(11, 3.6)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    _draw_images(left, found)
    heads = {"top1": "perception", "attention_top1": "attention branch"}
    held_out = found.agreement["held_out"]
    _draw_pairs(middle, {name: _read_pair(held_out, key) for key, name in heads.items()})
    middle.set(title="Other images: accuracy", ylabel="top-1 (%)", ylim=(0, 120))
    middle.set_yticks(range(0, 101, 20))  # the room above 100 is the legend's
    groups = {"edited": "taught", "aside": "kept aside", "held_out": "other images"}
    pairs = {
        name: _read_pair(found.agreement[key], "mse")
        for key, name in groups.items()
        if key in found.agreement
    }
    _draw_pairs(right, pairs)
    right.set(title="Distance to the wanted map", ylabel="mean squared error")
    middle.legend(fontsize=8, loc="upper center", ncols=2)
    for axis in (left, middle, right):
        axis.title.set_fontsize(9)
    return figure


def _draw_images(axis: Axes, found: GuidedComparison) -> None:
    known = [one.energies for one in found.images if None not in one.energies]
    if known:
        lines, places = 100 * np.array(known, dtype=float), [0, 1, 2]
        labels = ["original", "simulated" if found.simulated else "edited", "tuned"]
        axis.set(title="Attention on the object", ylabel="share inside (%)", ylim=(0, 100))
    else:
        lines, places = np.array([one.distances for one in found.images]), [0, 1]
        labels = ["original", "tuned"]
        axis.set(title="Distance to the edited map", ylabel="mean squared error")
    axis.plot(places, lines.T, color=BEFORE, linewidth=1, marker="o", markersize=3)
    axis.plot(places, lines.mean(0), color=EDITED, linewidth=3, marker="s", label="mean")
    axis.set_xticks(places, labels)
    axis.legend(fontsize=8)


def _draw_pairs(axis: Axes, pairs: dict[str, tuple[float, float]]) -> None:
    at, width = np.arange(len(pairs)), 0.38
    for side, (label, colour) in enumerate((("before", BEFORE), ("after", AFTER))):
        heights = [pair[side] for pair in pairs.values()]
        bars = axis.bar(at + (side - 0.5) * width, heights, width, color=colour, label=label)
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
    axis.set_xticks(at, list(pairs))


def _read_pair(group: dict[str, Any], key: str) -> tuple[float, float]:
    """Return a number before and after; NaN where the card has none."""
    values = (group[when].get(key) for when in ("before", "after"))
    before, after = (float("nan") if one is None else float(one) for one in values)
    return before, after


def _make_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display and leaves the caller's backend alone
    return figure


# --- files


def write_figures(found: GuidedComparison, folder: Path, rows: int = ROWS) -> list[Path]:
    """Write maps.png, channels.png, change.png, and figures.md with their alt texts.

    Returns:
        The four files.
    """
    figures: dict[str, Callable[[], Figure]] = {
        "maps": functools.partial(build_maps_figure, found, rows),
        "channels": functools.partial(build_channels_figure, found.channels),
        "change": functools.partial(build_change_figure, found),
    }
    files = []
    with own_folder(folder, "comparison"):
        for name, build in figures.items():
            with plain_texts():
                figure = build()
                read_no_formulas(figure)
            files.append(folder / f"{name}.png")
            with replaced_file(files[-1]) as temporary:
                figure.savefig(temporary, dpi=140, format="png")
        files.append(folder / PAGE)
        with replaced_file(files[-1]) as temporary:
            temporary.write_text(write_page(found, rows), encoding="utf-8")
    return files


def write_page(found: GuidedComparison, rows: int = ROWS) -> str:
    """Return figures.md: each figure with an alt text that says what it shows."""
    statements = describe_figures(found, rows)
    parts = [f"# {found.tuned}, taught by {len(found.images)} {found.maps} on {found.parent}"]
    for name, text in statements.items():
        plain = text.replace("[", "(").replace("]", ")")
        parts.append(f"![{plain}]({name}.png)\n\n{text}")
    return "\n\n".join(parts) + "\n"


def describe_figures(found: GuidedComparison, rows: int = ROWS) -> dict[str, str]:
    """Return what each figure shows, in words and numbers."""
    count = min(max(1, rows), len(found.images))
    which = (
        "the edited image"
        if len(found.images) == 1
        else f"{count} of {len(found.images)} edited images"
    )
    side = (
        f"Original, edited and tuned attention maps of {which}, the largest miss first. The three "
        "maps of a row share one colour scale."
    )
    known = [one.energies for one in found.images if None not in one.energies]
    if known:
        means = 100 * np.array(known, dtype=float).mean(0)
        change = (
            f"Mean attention on the object of {len(known)} edited images: {means[0]:.1f} % "
            f"originally, {means[1]:.1f} % in the {found.maps}, {means[2]:.1f} % after tuning."
        )
    else:
        before, after = np.array([one.distances for one in found.images]).mean(0)
        change = (
            f"Mean squared distance to the {found.maps}: {before:.4f} before, {after:.4f} after."
        )
    heads = found.agreement["held_out"]
    top, attention = (_read_pair(heads, key) for key in ("top1", "attention_top1"))
    change += (
        f" On {heads['after']['images']} other images top-1 went from {top[0]:.1f} to "
        f"{top[1]:.1f} %, and that of the attention branch from {attention[0]:.1f} to "
        f"{attention[1]:.1f} %."
    )
    table = found.channels.table
    most = table.iloc[int(table["delta"].abs().to_numpy().argmax())]
    bars = (
        f"Importance of {len(table)} class channels for the attention map, before and after. The "
        f"channel {most['name']} changed most, from {most['before']:.3g} to {most['after']:.3g}. "
        f"The rank correlation is {found.channels.correlation:.2f}."
    )
    return {"maps": side, "channels": bars, "change": change}
