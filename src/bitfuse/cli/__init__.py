"""The command line: thin verbs over the library. Errors are one line that says what to do; exit codes mean something.

0   done
1   a defect of Bitfuse (please report it)
2   wrong usage or bad input
3   something on disk is damaged or from a newer version
4   an optional package or a backbone's weights are missing
5   the collection refuses (another model, another writer)
130 interrupted
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import NoReturn, TextIO

import typer

from bitfuse.errors import (
    BitfuseError,
    BitfuseWarning,
    CollectionError,
    DamagedFile,
    MissingDependency,
    MissingWeights,
    UnknownFormat,
)

app = typer.Typer(
    name="bitfuse",
    help="Turn images and text into short learned binary codes, judge them honestly, and search them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_CODES: tuple[tuple[tuple[type[BitfuseError], ...], int], ...] = (
    ((DamagedFile, UnknownFormat), 3),
    ((MissingDependency, MissingWeights), 4),
    ((CollectionError,), 5),
)


_SHOWN: set[str] = set()
"""Warnings already shown: a grid of runs would repeat them."""


def exit_code(error: BaseException) -> int:
    """The exit code that stands for this error."""
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), 2)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, BitfuseWarning) and str(message) not in _SHOWN:
        _SHOWN.add(str(message))
        typer.secho(f"warning: {message}", fg="yellow", err=True)


def _version(asked: bool) -> None:
    if asked:
        import bitfuse

        typer.echo(f"bitfuse {bitfuse.__version__}")
        raise typer.Exit


@app.callback()
def _top(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it.")) -> None:
    pass


def register() -> None:
    """Import the modules that add their verbs to `app`."""
    from bitfuse.cli import ablations, bench, collections, copy, demo, encode, export, models, serve, tune, upkeep  # noqa: F401


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command and exit with its code."""
    register()

    warnings.showwarning = _show_warning
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app(args=args)
    except (BitfuseError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(exit_code(error))
    sys.exit(0)
