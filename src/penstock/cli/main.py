"""The `penstock` command: verbs, the settings file, and the one place that turns errors into a line and an exit code.

Knows nothing about what the verbs do. Invariant: exit codes are 0 done, 1 failed, 2 a wrong setting, 78 a bad model
file, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from penstock import __version__
from penstock.cli import chat, doctor, inspect, run, serve, train
from penstock.core import ConfigError, PenstockError

SETTINGS_VARIABLE = "PENSTOCK_CONFIG"
MAX_SETTINGS_BYTES = 1024 * 1024

app = typer.Typer(
    name="penstock",
    help="Serve large language models. Settings: flag > PENSTOCK_… environment > settings file > default.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PENSTOCK"},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"penstock {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve large language models."""
    context.default_map = read_settings(settings_path())


for verb in (serve.serve, run.run, chat.chat, doctor.doctor, inspect.inspect, train.train):
    app.command()(verb)


def settings_path() -> Path | None:
    """The settings file: the one that PENSTOCK_CONFIG names, else penstock/config.toml in the user's config folder."""
    named = os.environ.get(SETTINGS_VARIABLE)
    if named:
        return Path(named)
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = folder / "penstock" / "config.toml"
    return path if path.is_file() else None


def read_settings(path: Path | None) -> dict[str, Any]:
    """Defaults by verb and flag, as `[serve]` tables with the flags' names.

    Raises:
        ConfigError: the file cannot be read, or is not TOML of that shape.
    """
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            data = tomllib.loads(file.read(MAX_SETTINGS_BYTES).decode())
    except OSError:
        raise ConfigError(f"settings file {path} cannot be read.", hint=f"correct {SETTINGS_VARIABLE}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"settings file {path} is not TOML: {error}.", hint="write [serve] then port = 8000."
        ) from None
    known = {command.callback.__name__: command.callback for command in app.registered_commands if command.callback}
    for verb, table in data.items():
        if verb not in known or not isinstance(table, dict):
            raise ConfigError(
                f"settings file {path} has a table [{verb}].", hint=f"tables are {', '.join(sorted(known))}."
            )
        flags = set(known[verb].__annotations__) - {"return"}
        unknown = {name.replace("-", "_") for name in table} - flags
        if unknown:
            raise ConfigError(
                f"settings file {path} has {sorted(unknown)[0]} in [{verb}].", hint=f"see penstock {verb} --help."
            )
    return {verb: {name.replace("-", "_"): value for name, value in table.items()} for verb, table in data.items()}


def main() -> NoReturn:
    """Runs the command line and exits."""
    try:
        code = app(standalone_mode=False, prog_name="penstock")
    except PenstockError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    except typer.Exit as exit_:
        sys.exit(exit_.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except typer.TyperException as error:
        print(f"error: {error.format_message()} hint: see penstock --help.", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)
