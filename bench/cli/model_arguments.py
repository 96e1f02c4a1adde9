"""Arguments of a network on the command line: `--num-classes` and `--model-args`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from bench.errors import BenchError
from bench.registry import split_list

_WORDS = {"true": True, "false": False, "none": None}

NumClassesOption = Annotated[
    int | None,
    typer.Option(
        help="Classes of a timm network, where its weights have others than the name says.",
        min=1,
        max=1_000_000,
        rich_help_panel="What is scored",
    ),
]
ModelArgsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-args",
        metavar="KEY=VALUE",
        help="Argument of a timm network, such as img_size=240 (repeatable).",
        rich_help_panel="What is scored",
    ),
]


def read_arguments(num_classes: int | None, texts: Sequence[str] | None) -> dict[str, Any]:
    """Return the arguments of a network.

    Args:
        num_classes: of `--num-classes`.
        texts: KEY=VALUE of `--model-args`, each one or several with commas between them.

    Raises:
        BenchError: a text without "=", or a key that is given twice.

    >>> read_arguments(12, ["img_size=240,dynamic_img_size=true", "img_mode=a"])
    {'num_classes': 12, 'img_size': 240, 'dynamic_img_size': True, 'img_mode': 'a'}
    """
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    for pair in (pair for text in texts or () for pair in split_list(text) if pair.strip()):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value or not key.isidentifier():
            raise BenchError(
                f"--model-args {pair.strip()!r} sets nothing; write KEY=VALUE, such as "
                "img_size=240."
            )
        if key in arguments:
            option = "--num-classes and --model-args" if key == "num_classes" else "--model-args"
            raise BenchError(f"{option} set {key} twice; leave one.")
        arguments[key] = read_value(value)
    return arguments


def read_value(text: str) -> Any:
    """Return a value as Python writes it; another text is a text.

    >>> read_value("3"), read_value("(240, 320)"), read_value("False"), read_value("gelu")
    (3, (240, 320), False, 'gelu')
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
