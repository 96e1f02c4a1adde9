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
    """

    name: str = "cambench-1"
    # --- shared
    faithfulness_target: str = (
        "predicted"  # class explained by faithfulness, masking, complexity, cost
    )
    localization_target: str = "label"  # class explained by localisation, on all images
    # "softmax": float64, of the float32 logits; "logit": the raw output, in curves and ROAD (what
    # is about a drop of confidence or log-odds keeps the probability)
    score: str = "softmax"
    baseline: tuple[float, float, float] = (
        0.485,
        0.456,
        0.406,
    )  # pixel-space colour of removed pixels
    # equal values: "smooth_field": seeded 7x7 uniform noise, bilinear, then pixel index;
    # "first_index", "last_index": in the order of the flattened map, or against it (a stable sort
    # that is read backwards)
    tie_rule: str = "smooth_field"
    precision: str = (
        FLOAT32  # of what metrics probe; a run lowers it metric by metric (docs/precision.md)
    )
    seed: int = 0
    # --- deletion and insertion
    steps: int = 28  # whole pixels, all channels; n_i = round(i*H*W/steps), both ends
    insertion_start: str = (
        "blur"  # "blur"; "baseline": what `removed` says; "kernel": the fixed kernel below
    )
    blur_sigma_224: float = 10.0  # sigma = blur_sigma_224 * min(H,W)/224
    blur_radius_sigmas: float = 2.5  # radius = ceil(blur_radius_sigmas * sigma); reflect padding
    # --- threshold quality
    thresholds: int = 10  # t = 0..9: the lowest floor(0.1*t*N) pixels of unit(L) are set to 0
    # --- pointing game
    pointing_tolerance_224: float = (
        15.0  # hit: a truth pixel closer than this * side/224 (strictly)
    )
    pointing_max_area: float = 0.25  # the primary set: truth covers at most this share of the frame
    # --- box localisation
    box_taus: int = 101  # tau = 0..1 step 0.01, strict >
    box_ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    # --- mask localisation
    pixel_bins: int = 1001  # bins of unit(L) for the pooled precision
    # --- geometry
    box_min_visible: float = 0.25  # a box with a smaller visible share after the crop is dropped
    # --- how alike two maps are
    ssim_window: int = later(
        11
    )  # pixels; Gaussian, on unit(L), borders where it does not fit left out
    ssim_sigma: float = later(1.5)
    top_share: float = later(0.1)  # the most relevant pixels, of which the IoU is taken
    # --- robustness: pixel space, clipped to [0,1]
    attack_eps_255: tuple[float, ...] = later(
        (1.0, 2.0, 4.0, 8.0)
    )  # largest change of a pixel, /255
    pgd_steps: int = later(10)
    pgd_step: float = later(0.25)  # of eps
    sensitivity_radius: float = later(
        0.02
    )  # max-sensitivity: uniform in +- this, pixel space, not clipped
    sensitivity_draws: int = later(10)
    # --- infidelity
    infidelity_sigma: float = later(0.2)  # of the normal noise, normalised space
    infidelity_draws: int = later(10)
    # --- ROAD
    road_fractions: tuple[float, ...] = later((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    road_noise: float = later(0.01)  # standard deviation on imputed pixels, normalised space
    # --- sanity
    sanity_stages: int = later(5)  # the classifier, then the rest in equal parts, cumulative
    sanity_seeds: int = later(3)
    # --- reference insensitivity
    references: tuple[str, ...] = later(("baseline", "black", "white", "blur", "noise"))
    # --- what other libraries choose otherwise
    # "own": the manifest's frame, else the models'; "squash": where no manifest fixes it, the whole
    # image, bilinear
    geometry: str = quiet("own")
    # removed pixels become "colour": `baseline`; "zero": 0 after normalisation; "minimum": the
    # image's least value of all channels after normalisation
    removed: str = quiet("colour")
    features: str = quiet(
        "pixels"
    )  # "pixels": all channels at once; "channels": each channel of a pixel by itself
    step_features: int = quiet(0)  # features per step; 0: `steps` says how many steps
    # of `steps`: n_i = "nearest" or "down" to i*N/steps; "up": each step takes ceil(N/steps), the
    # last what is left
    step_rule: str = quiet("nearest")
    curve_ends: str = quiet(
        "both"
    )  # "both"; "last": without step 0; "none": without the last point as well
    # area under a curve: trapezoids over "fraction": n_i/N; "steps": equal steps from 0 to 1;
    # "sum": steps of length 1
    curve_area: str = quiet("fraction")
    # --- insertion_start = "kernel": a square Gaussian kernel, in pixels whatever the side
    kernel_side: int = quiet(11)
    kernel_sigma: float = quiet(5.0)
    kernel_border: str = quiet(
        "cut"
    )  # tails beyond its border are "cut" (sum 1 all the same) or "fold"ed back inside
    kernel_padding: str = quiet(
        "reflect"
    )  # the image beyond its border: "reflect" or "zero" after normalisation
    # --- boxes and pooled precision
    localization_map: str = quiet(
        "positive"
    )  # "positive": mm(max(L,0)); "range": mm(L), a constant map all zero
    box_levels: int = quiet(
        0
    )  # 0: the map's own values; n: floor(n*map), and thresholds int(tau * its maximum)
    box_last_tau: bool = quiet(True)  # tau = 0..1; False: 1 is left out, so the step is 1/box_taus
    box_shapes: str = quiet(
        "components"
    )  # 8-connected "components", or "contours": holes have boxes too
    box_choice: str = quiet(
        "any"
    )  # which of a map's boxes may hit: "any", or the "largest" by area
    # "half_open": [x0,y0,x1+1,y1+1], real edges; "inclusive": whole numbers, both end pixels
    # counted
    box_edges: str = quiet("half_open")
    box_tau_from: str = quiet(
        "calibration"
    )  # the images that choose tau per IoU: "calibration", or the "scored" ones

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def id(self) -> str:
        """Return name and hash of all fields, e.g. `cambench-1@3f2a9c01b7de`; of later ones, see
        `later`.
        """
        hashed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "name"
            and not (f.metadata.get("later") and getattr(self, f.name) == f.default)
        }
        return f"{self.name}@{digest(hashed)}"

    def changes(self, base: Protocol | None = None) -> dict[str, Any]:
        """Return the fields, without the name, that differ from `base` (default: `cambench-1`)."""
        base = base or Protocol()
        names = (f.name for f in dataclasses.fields(self) if f.name != "name")
        return {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(base, name)
        }

    def replace_fields(self, settings: Mapping[str, Any]) -> Protocol:
        """Return this protocol with other values, and a name that states them.

        For example `quantus[step_features=224]`.

        settings: field -> value, or text as an address writes it. An unknown field, or a value that
        does not fit, is an error.
        """
        values = {name: _read_value(self, name, value) for name, value in settings.items()}
        changed = dataclasses.replace(self, **values)
        base = PROTOCOLS.get(self.name.partition("[")[0], self)
        inside = write_fields(changed.changes(base), ",")
        return dataclasses.replace(changed, name=f"{base.name}[{inside}]" if inside else base.name)

    def replace_precision(self, precision: str) -> Protocol:
        """Return this protocol with what metrics probe in another precision:
        `cambench-1[precision=bfloat16]`.
        """
        return (
            self if precision == self.precision else self.replace_fields({"precision": precision})
        )

    def view(self, fields: tuple[str, ...]) -> ProtocolView:
        """Return a read-only view of `fields`; reading any other field raises AttributeError."""
        return ProtocolView(self, fields)


class ProtocolView:
    """The fields of a protocol that a metric declared; any other raises, so a metric's id cannot
    lie.
    """

    def __init__(self, protocol: Protocol, fields: tuple[str, ...]) -> None:
        self._values = {name: getattr(protocol, name) for name in fields}
        defaults = {
            f.name: f.default for f in dataclasses.fields(protocol) if f.metadata.get("quiet")
        }
        self._silent = {
            name for name in fields if name in defaults and self._values[name] == defaults[name]
        }

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "_values")
        if name in values:
            return values[name]
        raise AttributeError(
            f"protocol field {name!r} is not declared in this metric's `reads`; add it there"
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def get(self, name: str, default: Any) -> Any:
        """Return a field if it is declared, else the default: for what metrics share and need not
        declare.
        """
        return self._values.get(name, default)

    @property
    def hash(self) -> str:
        """Return the hash of the declared fields and their values; `quiet` ones count off their
        default only.
        """
        return digest(
            {name: value for name, value in self._values.items() if name not in self._silent}
        )


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
