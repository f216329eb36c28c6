"""`penstock serve`: a model behind the OpenAI-compatible API.

Knows nothing about HTTP itself. Invariant: nothing listens before the model is loaded; the ready line is printed once
it can answer.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli import options
from penstock.cli.pull import fetch
from penstock.core import ConfigError

if TYPE_CHECKING:
    from penstock.api import ServedModel
    from penstock.assemble import LoadedModel


Host = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Name in the API; repeat for aliases, the first is the main one."),
]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        help="Key that requests must carry; repeat for several. Also PENSTOCK_API_KEY.",
        envvar="PENSTOCK_API_KEY",
    ),
]
MaxRunning = Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Sequences computed at once.")]
MaxWaiting = Annotated[int, typer.Option(metavar="N", min=1, help="Queued requests before 429.")]
MaxStepTokens = Annotated[int, typer.Option(metavar="N", min=16, max=65536, help="Ceiling of tokens a step.")]
PrefixCache = Annotated[bool, typer.Option(help="Reuse the KV of prefixes seen before.")]
CorsOrigins = Annotated[
    list[str] | None, typer.Option(metavar="ORIGIN", help="Browser origin to allow; repeat, or * for all.")
]
Grace = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Seconds that running requests get at shutdown.")]
StepLog = Annotated[str | None, typer.Option(metavar="FILE", help="Write a replayable log of every step to this file.")]


def serve(
    model: options.Model = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    served_model_name: Names = None,
    api_key: ApiKeys = None,
    max_model_tokens: options.MaxModelTokens = None,
    kv_bytes: options.KvBytes = None,
    kv_type: options.KvType = "auto",
    max_running: MaxRunning = 128,
    max_waiting: MaxWaiting = 4096,
    max_step_tokens: MaxStepTokens = 2048,
    prefix_cache: PrefixCache = True,
    device: options.Device = "auto",
    fast_nondeterministic: options.FastNondeterministic = False,
    threads: options.Threads = None,
    numa: options.Numa = "auto",
    pack_cache: options.PackCache = True,
    cors_origin: CorsOrigins = None,
    grace_s: Grace = 30.0,
    step_log: StepLog = None,
    revision: options.Revision = None,
) -> None:
    """Serve a model on an OpenAI-compatible API."""
    started = time.perf_counter()
    options.check_existing(model)
    check_address(host, port)
    fetch(model, revision)
    choices = {
        "model": model,
        "revision": revision,
        "max_model_tokens": max_model_tokens,
        "kv_bytes": options.parse_bytes(kv_bytes, "--kv-bytes"),
        "kv_type": kv_type,
        "prefix_cache": prefix_cache,
        "max_running": max_running,
        "max_step_tokens": max_step_tokens,
        "max_waiting": max_waiting,
        "device": device,
        "fast_nondeterministic": fast_nondeterministic,
        "threads": threads,
        "numa": numa,
        "pack_cache": pack_cache,
        "step_log": step_log,
    }
    surface = {
        "host": host,
        "port": port,
        "api_keys": tuple(api_key or ()),
        "cors_origins": tuple(cors_origin or ()),
        "grace_s": grace_s,
    }
    raise typer.Exit(run_server(choices, surface, served_model_name, started))


def run_server(choices: dict[str, Any], surface: dict[str, Any], names: list[str] | None, started: float) -> int:
    """Loads, serves until a signal, and returns the exit code.

    Args:
        choices: `LoadOptions` fields.
        surface: `ApiSettings` fields.
        names: in the API; the model's own if None.
        started: when the command began, on `time.perf_counter`.
    """
    from penstock import api
    from penstock.assemble import LoadOptions, load

    settings = api.ApiSettings(**surface)
    with options.patience(choices["model"]):
        loaded = load(LoadOptions(**choices), options.tell)
    names = names or [loaded.name]
    if not settings.is_loopback and not settings.api_keys:
        options.tell(f"warning: {settings.host} is reachable from other machines and no --api-key is set.")

    def ready(bound: str) -> None:
        options.tell(f"{loaded.name}: {loaded.tier}, {loaded.threads} threads, KV {loaded.kv_type}")
        options.tell(f"ready in {time.perf_counter() - started:.2f} s on {bound} - try:")
        options.tell(curl_line(bound, names[0], bool(settings.api_keys)))

    try:
        app = api.create_app({names[0]: served(loaded, names)}, settings)
        return api.serve(app, settings, ready)
    finally:
        loaded.close()


def check_address(host: str, port: int) -> None:
    """Passes when the address can be taken: a port in use is said before minutes of loading, not after.

    Raises:
        ConfigError: naming the address and the reason.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such host name"
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}.", param="port", hint="choose another --host or --port."
        ) from None


def served(loaded: LoadedModel, names: list[str]) -> ServedModel:
    """The model as the API holds it."""
    from penstock import api

    return api.ServedModel(
        name=names[0],
        aliases=tuple(names[1:]),
        client=loaded.client,
        tokenizer=loaded.tokenizer,
        max_model_tokens=loaded.config.max_model_tokens,
        eos_token_ids=loaded.eos_token_ids,
        vocab_size=loaded.config.vocab_size,
        defaults=loaded.checkpoint.generation_defaults,
        page_tokens=loaded.config.page_tokens,
        details={
            "tier": loaded.tier,
            "kv_type": loaded.kv_type,
            "threads": str(loaded.threads),
            **({} if loaded.pool is None else {"nodes": str(loaded.pool.nodes)}),
        },
    )


def curl_line(bound: str, name: str, keyed: bool) -> str:
    """A command to paste that streams one answer."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
    body = json.dumps(
        {"model": name, "prompt": "The old house stood", "max_tokens": 48, "stream": True}, separators=(",", ":")
    )
    return f"  curl -N {bound}/v1/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
