"""What the HTTP surface is told at start: where it listens, whom it lets in, and the models behind it.

Knows nothing about requests. Invariant: settings never change while the server runs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.core import ConfigError, EngineClient, SamplingParams, limits

if TYPE_CHECKING:
    from penstock.text import Tokenizer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model as the API holds it.

    Attributes:
        name: the name in answers.
        aliases: further names that requests may use.
        client: the engine.
        tokenizer: text to ids and back, chat template included.
        max_model_tokens: longest prompt plus output of one sequence.
        eos_token_ids: end tokens of the model.
        vocab_size: ids lie below it.
        defaults: sampling where a request says nothing.
        page_tokens: tokens of a KV page, for metrics; 0 where it is not known.
        details: facts for /health/ready (compute tier, KV type, …).
    """

    name: str
    client: EngineClient
    tokenizer: Tokenizer
    max_model_tokens: int
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    aliases: tuple[str, ...] = ()
    defaults: SamplingParams = field(default_factory=SamplingParams)
    page_tokens: int = 0
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Choices of one HTTP server.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        api_keys: any of them opens everything but the health routes; none means no keys are asked for.
        cors_origins: browser origins allowed besides the server's own; "*" is all.
        grace_s: seconds that running requests get at shutdown.
        stall_s: seconds without a step, while there is work, after which the server calls itself not ready.
        ping_s: seconds of silence after which a stream gets an SSE comment.
        slow_reader_s: seconds that a write waits for a client that reads nothing, before the client is cut off.
        max_connections: open connections; more are closed at once with 503.
        max_body_bytes_in_flight: bytes of request bodies held at one time.
        workers: threads for parsing, templates and tokenization of small bodies.
        large_workers: the same for large ones, at low priority.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    grace_s: float = 30.0
    stall_s: float = 60.0
    ping_s: float = limits.SSE_PING_S
    slow_reader_s: float = limits.MAX_STREAM_STALL_S
    max_connections: int = 4096
    max_body_bytes_in_flight: int = 268_435_456
    workers: int = 2
    large_workers: int = 1

    def __post_init__(self) -> None:
        for key in self.api_keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    "an API key is empty or has spaces, control or non-ASCII characters.",
                    param="api_keys",
                    hint="use printable ASCII without spaces.",
                )
        if min(self.workers, self.large_workers, self.max_connections) < 1:
            raise ConfigError("workers, large_workers and max_connections must be at least 1.", param="workers")
        if self.grace_s < 0 or min(self.stall_s, self.ping_s, self.slow_reader_s) <= 0:
            raise ConfigError("grace_s must be at least 0; stall_s, ping_s and slow_reader_s above 0.", param="grace_s")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback_name(self.host)


def is_loopback_name(host: str) -> bool:
    """Whether a host name or address (without a port; IPv6 with or without brackets) means this machine only."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False
