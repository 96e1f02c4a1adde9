"""How a command is registered: one decorator, which also expands groups of options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from bench.cli.failures import DEBUG_OPTION, note_folder
from bench.cli.option_checks import check_options
from bench.cli.output import EX_STOPPED, EndOfCommand, errors, keep_quiet, print_assumptions
from bench.file_errors import refuse_file_errors
from bench.progress import show_work

DebugOption = Annotated[
    bool, typer.Option(DEBUG_OPTION, help="Show the traceback of a failure (or CAMBENCH_DEBUG=1).")
]
"""Read from the words of the command line by `failures`, before and after they are parsed."""

HiddenDebugOption = Annotated[
    bool, typer.Option(DEBUG_OPTION, hidden=True, help="Show the traceback of a failure.")
]
"""The same after the command's name; only `cambench --help` lists it."""

DEBUG_PARAMETER = inspect.Parameter(
    "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HiddenDebugOption
)

QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print errors and the last line only.", rich_help_panel="Output"
    ),
]

QUIET_PARAMETER = inspect.Parameter(
    "quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption
)


@dataclass(frozen=True)
class Command:
    """A function that is a command.

    Args:
        function: Takes options one by one, or option groups (frozen dataclasses whose fields are
            options).
        panel: The heading under which `--help` lists the command.
        epilog: The examples below its own `--help`.
        long: Whether it may work for minutes, so that it can be kept quiet.
    """

    function: Callable[..., None]
    name: str
    panel: str | None = None
    epilog: str | None = None
    hidden: bool = False
    long: bool = False

    def add_to(self, app: typer.Typer) -> None:
        """Add the command to a command line."""
        register = app.command(
            self.name, epilog=self.epilog, hidden=self.hidden, rich_help_panel=self.panel
        )
        register(expand_options(refuse_file_errors()(self.function), long=self.long))


def command(
    name: str | None = None,
    *,
    panel: str | None = None,
    epilog: str | None = None,
    hidden: bool = False,
    long: bool = False,
) -> Callable[[Callable[..., None]], Command]:
    """Turn a function into a `Command`; without a name it gets the function's."""

    def decorate(function: Callable[..., None]) -> Command:
        title = name or function.__name__.replace("_", "-")
        return Command(function, title, panel, epilog, hidden, long)

    return decorate


def expand_options(function: Callable[..., None], *, long: bool = False) -> Callable[..., None]:
    """Return the function with its option groups replaced by their fields, as typer needs them.

    A parameter whose annotation is a dataclass is an option group. The returned function fills the
    dataclass from the fields' values and passes it on as one value. All work of the command is
    shown, and a long one has the option --quiet.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    annotations = {name: parameter.annotation for name, parameter in parameters.items()}
    groups = {
        n: a for n, a in annotations.items() if isinstance(a, type) and dataclasses.is_dataclass(a)
    }
    options: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name in groups:
            options += field_parameters(groups[name])
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    options += [*([QUIET_PARAMETER] if long else []), DEBUG_PARAMETER]

    def callback(**given: Any) -> None:
        del given[DEBUG_PARAMETER.name]
        quiet = given.pop(QUIET_PARAMETER.name, False)
        note_folder(given.get("out"))
        check_options(options, given)
        filled = {
            name: group(
                **{field.name: given.pop(field.name) for field in dataclasses.fields(group)}
            )
            for name, group in groups.items()
        }
        try:
            with keep_quiet(quiet), print_assumptions(), show_work(errors):
                function(**filled, **given)
        except KeyboardInterrupt:
            errors.quiet = False
            errors.print("Stopped.")
            raise EndOfCommand(EX_STOPPED) from None
        except typer.Exit as error:
            if not isinstance(error, EndOfCommand):  # a plug-in's, which imports typer itself
                raise SystemExit(error.exit_code) from error
            raise

    callback.__name__ = function.__name__
    callback.__doc__ = function.__doc__
    callback.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    callback.__annotations__ = {option.name: option.annotation for option in options}
    return callback


def field_parameters(group: type) -> list[inspect.Parameter]:
    """Return the fields of an option group as parameters, in their order."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
