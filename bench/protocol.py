"""Every choice that changes a number, as one frozen value; its hash stands in every record.

Definitions of "deletion", "localisation" and so on differ enough between libraries to change the
winner, so none of these choices is hidden in a metric. A metric declares the fields that it reads,
gets a view of just those (`Protocol.view`), and its own id hashes just those: a changed ROAD
constant leaves deletion comparable.

Other libraries' definitions are values of the same fields (`PROTOCOLS`), and any field can be
changed by name: `get_protocol("quantus[step_features=224]")`. docs/protocols.md compares them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.errors import BenchError, suggestions
from bench.field_text import KINDS, read_field, read_settings, write_fields
from bench.identity import digest
from bench.protocol_checks import check_fields
from bench.protocol_view import ProtocolView as ProtocolView

FLOAT32, BFLOAT16 = "float32", "bfloat16"

T = TypeVar("T")


def later(default: T) -> T:
    """Return a field that came after the first records of `cambench-1`: an id hashes it only off
    its default.

    No record of before depends on such a field, so at its default it must not make those records
    another protocol's.
    """
    made: T = field(default=default, metadata={"later": True})
    return made


def quiet(default: T) -> T:
    """Return a field that came after records which could not depend on it, in metrics that they
    hold.

    As `later`, and a metric that reads it keeps the id it had before, as long as the field is at
    its default.
    """
    made: T = field(default=default, metadata={"later": True, "quiet": True})
    return made


@dataclass(frozen=True)
class Protocol:
    """The choices of one evaluation; the defaults are `cambench-1`.

    Lengths in pixels are given for a side of 224 and scale with the side.

    Attributes:
        name: Name, with changed fields in brackets.
        faithfulness_target: Class that faithfulness, masking, complexity and cost explain.
        localization_target: Class that localisation explains, on all images.
        score: "softmax" (float64, of the float32 logits), or "logit" in curves and ROAD.
        baseline: Pixel-space colour of removed pixels.
        tie_rule: Order of equal values: "smooth_field" (seeded 7x7 noise, bilinear), "first_index"
            or "last_index" of the flattened map.
        precision: Precision of the forward passes of metrics; a run lowers it metric by metric.
        seed: Seed of every draw.
        steps: Steps of deletion and insertion: n_i = round(i*H*W/steps), both ends.
        insertion_start: "blur", "baseline" (as `removed`) or "kernel" (the fixed kernel below).
        blur_sigma_224: Sigma of the blur in pixels.
        blur_radius_sigmas: Radius of the blur = ceil(this * sigma); padding reflects.
        thresholds: Threshold quality cuts at t = 0..n-1 the lowest floor(t*N/n) pixels of unit(L).
        pointing_tolerance_224: A hit lies closer to a truth pixel than this, in pixels.
        pointing_max_area: The primary set: truth covers at most this share of the frame.
        box_taus: Number of thresholds tau = 0..1 of a box, strict >.
        box_ious: IoUs that a box must reach.
        pixel_bins: Bins of unit(L) for the pooled precision.
        box_min_visible: A box with a smaller visible share after the crop is dropped.
        ssim_window: Side of the Gaussian window in pixels, on unit(L).
        ssim_sigma: Sigma of that window.
        top_share: Share of the most relevant pixels, whose IoU is taken.
        attack_eps_255: Largest changes of a pixel, /255, in pixel space clipped to [0,1].
        pgd_steps: Steps of the PGD attack.
        pgd_step: Length of a step, as a share of eps.
        sensitivity_radius: Max-sensitivity draws uniformly in +- this, pixel space, not clipped.
        sensitivity_draws: Number of these draws.
        infidelity_sigma: Standard deviation of the noise, normalised space.
        infidelity_draws: Number of draws.
        road_fractions: Shares of the pixels that ROAD imputes.
        road_noise: Standard deviation on imputed pixels, normalised space.
        sanity_stages: The classifier, then the rest in equal parts, cumulative.
        sanity_seeds: Number of randomised networks.
        references: Images without content that reference insensitivity uses.
        geometry: "own" (the manifest's frame, else the model's), or "squash" (the whole image).
        removed: Removed pixels become "colour" (`baseline`), "zero" (after normalisation) or
            "minimum" (the image's least value).
        features: "pixels" (all channels at once) or "channels" (each by itself).
        step_features: Features per step; 0: `steps` decides.
        step_rule: n_i is "nearest" or "down" to i*N/steps; "up": each step takes ceil(N/steps).
        curve_ends: "both", "last" (without step 0) or "none" (without the last point as well).
        curve_area: Trapezoids over "fraction" n_i/N, over equal "steps" from 0 to 1, or their
            "sum".
        kernel_side: Side of the kernel of `insertion_start`, in pixels whatever the side.
        kernel_sigma: Sigma of that kernel.
        kernel_border: Tails beyond its border are "cut" (sum 1) or "fold"ed back inside.
        kernel_padding: The image beyond its border is "reflect" or "zero" after normalisation.
        localization_map: "positive": mm(max(L,0)); "range": mm(L), a constant map all zero.
        box_levels: 0: the map's own values; n: floor(n*map), thresholds int(tau * its maximum).
        box_last_tau: Whether tau = 1 is tried; False: the step is 1/box_taus.
        box_shapes: 8-connected "components", or "contours" (holes have boxes too).
        box_choice: Which of a map's boxes may hit: "any", or the "largest" by area.
        box_edges: "half_open" real edges, or "inclusive" whole numbers.
        box_tau_from: Images that choose tau: "calibration", or the "scored" ones.

    Raises:
        BenchError: A value does not fit its field.

    Example:
        >>> bench.Protocol(steps=14).id.startswith("cambench-1@")
        True
    """

    name: str = "cambench-1"
    faithfulness_target: str = "predicted"
    localization_target: str = "label"
    score: str = "softmax"
    baseline: tuple[float, float, float] = (
        0.485,
        0.456,
        0.406,
    )
    tie_rule: str = "smooth_field"
    precision: str = FLOAT32
    seed: int = 0
    steps: int = 28
    insertion_start: str = "blur"
    blur_sigma_224: float = 10.0
    blur_radius_sigmas: float = 2.5
    thresholds: int = 10
    pointing_tolerance_224: float = 15.0
    pointing_max_area: float = 0.25
    box_taus: int = 101
    box_ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    pixel_bins: int = 1001
    box_min_visible: float = 0.25
    ssim_window: int = later(11)
    ssim_sigma: float = later(1.5)
    top_share: float = later(0.1)
    attack_eps_255: tuple[float, ...] = later((1.0, 2.0, 4.0, 8.0))
    pgd_steps: int = later(10)
    pgd_step: float = later(0.25)
    sensitivity_radius: float = later(0.02)
    sensitivity_draws: int = later(10)
    infidelity_sigma: float = later(0.2)
    infidelity_draws: int = later(10)
    road_fractions: tuple[float, ...] = later((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    road_noise: float = later(0.01)
    sanity_stages: int = later(5)
    sanity_seeds: int = later(3)
    references: tuple[str, ...] = later(("baseline", "black", "white", "blur", "noise"))
    geometry: str = quiet("own")
    removed: str = quiet("colour")
    features: str = quiet("pixels")
    step_features: int = quiet(0)
    step_rule: str = quiet("nearest")
    curve_ends: str = quiet("both")
    curve_area: str = quiet("fraction")
    kernel_side: int = quiet(11)
    kernel_sigma: float = quiet(5.0)
    kernel_border: str = quiet("cut")
    kernel_padding: str = quiet("reflect")
    localization_map: str = quiet("positive")
    box_levels: int = quiet(0)
    box_last_tau: bool = quiet(True)
    box_shapes: str = quiet("components")
    box_choice: str = quiet("any")
    box_edges: str = quiet("half_open")
    box_tau_from: str = quiet("calibration")

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def id(self) -> str:
        """Return name and hash of all fields, such as `cambench-1@3f2a9c01b7de`.

        A field that came later counts only where it is off its default (see `later`).
        """
        hashed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "name"
            and not (f.metadata.get("later") and getattr(self, f.name) == f.default)
        }
        return f"{self.name}@{digest(hashed)}"

    def changes(self, base: Protocol | None = None) -> dict[str, Any]:
        """Return the fields, without the name, that differ from another protocol's.

        Args:
            base: The other protocol; None takes `cambench-1`.

        Returns:
            {field: value of this protocol}.

        Example:
            >>> bench.Protocol(steps=4).changes()
            {'steps': 4}
        """
        base = base or Protocol()
        names = (f.name for f in dataclasses.fields(self) if f.name != "name")
        return {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(base, name)
        }

    def replace_fields(self, settings: Mapping[str, Any]) -> Protocol:
        """Return this protocol with other values, and a name that states them.

        Args:
            settings: {field: value}, or its text as in `quantus[step_features=224]`.

        Returns:
            A protocol.

        Raises:
            BenchError: A field is unknown, or a value does not fit it.

        Example:
            >>> bench.Protocol().replace_fields({"steps": "4"}).name
            'cambench-1[steps=4]'
        """
        values = {name: _read_value(self, name, value) for name, value in settings.items()}
        changed = dataclasses.replace(self, **values)
        base = PROTOCOLS.get(self.name.partition("[")[0], self)
        inside = write_fields(changed.changes(base), ",")
        return dataclasses.replace(changed, name=f"{base.name}[{inside}]" if inside else base.name)

    def replace_precision(self, precision: str) -> Protocol:
        """Return this protocol with another precision of the forward passes of metrics.

        Args:
            precision: "float32" or "bfloat16".

        Returns:
            A protocol.

        Raises:
            BenchError: The precision is unknown.

        Example:
            >>> bench.Protocol().replace_precision("bfloat16").name
            'cambench-1[precision=bfloat16]'
        """
        return (
            self if precision == self.precision else self.replace_fields({"precision": precision})
        )

    def view(self, fields: tuple[str, ...]) -> ProtocolView:
        """Return a read-only view of some fields; reading any other raises AttributeError.

        Args:
            fields: Names of fields.

        Returns:
            The view.

        Raises:
            AttributeError: There is no such field.

        Example:
            >>> bench.Protocol().view(("steps",)).steps
            28
        """
        return ProtocolView(self, fields)


Fields = Protocol | ProtocolView
"""What a function can read a protocol's fields from."""

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(),
        # Petsiuk et al., BMVC 2018; github.com/eclique/RISE, evaluation.py and Evaluation.ipynb
        Protocol(
            "rise",
            geometry="squash",
            tie_rule="last_index",
            removed="zero",
            step_features=224,
            curve_area="steps",
            insertion_start="kernel",
            kernel_border="fold",
            kernel_padding="zero",
        ),
        # Choe et al., CVPR 2020; github.com/clovaai/wsolevaluation, MaxBoxAccV2 and PxAP
        Protocol(
            "wsol",
            geometry="squash",
            tie_rule="first_index",
            localization_map="range",
            box_levels=255,
            box_taus=1000,
            box_last_tau=False,
            box_shapes="contours",
            box_edges="inclusive",
            box_tau_from="scored",
        ),
        # Hedstroem et al., JMLR 2023; Quantus 0.6.0, PixelFlipping
        Protocol(
            "quantus",
            faithfulness_target="label",
            tie_rule="first_index",
            removed="minimum",
            features="channels",
            step_features=1,
            curve_ends="last",
            curve_area="sum",
            insertion_start="baseline",
        ),
        # TorchCAM 0.5.0, DeletionInsertionMetric and ClassificationMetric as in its examples
        # (softmax)
        Protocol(
            "torchcam",
            tie_rule="first_index",
            removed="zero",
            steps=20,
            step_rule="up",
            insertion_start="baseline",
        ),
        # Fel et al., 2022; Xplique's Deletion and Insertion
        Protocol(
            "xplique",
            faithfulness_target="label",
            score="logit",
            tie_rule="last_index",
            removed="zero",
            steps=10,
            step_rule="down",
            curve_area="steps",
            insertion_start="baseline",
        ),
    )
}
"""The protocols by name: `cambench-1`, and what other libraries choose where they choose
otherwise.
"""

_ADDRESS = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<settings>[^\[\]]*)\])?")


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of a name, with fields changed where it says so, or the value itself.

    >>> get_protocol("quantus[step_features=224]").step_features
    224
    """
    if isinstance(protocol, Protocol):
        return require_float32(protocol)
    found = _ADDRESS.fullmatch(protocol.strip())
    name = found["name"].strip() if found else protocol
    if found is None or name not in PROTOCOLS:
        raise BenchError(f"Unknown protocol {protocol!r}.{suggestions(name, PROTOCOLS)}")
    return require_float32(
        PROTOCOLS[name].replace_fields(read_settings(protocol, found["settings"] or ""))
    )


def require_float32(protocol: Protocol) -> Protocol:
    """Return the protocol; one in a lower precision is an error.

    Only a run may lower the precision, after its guard has checked the model.
    """
    if protocol.precision != FLOAT32:
        raise BenchError(
            f"The protocol {protocol.name} asks for {protocol.precision} itself, unchecked; ask a "
            f"run for it, which checks it for each model: --precision {protocol.precision}."
        )
    return protocol


def _read_value(protocol: Protocol, name: str, value: Any) -> Any:
    """Return a field's value in the field's type, from text where it is text."""
    known = {f.name: f.default for f in dataclasses.fields(Protocol) if f.name != "name"}
    if name not in known:
        raise BenchError(
            f"Protocol {protocol.name} has no field {name!r}.{suggestions(name, known)}"
        )
    if not isinstance(value, str) or isinstance(known[name], str):
        return value
    try:
        return read_field(value, known[name])
    except ValueError:
        kind = KINDS[type(known[name])]
        raise BenchError(f"Protocol {protocol.name}[{name}={value}]: give {kind}.") from None
