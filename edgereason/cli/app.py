"""The `edgereason` program."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgereason.cli import (
    ask,
    batch,
    bench,
    calibrate,
    chat,
    convert,
    data,
    doctor,
    evaluate,
    export,
    inspect,
    train,
    verify,
)
from edgereason.cli.parameters.renamed_options import RenamingGroup
from edgereason.errors import EdgeReasonError
from edgereason.progress.display import log_json

# No markup mode and no completion: plain help starts in a fraction of the time that rich help takes.
app = typer.Typer(
    name="edgereason",
    cls=RenamingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("batch")(batch.batch)
app.command("export")(export.export)
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.command("eval")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)

_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgereason import __version__

        typer.echo(f"edgereason {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    as_json: Annotated[
        bool, typer.Option("--log-json", help="Log progress to standard error as JSON, one object per line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Small language models that reason in two stages, offline: guidance first, then the answer."""
    global _debug
    _debug = debug
    log_json(context.invoked_subcommand if as_json else None)


def main() -> None:
    """Run the program; errors that people can act on become a sentence and an exit code."""
    try:
        app()
    except EdgeReasonError as error:
        if _debug:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, as in `edgereason ask ... | head -1`
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
