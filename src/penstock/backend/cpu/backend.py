"""The CPU backend: plans in, results out, everything between in the native core.

Knows nothing about requests, prefixes or text. Invariant: between submit and finish no Python code runs for the step,
and a plan crosses as the tuples that it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock import _native
from penstock.backend.cpu.loading import Builder
from penstock.backend.cpu.packing import pack_all, to_native
from penstock.backend.cpu.pool import Pool, make_pool
from penstock.core import (
    ConfigError,
    EngineUnavailable,
    KvGroup,
    Opened,
    RowResult,
    StepPlan,
    StepResult,
    Ticket,
    TokenLogprobs,
)
from penstock.model import DecoderSpec, WeightMap, check_sizes, check_spec, kv_groups, resolve_kv_type

_log = logging.getLogger(__name__)

KV_TYPES = {"f32": 0, "bf16": 1, "int8": 2}
_ERRORS = {1: "invalid_logits", 2: "empty_mask"}
_SEED_MASK = 2**64 - 1
_MAX_PLAIN_RESULTS = 16_384  # tokens whose result is kept: 4 MB; a tenth of a vocabulary is nearly all of a text


@dataclass(frozen=True, slots=True)
class CpuOptions:
    """Choices of one CPU backend.

    Attributes:
        max_model_tokens: longest sequence; rotary tables are made for it.
        max_running: slots.
        max_step_tokens: tokens of one step at most.
        page_tokens: tokens of a KV page, a multiple of 16.
        threads: compute threads; None takes the cores that this process may use.
        numa: "auto" binds threads, and places weights, by the machine's nodes where there are several; or "off".
        kv_type: "auto" (bf16; f32 for f32 weights), "f32", "bf16" or "int8" (a scale for each token and head).
        isa: compute tier at most, or None for the best.
        pack_cache: whether repacked weights are kept on disk: True, False, or the folder.
    """

    max_model_tokens: int
    max_running: int
    max_step_tokens: int
    page_tokens: int = 32
    threads: int | None = None
    numa: str = "auto"
    kv_type: str = "auto"
    isa: str | None = None
    pack_cache: bool | str = False


@dataclass(frozen=True, slots=True)
class CpuTicket:
    """A step under way."""

    step: int


class CpuBackend:
    """Runs a `DecoderSpec` on this machine's cores; implements `core.ports.Backend`.

    Raises:
        ModelFileError: the core cannot run the spec, or a weight is missing or misshapen.
        ConfigError: an option cannot be met.
    """

    def __init__(self, spec: DecoderSpec, weights: WeightMap, options: CpuOptions, pool: Pool | None = None) -> None:
        """Loads the weights; `pool` is shared with other backends of the process, or None for threads of its own."""
        check_spec(spec)
        check_sizes(options)
        self._spec = spec
        self._options = options
        self._kernels = open_kernels(options.isa)
        self._pool = _shared(pool, options) if pool is not None else make_pool(options.threads, options.numa)
        self.kv_type = resolve_kv_type(options.kv_type, weights)
        packed = pack_all(spec, weights, self._pool, options.pack_cache)
        self.weight_bytes = sum(matrix.num_bytes for matrix in packed.values())
        matrices = {place: to_native(matrix) for place, matrix in packed.items()}
        builder = Builder(spec, weights, options.max_model_tokens)
        model = builder.build(matrices)
        self._ropes = builder.ropes
        self._decoder = _native.Decoder(
            self._pool,
            self._kernels,
            model,
            options.max_running,
            options.max_step_tokens,
            options.page_tokens,
            KV_TYPES[self.kv_type],
        )
        self._closed = False
        self._plain_results: dict[tuple[int, ...], RowResult] = {}

    @property
    def tier(self) -> str:
        """Name of the compute tier in use."""
        return str(self._kernels.name)

    @property
    def threads(self) -> int:
        """Compute threads, the caller's own included."""
        return int(self._pool.threads)

    @property
    def pool(self) -> Pool:
        """The threads that it computes on, for the next backend of this process."""
        return self._pool

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        """The layers that see everything, and those of each window."""
        return tuple(
            KvGroup(group.name, group.layers, int(self._decoder.bytes_per_page(index)), group.window)
            for index, group in enumerate(kv_groups(self._spec))
        )

    def allocate(self, pages: tuple[int, ...]) -> None:
        """Takes memory for that many pages of each group.

        Raises:
            ConfigError: the machine does not have it.
        """
        groups = self.kv_groups
        if len(pages) != len(groups) or min(pages) < 1:
            names = ", ".join(group.name for group in groups)
            raise ConfigError(f"pages is {pages}; this model has the KV groups {names}.", param="pages")
        reach = [count * self._options.page_tokens for count, g in zip(pages, groups, strict=True) if g.window is None]
        for table in self._ropes:
            table.fill(min(reach, default=self._options.max_model_tokens))
        try:
            self._decoder.allocate(list(pages))
        except (MemoryError, ValueError) as error:
            size = sum(count * group.bytes_per_page for count, group in zip(pages, groups, strict=True))
            raise ConfigError(
                f"no memory for {size:,} bytes of KV.", param="kv_bytes", hint="lower --kv-bytes."
            ) from error
        if self._pool.refusals:
            _log.warning(
                "the system refused %d times to bind a thread or to place memory on this machine's %d nodes: "
                "the answers are the same, slower. hint: allow sched_setaffinity and mbind, or --numa off.",
                self._pool.refusals,
                self._pool.nodes,
            )

    def submit(self, plan: StepPlan) -> Ticket:
        """Starts the step; returns at once."""
        opened = [(o.slot, o.tokens, o.num_prompt, native_sampling(o)) for o in plan.opened]
        self._decoder.submit(plan.step, plan.released_slots, opened, plan.copies, plan.rows)
        return CpuTicket(plan.step)

    def finish(self, ticket: Ticket, masks: Mapping[int, bytes] | None) -> StepResult:
        """Waits for the step and samples; blocks without the GIL.

        Raises:
            EngineUnavailable: the backend was closed meanwhile.
        """
        try:
            duration_s, rows = self._decoder.finish(dict(masks) if masks else {})
        except RuntimeError as error:
            if self._closed:
                raise EngineUnavailable("The backend was closed while a step ran.") from error
            raise
        return StepResult(ticket.step, self._results(rows), duration_s)

    def _results(self, rows: list[_RawRow]) -> tuple[RowResult, ...]:
        """The rows as they are reported; those that are nothing but a token are made once a token and kept."""
        known = self._plain_results
        if len(known) > _MAX_PLAIN_RESULTS:
            known.clear()
        results: list[RowResult] = []
        for tokens, error, logprobs, prompt_logprobs in rows:
            if error or logprobs is not None or prompt_logprobs is not None:
                results.append(_row_result(tokens, error, logprobs, prompt_logprobs))
                continue
            result = known.get(tokens)
            if result is None:
                result = known[tokens] = RowResult(tokens)
            results.append(result)
        return tuple(results)

    def peek_logits(self, ticket: Ticket) -> npt.NDArray[np.float32]:
        """Raw logits of the step's sampling positions in row order; call it before `finish`.  # [N, V] f32."""
        return np.asarray(self._decoder.peek_logits(), dtype=np.float32)

    def read_page(self, group: int, page: int) -> bytes:
        """One page's keys and values of all layers of a group; only while no step is under way."""
        return bytes(self._decoder.read_page(group, page))

    def write_page(self, group: int, page: int, data: bytes) -> None:
        """Replaces one page; `data` is what `read_page` gave. Only while no step is under way."""
        self._decoder.write_page(group, page, data)

    def close(self) -> None:
        """Gives up what runs at the next layer. Memory goes with the last reference."""
        self._closed = True
        self._decoder.cancel()


def open_kernels(isa: str | None) -> _native.Kernels:
    """The function table of the best tier at or below `isa`.

    Raises:
        ConfigError: the machine has no such tier, or PENSTOCK_ISA names none.
    """
    try:
        return _native.kernels(isa) if isa is not None else _native.kernels()
    except ValueError as error:
        raise ConfigError(str(error), param="isa") from error


def compute_tiers() -> tuple[str, ...]:
    """Names of the tiers that this machine runs, lowest first."""
    return tuple(_native.tiers())


def native_sampling(opened: Opened) -> _native.Sampling:
    """The parameters of a slot as the core takes them."""
    params, out = opened.sampling, _native.Sampling()
    out.temperature, out.top_p, out.top_k = params.temperature, params.top_p, params.top_k
    out.min_p, out.typical_p = params.min_p, params.typical_p
    out.repetition = params.repetition_penalty
    out.presence, out.frequency = params.presence_penalty, params.frequency_penalty
    out.min_tokens = params.min_tokens
    out.logprobs = -1 if params.logprobs is None else params.logprobs
    out.seed, out.sample = opened.seed & _SEED_MASK, opened.sample
    out.bias = list(params.logit_bias)
    out.end_ids = [*opened.eos_token_ids, *params.stop_token_ids]
    return out


def _shared(pool: Pool, options: CpuOptions) -> Pool:
    if options.threads not in (None, pool.threads):
        raise ConfigError(
            f"threads is {options.threads}; the pool that this process computes on has {pool.threads}.", param="threads"
        )
    if options.numa == "off" and pool.nodes > 1:
        raise ConfigError(
            f"numa is off; the pool that this process computes on is bound to {pool.nodes} nodes.", param="numa"
        )
    return pool


_Raw = list[tuple[int, float, int, tuple[tuple[int, float], ...]]]


_RawRow = tuple[tuple[int, ...], int, _Raw | None, _Raw | None]


def _row_result(tokens: tuple[int, ...], error: int, logprobs: _Raw | None, prompt_logprobs: _Raw | None) -> RowResult:
    if error:
        return RowResult(error=_ERRORS[error])
    return RowResult(tokens, _logprobs(logprobs), _logprobs(prompt_logprobs))


def _logprobs(raw: _Raw | None) -> tuple[TokenLogprobs, ...] | None:
    return None if raw is None else tuple(TokenLogprobs(*entry) for entry in raw)
