"""A page for each command, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from bench.cli.application import app
from docs_pages.markdown import escape, write_table

ROOT = "cambench"


def list_commands() -> dict[str, Any]:
    """Return all commands that run something: {"finetune aft": command}, in the order of --help."""
    return dict(_walk(get_command(app), ""))


def _walk(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, found in group.commands.items():
        if found.hidden:
            continue
        if hasattr(found, "commands"):
            yield from _walk(found, f"{before}{name} ")
        else:
            yield f"{before}{name}", found


def name_page(words: str) -> str:
    """Return the name of a command's page.

    >>> name_page("finetune aft")
    'finetune-aft.md'
    """
    return f"{words.replace(' ', '-')}.md"


def write_command_page(words: str, command: Any) -> str:
    """Return the page of a command: what it does, arguments, options, examples."""
    context = _open_context(words, command)
    pieces = command.collect_usage_pieces(context)
    parts = [f"# `{ROOT} {words}`", _write_text(command.help or "")]
    parts.append(f"```text\n{ROOT} {words} {' '.join(pieces)}\n```")
    rows = list(_list_rows(command, context))
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        chosen = [(name, about) for found, name, about in rows if found == kind]
        if chosen:
            columns = (kind, "what it is")
            parts += [f"## {title}", write_table(columns, chosen)]
    if command.epilog:
        parts.append(command.epilog.strip().replace("**Examples**", "## Examples", 1))
    return "\n\n".join(parts) + "\n"


def _write_text(text: str) -> str:
    """Return the help of a command, which is Markdown already."""
    return "\n\n".join(" ".join(block.split()) for block in text.split("\n\n"))


def _open_context(words: str, command: Any) -> Any:
    import click

    return click.Context(command, info_name=f"{ROOT} {words}")


def _list_rows(command: Any, context: Any) -> Iterator[tuple[str, str, str]]:
    """Yield ("argument" or "option", its names and form, what it is) of each parameter."""
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            names, about = record
            kind = "argument" if parameter.param_type_name == "argument" else "option"
            yield kind, f"`{names.replace('|', chr(92) + '|')}`", escape(" ".join(about.split()))


def write_command_index() -> str:
    """Return the page that lists all commands."""
    rows = [
        (f"[`{ROOT} {words}`]({name_page(words)})", _write_text(command.help or "").split("\n")[0])
        for words, command in list_commands().items()
    ]
    about = (
        "Every command has `--help`. Whatever goes wrong is one sentence and exit code 2; Ctrl-C "
        "keeps what is finished and exits with 130."
    )
    return "\n\n".join(["# Command line", about, write_table(("command", "what it does"), rows)])
