"""Sister networks: copies of a network that were trained on masked images.

A sister's card names the sha256 of its parent's weights, so that a sister is never taken for
another network's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError, NotApplicable
from bench.models.card_keys import read_card
from bench.models.explainee import Explainee
from bench.models.zoo import MODELS, SISTERS, load_model

SISTER_OF = "sister_of"
"""The key of a sister's card that holds the sha256 of its parent's weights."""


def find_sister(model: Explainee) -> Explainee | None:
    """Return the sister of a model: the one attached to it, else a bundled one, else None.

    A network whose card says that it is a sister answers for itself: its own maps are scored in
    domain. The sister is on the model's device, in eval mode.
    """
    if model.sister is None and SISTER_OF in model.card:
        return model
    if model.sister is None:
        name = _list_bundled().get(model.fingerprint)
        model.sister = None if name is None else load_model(name)
    return None if model.sister is None else model.sister.to(model.device)


def require_sister(model: Explainee) -> Explainee:
    """Return the sister of a model.

    Raises:
        NotApplicable: It has none. The sentence holds the command that trains one.
    """
    sister = find_sister(model)
    if sister is None:
        raise NotApplicable(describe_missing_sister(model.name))
    return sister


def describe_missing_sister(name: str) -> str:
    """Return the sentence about a model without a sister."""
    return (
        f"{name} has no sister network; train one with `cambench finetune masked --model {name} "
        "--subset SUBSET` and give its card to --sister."
    )


def attach_sisters(models: Sequence[Explainee], cards: Sequence[str]) -> None:
    """Attach sisters to their parents.

    Args:
        models: The models of a run.
        cards: Names or card files of sisters.

    Raises:
        BenchError: One is no sister, or the sister of none of the models.
    """
    for card in cards:
        attach_sister(models, load_model(card))


def list_own_sisters(models: Sequence[Explainee], cards: Sequence[str]) -> list[str]:
    """Return those names or card files whose parent is one of the models."""
    own = {model.fingerprint for model in models}
    return [card for card in cards if load_model(card).card.get(SISTER_OF) in own]


def attach_sister(models: Sequence[Explainee], sister: Explainee) -> None:
    """Attach a sister to the models that have its parent's weights.

    Raises:
        BenchError: The network is no sister, the sister of none of the models, or does not take
            images as they do.
    """
    parent = sister.card.get(SISTER_OF)
    if not isinstance(parent, str):
        raise BenchError(
            f"{sister.name} is no sister network: its card has no {SISTER_OF!r}; give the card "
            "that `cambench finetune masked` wrote."
        )
    own = [model for model in models if model.fingerprint == parent]
    if not own:
        raise BenchError(
            f"{sister.name} is the sister of {sister.parent or 'a network'} with the weights "
            f"{parent[:12]}, which no model of the run has; add its parent to --models or leave "
            "--sister out."
        )
    for model in own:
        if (sister.mean, sister.std, sister.size) != (model.mean, model.std, model.size):
            raise BenchError(
                f"{sister.name} takes images of another size or normalisation than {model.name}; "
                "train the sister again from this model."
            )
        model.sister = sister


@functools.cache
def _list_bundled() -> dict[str, str]:
    """Return {sha256 of the parent's weights: name} of the bundled sisters."""
    found = {}
    for entry in MODELS:
        if SISTERS in entry.groups:
            (facts,) = read_card(Path(entry.card)).values()
            found[str(facts[SISTER_OF])] = entry.name
    return found
