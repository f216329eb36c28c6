"""The `penstock` command: verbs, the settings file, and the one place that turns errors into a line and an exit code.

Knows nothing about what the verbs do. Invariant: exit codes are 0 done, 1 failed, 2 a wrong flag, setting or request,
70 a bug of ours, 78 a bad model file, 130 interrupted, 141 the reader of the output left.
"""

from __future__ import annotations

import io
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from penstock import __version__
from penstock.cli import bench, chat, doctor, inspect, list_models, pull, rm, run, serve, train, verify
from penstock.core import ConfigError, InvalidRequest, PenstockError, one_line

SETTINGS_VARIABLE = "PENSTOCK_CONFIG"
TRACEBACK_VARIABLE = "PENSTOCK_TRACEBACK"
MAX_SETTINGS_BYTES = 1024 * 1024

app = typer.Typer(
    name="penstock",
    no_args_is_help=False,
    invoke_without_command=True,
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
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Serve large language models from this machine, over an OpenAI-compatible API or in the terminal."""
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)
    context.obj = settings_path()
    context.default_map = read_settings(context.obj)


for verb in (serve.serve, run.run, chat.chat, train.train):
    app.command(epilog=f"A flag is also a variable: --threads is PENSTOCK_{verb.__name__.upper()}_THREADS.")(verb)
app.command()(doctor.doctor)
app.command()(inspect.inspect)
app.command()(pull.pull)
app.command("list")(list_models.list_models)
app.command()(rm.rm)
app.command()(verify.verify)
app.add_typer(bench.app)


def command() -> Any:
    """The command line, without a variable's name beside every flag in its help."""
    found: Any = typer.main.get_command(app)
    for verb in found.commands.values():
        for one in [verb, *getattr(verb, "commands", {}).values()]:
            for param in one.params:
                param.show_envvar = False
    return found


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
            raw = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"settings file {path} cannot be read: {error.strerror}.", hint=f"correct {SETTINGS_VARIABLE}."
        ) from None
    if len(raw) > MAX_SETTINGS_BYTES:
        raise ConfigError(f"settings file {path} is over {MAX_SETTINGS_BYTES:,} bytes.", hint="name another file.")
    try:
        data = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"settings file {path} is not TOML: {error}.", hint="write [serve] then port = 8000."
        ) from None
    return _checked(path, data)


def _checked(path: Path, data: dict[str, Any]) -> dict[str, Any]:
    """The file's tables with parameter names for flags' names."""
    groups = {"bench": bench.app}
    known = verbs_of(app)
    found: dict[str, Any] = {}
    for verb, table in data.items():
        if verb in groups and isinstance(table, dict):
            inner = verbs_of(groups[verb])
            found[verb] = {name: _flags(path, f"{verb}.{name}", part, inner.get(name)) for name, part in table.items()}
        else:
            found[verb] = _flags(path, verb, table, known.get(verb))
    return found


def verbs_of(group: typer.Typer) -> dict[str, Callable[..., Any]]:
    """What a group's verbs call, by their names."""
    return {
        command.name or command.callback.__name__: command.callback
        for command in group.registered_commands
        if command.callback
    }


def _flags(path: Path, verb: str, table: Any, callback: Callable[..., Any] | None) -> dict[str, Any]:
    """One table with parameter names for flags' names."""
    if callback is None or not isinstance(table, dict):
        tables = sorted([*verbs_of(app), *(f"bench.{name}" for name in verbs_of(bench.app))])
        raise ConfigError(f"settings file {path} has a table [{verb}].", hint=f"tables are {', '.join(tables)}.")
    flags = set(callback.__annotations__) - {"return"}
    unknown = {name.replace("-", "_") for name in table} - flags
    if unknown:
        raise ConfigError(
            f"settings file {path} has {sorted(unknown)[0]} in [{verb}].",
            hint=f"see penstock {verb.replace('.', ' ')} --help.",
        )
    return {name.replace("-", "_"): value for name, value in table.items()}


def main() -> NoReturn:
    """Runs the command line and exits."""
    _prepare_streams()
    try:
        with command().make_context("penstock", sys.argv[1:]) as context:
            context.command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as exit_:
        _leave(exit_.exit_code)
    except PenstockError as error:
        _leave(2 if isinstance(error, InvalidRequest) else getattr(error, "exit_code", 1), str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        _leave(130)
    except typer.TyperException as error:
        _leave(error.exit_code, _usage(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(141)
    except OSError as error:
        _leave(1, f"{error.filename or 'the system'}: {error.strerror or error}.")
    except MemoryError:
        _leave(1, "the machine has no memory left for this. hint: lower --kv-bytes or --max-model-tokens.")
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _leave(
            70, f"a bug: {type(error).__name__}: {error}. hint: report it; {TRACEBACK_VARIABLE}=1 shows where it is."
        )
    _leave(0)


def _leave(code: int, error: str | None = None) -> NoReturn:
    """Exits, saying one line first where there is one to say."""
    if error is not None:
        print("error:", one_line(error), file=sys.stderr)
    sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the command line, and whose help tells more."""
    at = getattr(error, "ctx", None)
    path = at.command_path if at is not None else "penstock"
    return f"{error.format_message().rstrip('.')}. hint: see {path} --help."


def _prepare_streams() -> None:
    """Makes the standard streams usable whatever the shell closed or set: no character and no closed end is fatal."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
