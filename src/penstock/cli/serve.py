"""`penstock serve`: a model behind the OpenAI-compatible API.

Knows nothing about HTTP itself. Invariant: nothing listens before the model is loaded; the ready line is printed once
it can answer.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli import options
from penstock.core import ConfigError

if TYPE_CHECKING:
    from penstock.api import ServedModel
    from penstock.assemble import LoadedModel


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")] = 8000,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name in the API; repeat for aliases, the first is the main one."),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Key that requests must carry; repeat for several. Also PENSTOCK_API_KEY.",
            envvar="PENSTOCK_API_KEY",
        ),
    ] = None,
    max_model_tokens: options.MaxModelTokens = None,
    kv_bytes: options.KvBytes = None,
    kv_type: options.KvType = "auto",
    max_running: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Sequences computed at once.")] = 128,
    max_waiting: Annotated[int, typer.Option(metavar="N", min=1, help="Queued requests before 429.")] = 4096,
    max_step_tokens: Annotated[
        int, typer.Option(metavar="N", min=16, max=65536, help="Ceiling of tokens a step.")
    ] = 2048,
    prefix_cache: Annotated[bool, typer.Option(help="Reuse the KV of prefixes seen before.")] = True,
    threads: options.Threads = None,
    pack_cache: options.PackCache = True,
    cors_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Browser origin to allow; repeat, or * for all.")
    ] = None,
    grace_s: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds that running requests get at shutdown.")
    ] = 30.0,
    step_log: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a replayable log of every step to this file.")
    ] = None,
    revision: options.Revision = None,
) -> None:
    """Serve a model on an OpenAI-compatible API."""
    started = time.perf_counter()
    options.check_existing(model)
    check_address(host, port)
    from penstock import api
    from penstock.assemble import LoadOptions, load

    settings = api.ApiSettings(
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        cors_origins=tuple(cors_origin or ()),
        grace_s=grace_s,
    )
    with options.patience(model):
        loaded = load(
            LoadOptions(
                model=model,
                revision=revision,
                max_model_tokens=max_model_tokens,
                kv_bytes=options.parse_bytes(kv_bytes, "--kv-bytes"),
                kv_type=kv_type,
                prefix_cache=prefix_cache,
                max_running=max_running,
                max_step_tokens=max_step_tokens,
                max_waiting=max_waiting,
                threads=threads,
                pack_cache=pack_cache,
                step_log=step_log,
            ),
            options.tell,
        )
    names = served_model_name or [loaded.name]
    if not settings.is_loopback and not api_key:
        options.tell(f"warning: {host} is reachable from other machines and no --api-key is set.")

    def ready(bound: str) -> None:
        options.tell(f"{loaded.name}: {loaded.tier}, {loaded.threads} threads, KV {loaded.kv_type}")
        options.tell(f"ready in {time.perf_counter() - started:.2f} s on {bound} - try:")
        options.tell(curl_line(bound, names[0], bool(api_key)))

    try:
        app = api.create_app({names[0]: served(loaded, names)}, settings)
        code = api.serve(app, settings, ready)
    finally:
        loaded.close()
    raise typer.Exit(code)


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
        details={"tier": loaded.tier, "kv_type": loaded.kv_type, "threads": str(loaded.threads)},
    )


def curl_line(bound: str, name: str, keyed: bool) -> str:
    """A command to paste that streams one answer."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if keyed else ""
    body = f'{{"model":"{name}","prompt":"The old house stood","max_tokens":48,"stream":true}}'
    return f"  curl -N {bound}/v1/completions{key} -H 'Content-Type: application/json' -d '{body}'"
