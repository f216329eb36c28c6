"""What every verb has in common: settings and where they come from, errors, exit codes, a start without a load."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.terminal import environment, is_one_error, penstock

from penstock.cli.main import command, main, one_line, read_settings
from penstock.core import ConfigError

VERBS = ("serve", "run", "chat", "train", "doctor", "inspect", "pull", "list", "rm", "verify", "bench")


def shown(text: str) -> dict[str, tuple[str, str]]:
    """Setting → (value, source) as doctor printed them."""
    return {
        m[1]: (m[2], m[3]) for m in re.finditer(r"^(\S+) +(\S+) +(flag|environment|settings file|default)$", text, re.M)
    }


def test_no_arguments_show_the_help_and_fail() -> None:
    ran = penstock()
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert all(f"  {verb} " in ran.stderr for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_reads_well_at_80_columns(verb: str) -> None:
    ran = penstock(verb, "--help")
    assert ran.returncode == 0
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert "range>" not in ran.stdout and "env var" not in ran.stdout


def test_the_version() -> None:
    assert re.fullmatch(r"penstock \d+\.\d+\.\d+\n", penstock("--version").stdout)


def test_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[serve]\nport = 9001\nmax-running = 7\nprefix-cache = false\n")
    ran = penstock("doctor", PENSTOCK_CONFIG=str(file), PENSTOCK_SERVE_PORT="9002", PENSTOCK_API_KEY="hush")
    found = shown(ran.stdout)
    assert found["port"] == ("9002", "environment")
    assert found["max-running"] == ("7", "settings file")
    assert found["prefix-cache"] == ("False", "settings file")
    assert found["max-waiting"] == ("4096", "default")
    assert "hush" not in ran.stdout and str(file) in ran.stdout


def test_a_flag_beats_the_environment_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[run]\nmax-tokens = 3\n")
    base = {"PENSTOCK_CONFIG": str(file)}
    assert "3 tokens" in penstock("run", "x", **base).stderr
    assert "2 tokens" in penstock("run", "x", **base, PENSTOCK_RUN_MAX_TOKENS="2").stderr
    assert "1 tokens" in penstock("run", "x", "--max-tokens", "1", **base, PENSTOCK_RUN_MAX_TOKENS="2").stderr


def test_the_settings_file_of_the_config_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "penstock").mkdir()
    (tmp_path / "penstock/config.toml").write_text("[serve]\nport = 9003\n")
    found = shown(penstock("doctor", XDG_CONFIG_HOME=str(tmp_path)).stdout)
    assert found["port"] == ("9003", "settings file")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nport = 1\n", "[server]"),
        ("[serve]\nprot = 1\n", "prot in [serve]"),
        ("port = 1\n", "[port]"),
        ("[serve\n", "is not TOML"),
        ("#" * (1024 * 1024 + 1), "is over 1,048,576 bytes"),
    ],
    ids=["table", "flag", "no table", "syntax", "size"],
)
def test_a_wrong_settings_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_settings(path)


def test_a_settings_file_that_is_not_there_is_one_line() -> None:
    assert "/no/such: " not in is_one_error(penstock("doctor", PENSTOCK_CONFIG="/no/such"), 2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frob"], 2, "frob"),
        (["serve", "--port", "x"], 2, "--port"),
        (["serve", "--port", "70000"], 2, "65535"),
        (["serve", "--host", "no.such.invalid"], 2, "no.such.invalid:8000"),
        (["serve", "--nothing"], 2, "--nothing"),
        (["serve", "--kv-bytes", "lots"], 2, "--kv-bytes is 'lots'"),
        (["run"], 2, "PROMPT"),
        (["run", "x", "--kv-bytes", "1000"], 2, "holds 0 tokens"),
        (["run", "x", "--max-model-tokens", "100000"], 2, "100,000; the model was made for 512"),
        (["run", "x", "--max-tokens", "100000"], 2, "at most 512 fit"),
        (["run", "x", "--temperature", "nan"], 2, "temperature"),
        (["run", "x", "--kv-type", "int3"], 2, "int3"),
        (["inspect", "/dev/null"], 78, "/dev/null"),
        (["serve", "/"], 78, "config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(arguments: list[str], code: int, said: str) -> None:
    assert said in is_one_error(penstock(*arguments), code)


def test_a_hub_id_without_a_network_is_one_line(tmp_path: Path) -> None:
    ran = penstock("run", "x", "-m", "owner/name", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "owner/name: not on disk" in is_one_error(ran, 78)


def test_a_bug_is_one_line_and_its_place_can_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing\nis whole")

    monkeypatch.setattr(sys.modules["penstock.cli.main"], "command", fail)
    monkeypatch.delenv("PENSTOCK_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 70
    assert capsys.readouterr().err.startswith("error: a bug: ZeroDivisionError: nothing is whole. hint: ")
    monkeypatch.setenv("PENSTOCK_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main()


def test_nothing_in_a_message_reaches_the_terminal_as_a_command() -> None:
    assert one_line("a\x1b[31m\nb\x00  ü\u202e") == "a\\x1b[31m b\\x00 ü\\x202e"


def test_every_verb_is_there_and_none_is_imported_for_help() -> None:
    assert set(command().commands) == set(VERBS)
    code = (
        "import sys; sys.argv = ['penstock', 'serve', '--help']\n"
        "from penstock.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'rich', 'uvicorn', 'uvloop', 'starlette', 'huggingface_hub', 'tokenizers', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)), 'typer' in sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment())
    assert ran.stderr.strip() == "[] True"
