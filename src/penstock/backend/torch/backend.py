"""The torch backend: plans in, results out, any `DecoderSpec` in plain torch operations on a CPU or a GPU.

Knows nothing about requests, prefixes or text. Invariant: one thread computes, step after step; the next forward pass
begins when the step before it has been sampled.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from penstock.backend.torch.attention import SPLIT
from penstock.backend.torch.choices import positions_of, sample
from penstock.backend.torch.pages import groups_of, make_layer
from penstock.backend.torch.runner import Runner, Shape
from penstock.backend.torch.sampler import ROWS
from penstock.backend.torch.slots import Bounds, Slots
from penstock.backend.torch.steps import Forwarded, forward, results
from penstock.backend.torch.weights import load_weights, resolve_weight_type
from penstock.core import Clock, ConfigError, EngineUnavailable, KvGroup, StepPlan, StepResult, Ticket
from penstock.model import DecoderSpec, WeightMap, check_sizes, check_spec, resolve_kv_type

BLOCK_TOKENS = {"cpu": 16, "cuda": 64}
MAX_PAGES = 2**31 - 1
RESERVE = 2**30  # for the library itself and what its allocator cannot use


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Choices of one torch backend.

    Attributes:
        max_model_tokens: longest sequence; rotary tables are made for it.
        max_running: slots.
        max_step_tokens: tokens of one step at most.
        device: "cpu", "cuda" or "cuda:N".
        page_tokens: tokens of a KV page, a multiple of 16.
        kv_type: "auto" (bf16; f32 for f32 weights), "f32", "bf16" or "int8" (a scale for each token and head).
        weight_type: "auto" (bf16 where the file is, else f32), "f32" or "bf16".
        fast_nondeterministic: the library's products for whole steps: a token's bits then depend on its batch mates.
    """

    max_model_tokens: int
    max_running: int
    max_step_tokens: int
    device: str = "cpu"
    page_tokens: int = 32
    kv_type: str = "auto"
    weight_type: str = "auto"
    fast_nondeterministic: bool = False


@dataclass(slots=True, eq=False)
class TorchTicket:
    """A step under way; `done` is there once its turn has come."""

    plan: StepPlan
    done: Future[Forwarded] | None = None

    @property
    def step(self) -> int:
        """The step's number."""
        return self.plan.step


class TorchBackend:
    """Runs a `DecoderSpec` with PyTorch; implements `core.ports.Backend`.

    Raises:
        ModelFileError: the spec cannot be run, or a weight is missing or misshapen.
        ConfigError: an option cannot be met.
    """

    def __init__(self, spec: DecoderSpec, weights: WeightMap, options: TorchOptions, clock: Clock) -> None:
        """Loads the weights; `clock` times the steps."""
        check_spec(spec)
        check_sizes(options)
        self._spec = spec
        self._options = options
        self._clock = clock
        self._device = open_device(options.device)
        self.kv_type = resolve_kv_type(options.kv_type, weights)
        self.weight_type = resolve_weight_type(options.weight_type, weights)
        loaded = load_weights(spec, weights, self.weight_type, self._device)
        self.weight_bytes = sum(tensor.nbytes for tensor in loaded.values() if tensor.dim() == 2)
        self._runner = Runner(spec, loaded)
        self._small = Shape(BLOCK_TOKENS[self._device.type], options.page_tokens)
        self._shape = replace(self._small, fast=options.fast_nondeterministic)
        self._groups = groups_of(spec, self.kv_type, options.page_tokens)
        bounds = Bounds(
            options.max_running, options.max_step_tokens, options.max_model_tokens, options.page_tokens, spec.vocab
        )
        self._slots = Slots(self._groups, bounds)
        self._thread = ThreadPoolExecutor(1, "penstock-torch")
        self._lock = threading.Lock()
        self._queue: deque[TorchTicket] = deque()
        self._closed = False

    @property
    def tier(self) -> str:
        """What computes, and what besides the KV type decides the tokens."""
        parts = ["torch", self._device.type, self.weight_type]
        if self._device.type == "cuda":
            parts.insert(2, "sm{}{}".format(*torch.cuda.get_device_capability(self._device)))
        return "-".join([*parts, *(["fast-nondeterministic"] if self._shape.fast else [])])

    @property
    def threads(self) -> int:
        """Threads of the library's operations on the CPU."""
        return int(torch.get_num_threads())

    def free_bytes(self) -> int:
        """Bytes of the GPU that KV may take: what is free now, less what a step needs beside its KV."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return max(0, int(free) - step_bytes(self._spec, self._options, self._small.block_tokens))

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        """The layers that see everything, and those of each window."""
        return self._groups

    def allocate(self, pages: tuple[int, ...]) -> None:
        """Takes memory for that many pages of each group.

        Raises:
            ConfigError: the device does not have it.
        """
        if len(pages) != len(self._groups) or min(pages) < 1:
            names = ", ".join(group.name for group in self._groups)
            raise ConfigError(f"pages is {pages}; this model has the KV groups {names}.", param="pages")
        size = self._options.page_tokens
        reach = [count * size for count, group in zip(pages, self._groups, strict=True) if group.window is None]
        self._runner.make_tables(self._options.max_model_tokens, min(reach, default=self._options.max_model_tokens))
        count_of = {layer: n for n, group in zip(pages, self._groups, strict=True) for layer in group.layers}
        try:
            if max(pages) > MAX_PAGES:
                raise MemoryError
            self._runner.kv = [
                make_layer(layer.attention, count_of[index], size, self.kv_type, self._device)
                for index, layer in enumerate(self._spec.layers)
            ]
        except (RuntimeError, MemoryError) as error:
            self._runner.kv = []
            total = sum(count * group.bytes_per_page for count, group in zip(pages, self._groups, strict=True))
            raise ConfigError(
                f"no memory for {total:,} bytes of KV on {self._device}.", param="kv_bytes", hint="lower --kv-bytes."
            ) from error
        self._slots.pages = pages

    def submit(self, plan: StepPlan) -> Ticket:
        """Starts the step, or queues it behind those under way; returns at once."""
        ticket = TorchTicket(plan)
        with self._lock:
            self._queue.append(ticket)
            if len(self._queue) == 1:
                ticket.done = self._thread.submit(self._forward, plan)
        return ticket

    def finish(self, ticket: Ticket, masks: Mapping[int, bytes] | None) -> StepResult:
        """Waits for the step and samples.

        Raises:
            EngineUnavailable: the backend was closed meanwhile.
            ValueError: the plan names what is not there, or a mask has another length than the vocabulary.
        """
        assert isinstance(ticket, TorchTicket) and ticket is self._queue[0] and ticket.done is not None
        try:
            forwarded = ticket.done.result()
            self._check_open()
            return self._thread.submit(self._sample, ticket.step, forwarded, dict(masks or {})).result()
        finally:
            with self._lock:
                self._queue.popleft()
                if self._queue and not self._closed:
                    self._queue[0].done = self._thread.submit(self._forward, self._queue[0].plan)

    def peek_logits(self, ticket: Ticket) -> npt.NDArray[np.float32]:
        """Raw logits of the step's sampling positions in row order; call it before `finish`.  # [N, V] f32."""
        assert isinstance(ticket, TorchTicket) and ticket.done is not None
        forwarded = ticket.done.result()
        count = len(positions_of(forwarded.shares))
        return np.array(forwarded.logits[:count].cpu().numpy())

    def read_page(self, group: int, page: int) -> bytes:
        """One page's keys and values of all layers of a group; only while no step is under way."""
        return b"".join(_bytes(part).tobytes() for part in self._page(group, page))

    def write_page(self, group: int, page: int, data: bytes) -> None:
        """Replaces one page; `data` is what `read_page` gave. Only while no step is under way."""
        parts = self._page(group, page)
        if len(data) != sum(part.nbytes for part in parts):
            raise ValueError(f"{len(data)} bytes are not the size of a page of KV group {group}")
        at = 0
        for part in parts:
            new = torch.frombuffer(bytearray(data[at : at + part.nbytes]), dtype=part.dtype)
            part.copy_(new.view(part.shape))
            at += part.nbytes

    def close(self) -> None:
        """Gives up what runs at the next layer. Memory goes with the last reference."""
        self._closed = True
        self._thread.shutdown(wait=False)

    def _page(self, group: int, page: int) -> list[torch.Tensor]:
        if self._queue:
            raise ValueError("a step is under way")
        self._slots.check_page(group, page)
        return [tensor[page] for layer in self._groups[group].layers for tensor in self._runner.kv[layer].tensors]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The backend was closed while a step ran.")

    # On the thread.

    def _forward(self, plan: StepPlan) -> Forwarded:
        """The forward pass; where memory runs out, once more in small blocks after the library gave back its own."""
        started = self._clock.now()
        with torch.inference_mode():
            shares = self._slots.take(plan)
            for copy in plan.copies:
                for layer in self._groups[copy.group].layers:
                    self._runner.kv[layer].copy(copy.source, copy.target)
            try:
                found = forward(self._runner, self._slots, shares, self._shape, self._check_open)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found = forward(self._runner, self._slots, shares, self._small, self._check_open)
            self._wait()
        return found._replace(duration_s=self._clock.now() - started)

    def _sample(self, step: int, forwarded: Forwarded, masks: dict[int, bytes]) -> StepResult:
        """Tokens of the step that is done; one copy up and one down."""
        started = self._clock.now()
        for slot, mask in masks.items():
            if len(mask) != -(-self._spec.vocab // 8):
                raise ValueError(f"the mask of slot {slot} has {len(mask)} bytes; ceil(V / 8) are needed")
        with torch.inference_mode():
            positions = positions_of(forwarded.shares)
            found = [forwarded.asked.double()]
            if positions:
                found.append(sample(forwarded.logits, positions, self._slots, masks))
            asked, *sampled = _download(found)
        rows = results(forwarded.shares, self._slots, sampled[0] if sampled else np.zeros((0, 4)), asked)
        return StepResult(step, rows, forwarded.duration_s + self._clock.now() - started)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def step_bytes(spec: DecoderSpec, options: TorchOptions, block_tokens: int) -> int:
    """Device memory that a step may take beside weights and KV: its largest tensors at once, doubled, and RESERVE."""
    block = options.max_step_tokens if options.fast_nondeterministic else block_tokens
    heads = max(layer.attention.num_kv_heads * layer.attention.head_dim for layer in spec.layers)
    width = max(layer.mlp.intermediate + layer.mlp.experts_per_token * spec.hidden for layer in spec.layers)
    split = 4 * block_tokens * SPLIT * heads * 4  # keys and values of a split, gathered and turned
    rows = 4 * (options.max_step_tokens * 2 * spec.hidden + block * 4 * width)
    logits = spec.vocab * (4 * 3 * (options.max_running + block) + 8 * 8 * ROWS)
    return 2 * (split + rows + logits) + RESERVE


def count_gpus() -> int:
    """GPUs that PyTorch sees."""
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def open_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: there is none.
    """
    if name != "cpu" and not count_gpus():
        raise ConfigError(
            f"device is {name!r}; PyTorch {torch.__version__} sees 0 GPUs.",
            param="device",
            hint="leave --device out or say --device cpu; on a machine with a GPU, check its driver with nvidia-smi.",
        )
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count_gpus():
        raise ConfigError(f"device is {name!r}; PyTorch sees {count_gpus()} GPUs.", param="device")
    return device


def _download(tensors: list[torch.Tensor]) -> list[npt.NDArray[np.float64]]:
    """The tensors on the host, in one copy.  # each f64."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu().numpy()
    found, at = [], 0
    for tensor in tensors:
        found.append(flat[at : at + tensor.numel()].reshape(tensor.shape))
        at += tensor.numel()
    return found


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    return np.asarray(tensor.cpu().contiguous().view(torch.uint8).numpy())
