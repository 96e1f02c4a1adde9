"""Every choice that changes a number, as one frozen value; its hash stands in every record.

Definitions of "deletion", "localisation" and so on differ enough between libraries to change the winner, so none of
these choices is hidden in a metric. A metric declares the fields that it reads, gets a view of just those
(`Protocol.view`), and its own id hashes just those: a changed ROAD constant leaves deletion comparable.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.errors import BenchError, suggestions

CHOICES: dict[str, tuple[str, ...]] = {
    "faithfulness_target": ("predicted", "label"),
    "localization_target": ("label", "predicted"),
    "score": ("softmax",),
    "tie_rule": ("smooth_field",),
    "precision": ("float32",),
    "insertion_start": ("blur", "baseline"),
}
"""What the fields that name a rule can be; a rule that is not built is refused, not ignored."""

T = TypeVar("T")


def later(default: T) -> T:
    """Return a field that came after the first records of `cambench-1`: an id hashes it only off its default.

    No record of before depends on such a field, so at its default it must not make those records another protocol's.
    """
    made: T = field(default=default, metadata={"later": True})
    return made


@dataclass(frozen=True)
class Protocol:
    """The choices of one evaluation; the defaults are `cambench-1`.

    Lengths in pixels are given for a side of 224 and scale with the side.
    """

    name: str = "cambench-1"
    # --- shared
    faithfulness_target: str = "predicted"  # class explained by faithfulness, masking, complexity, cost
    localization_target: str = "label"  # class explained by localisation, on all images
    score: str = "softmax"  # float64 softmax of the float32 logits
    baseline: tuple[float, float, float] = (0.485, 0.456, 0.406)  # pixel-space colour of removed pixels
    tie_rule: str = "smooth_field"  # equal values: seeded 7x7 uniform noise, bilinear; then pixel index
    precision: str = "float32"
    seed: int = 0
    # --- deletion and insertion
    steps: int = 28  # whole pixels, all channels; n_i = round(i*H*W/steps), both ends
    insertion_start: str = "blur"  # what insertion starts from: "blur" or "baseline"
    blur_sigma_224: float = 10.0  # sigma = blur_sigma_224 * min(H,W)/224
    blur_radius_sigmas: float = 2.5  # radius = ceil(blur_radius_sigmas * sigma); reflect padding
    # --- threshold quality
    thresholds: int = 10  # t = 0..9: the lowest floor(0.1*t*N) pixels of unit(L) are set to 0
    # --- pointing game
    pointing_tolerance_224: float = 15.0  # hit: a truth pixel closer than this * side/224 (strictly)
    pointing_max_area: float = 0.25  # the primary set: truth covers at most this share of the frame
    # --- box localisation
    box_taus: int = 101  # tau = 0..1 step 0.01, strict >
    box_ious: tuple[float, ...] = (0.3, 0.5, 0.7)
    # --- mask localisation
    pixel_bins: int = 1001  # bins of unit(L) for the pooled precision
    # --- geometry
    box_min_visible: float = 0.25  # a box with a smaller visible share after the crop is dropped
    # --- how alike two maps are
    ssim_window: int = later(11)  # pixels; Gaussian, on unit(L), borders where it does not fit left out
    ssim_sigma: float = later(1.5)
    top_share: float = later(0.1)  # the most relevant pixels, of which the IoU is taken
    # --- robustness: pixel space, clipped to [0,1]
    attack_eps_255: tuple[float, ...] = later((1.0, 2.0, 4.0, 8.0))  # largest change of a pixel, /255
    pgd_steps: int = later(10)
    pgd_step: float = later(0.25)  # of eps
    sensitivity_radius: float = later(0.02)  # max-sensitivity: uniform in +- this, pixel space, not clipped
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

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise BenchError(f"Protocol field {name} is {getattr(self, name)!r}; it can be {' or '.join(allowed)}.")
        for name in ("steps", "thresholds", "box_taus", "pixel_bins"):
            if getattr(self, name) < (1 if name == "steps" else 2):
                raise BenchError(f"Protocol field {name} is {getattr(self, name)}, which is too small.")
        for name in ("pgd_steps", "sensitivity_draws", "infidelity_draws", "sanity_stages", "sanity_seeds"):
            if getattr(self, name) < 1:
                raise BenchError(f"Protocol field {name} is {getattr(self, name)}; it must be at least 1.")
        if self.ssim_window < 1 or self.ssim_window % 2 == 0:
            raise BenchError(f"Protocol field ssim_window is {self.ssim_window}; it must be odd.")
        if not all(0 < share < 1 for share in (*self.road_fractions, self.top_share)):
            raise BenchError("Protocol fields road_fractions and top_share must lie between 0 and 1, both excluded.")

    @property
    def id(self) -> str:
        """Return name and hash of all fields, e.g. `cambench-1@3f2a9c01b7de`; of later ones, see `later`."""
        hashed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "name" and not (f.metadata.get("later") and getattr(self, f.name) == f.default)
        }
        return f"{self.name}@{digest(hashed)}"

    def view(self, fields: tuple[str, ...]) -> ProtocolView:
        """Return a read-only view of `fields`; reading any other field raises AttributeError."""
        return ProtocolView(self, fields)


class ProtocolView:
    """The fields of a protocol that a metric declared; any other raises, so a metric's id cannot lie."""

    def __init__(self, protocol: Protocol, fields: tuple[str, ...]) -> None:
        self._values = {name: getattr(protocol, name) for name in fields}

    def __getattr__(self, name: str) -> Any:
        values: dict[str, Any] = object.__getattribute__(self, "_values")
        if name in values:
            return values[name]
        raise AttributeError(f"protocol field {name!r} is not declared in this metric's `reads`; add it there")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def hash(self) -> str:
        """Return the hash of the declared fields and their values."""
        return digest(self._values)


def digest(value: object) -> str:
    """Return 12 hex digits of the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


PROTOCOLS: dict[str, Protocol] = {"cambench-1": Protocol()}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol with this name, or the value itself."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise BenchError(f"Unknown protocol {protocol!r}.{suggestions(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]
