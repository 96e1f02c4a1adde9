"""Texts that name no model: files and folders, and the sentence that says how to name one."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.models.card_keys import describe_example
from bench.models.weights_files import is_weights_name


def refuse_files(text: str) -> None:
    """Refuse a file of weights or a folder where the name of a model or a card should stand.

    Raises:
        BenchError: with the option that takes weights, and an example of a card.
    """
    import timm

    path = Path(text)
    if text.startswith("hf-hub:") or (
        not is_weights_name(text) and timm.is_model(text.partition(".")[0])
    ):
        return  # a folder or file beside may be called as a network is
    if path.is_dir():
        raise BenchError(
            f"{text!r} is a folder and names no model; give a card file (.json) in it, or "
            f"hf:{text} where it is a folder of Hugging Face transformers."
        )
    if is_weights_name(text) or path.is_file():
        example = describe_example(path.name)
        raise BenchError(
            f"{text!r} is a file of weights, which does not say its network; give the network's "
            f"name and the file (--models resnet18 --weights {text}), or a card such as "
            f"mine.json with {example}."
        )


def refuse_own_weights(name: str, arguments: dict[str, object]) -> None:
    """Refuse arguments that make a library load weights past the checks."""
    for argument in ("pretrained", "checkpoint_path"):
        if argument in arguments:
            value = '"pretrained"' if argument == "pretrained" else "PATH"
            raise BenchError(
                f"The model {name} is given {argument}; leave it out and give weights={value} "
                f"(--weights {value.strip(chr(34))})."
            )
