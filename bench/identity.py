"""Identity: the short digests by which records, boards and run folders know what made a number.

A built-in method or metric is known by its version, which a person raises when its numbers change.
A plug-in is known by its source: every file of the user's own that its import statements reach, so
that any edit is seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from bench.function_source import is_built_in, source_digest

FIRST_VERSIONS = {
    "attention_branch": "a9b45781cab0",
    "cam": "18d7d11c068a",
    "grad_cam": "ef41d833f3b1",
    "grad_cam_pp": "9295144280b2",
    "smooth_grad_cam_pp": "0531061accc2",
    "xgrad_cam": "6f52bec5f998",
    "shapley_cam": "117de1f7ad7a",
    "finer_cam": "9a0cf49fd7aa",
    "hires_cam": "48a5c82a0703",
    "layer_cam": "265e0c1cb77a",
    "eigen_cam": "7c7f633ec6b9",
    "eigen_grad_cam": "dfc40062cec9",
    "random": "c44289b63e8e",
    "random_pixel": "7aee4c56b19a",
    "constant": "c3c47acc7923",
    "center_gaussian": "a50252b97393",
    "sobel": "abc3c1436bdb",
    "fake_cam": "cb716b07a121",
    "random_cam": "0f7650adfba5",
    "oracle": "438ed8ad8ca1",
    "inverted_oracle": "5f6f3c7cc3b2",
    "deep_lift": "840a7a50c512",
    "deep_lift_shap": "3b49f3523988",
    "extremal_perturbation": "636e40a1b2d0",
    "saliency": "4a65aece6cd0",
    "input_x_gradient": "361be8206788",
    "integrated_gradients": "7814a7e05d52",
    "idgi": "c398d5c05c91",
    "smooth_grad": "6fe36faa8e54",
    "var_grad": "9310d54d8ab4",
    "gradient_shap": "b7560661e5c4",
    "guided_backprop": "888b18c9ae4a",
    "deconvnet": "1d82d6a11fa5",
    "guided_grad_cam": "f873d0b91ce5",
    "ablation_cam": "f031fa691f4d",
    "a_fmi": "c0da47b46f1b",
    "score_cam": "46beab3251a2",
    "abs_cam_init": "eebd1ec62b92",
    "abs_cam": "b0b183619520",
    "abs_cam_elementwise": "6b95c5b161a6",
    "layer_cam_fused": "dac311afb697",
    "fused": "7d57c86c0307",
    "full_grad": "ca5e3b34b00d",
    "group_cam": "6991c0dd6a49",
    "recipro_cam": "9bab38c2cad9",
    "occlusion": "17b5e56e567c",
    "rise": "05966436ebcf",
    "lime": "7043aa0eb4a8",
    "kernel_shap": "880eb8063f2d",
    "lrp": "e7e7408b4eec",
    "sa_cam": "178701fa66c2",
    "sa_cam_trained": "a32545924361",
    "tft": "b90bf8d137b8",
    "raw_attention": "61d824481aeb",
    "attention_rollout": "1bf3abff4e96",
    "gradient_rollout": "46fca1ff3718",
    "legrad": "689a1716ebc5",
}
"""What stands for the source of version 1 of a method in its id. The first records hold digests of
source text; these constants keep those ids. A method that is younger than this table has none and
does not need one."""


def digest(value: object) -> str:
    """Return 12 hex digits of the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def older_name(name: str, version: int) -> str:
    """Return how boards show what an older version of a method or metric made.

    >>> older_name("score_cam", 1), plain_name("score_cam (v1)")
    ('score_cam (v1)', 'score_cam')
    """
    return f"{name} (v{version})"


def plain_name(name: str) -> str:
    """Return a name without the version that `older_name` adds."""
    return name.partition(" (v")[0]


def method_source(base: str, version: int, function: Callable[..., Any]) -> str:
    """Return what stands for a method's source in its id.

    Args:
        base: The method's name without wrapped method and parameters.
        version: The version of a built-in method, from 1.
        function: The method's function, whose source counts for a plug-in.

    Returns:
        The stored digest or ``v<version>`` for a built-in method, else `source_digest`.
    """
    if not is_built_in(function):
        return source_digest(function)
    return FIRST_VERSIONS.get(base, "v1") if version == 1 else f"v{version}"


def add_sister(identity: str, weights_id: str) -> str:
    """Return the id that a metric's records have where a sister network runs it.

    >>> add_sister("masked_deletion@1f", "2e-3d")
    'masked_deletion@1f~2e-3d'
    """
    return f"{identity}~{weights_id}"
