"""The composition root: a model's name and a few choices become tokenizer, KV, scheduler, backend and engine.

Knows nothing about HTTP or terminals. Invariant: this is the only file that knows both planes, control and tensor.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol

from penstock.backend.cpu import CpuBackend, CpuOptions, Pool, has_gpu, read_machine
from penstock.core import Backend, ConfigError, EngineConfig, ModelFileError, Request, SamplingParams, limits
from penstock.engine import Engine, EngineThread, WallClock
from penstock.formats import default_folder
from penstock.kv import KvBudget, KvManager, KvSize, size_kv
from penstock.model import Checkpoint, find_pulled, open_checkpoint, parse_reference
from penstock.sched import Scheduler
from penstock.text import Tokenizer, load_gguf_tokenizer, load_tokenizer

BUNDLED = Path(__file__).parent / "models" / "bundled"
BUNDLED_NAME = "penstock-bundled"
DEVICES = ("auto", "cpu", "cuda")
_GPU_EXTRA = "pip install 'penstock[gpu]'"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Choices of one model's start.

    Attributes:
        model: a local folder, a .gguf file, a hub id (owner/name, :TYPE, /file.gguf), or None for the bundled model.
        revision: of a hub id: branch, tag or commit.
        max_model_tokens: longest prompt plus output; None takes the model's own, cut to what fits.
        kv_bytes: bytes of KV; None chooses from free memory.
        kv_type: "auto" (bf16; f32 for f32 weights), "bf16", "f32" or "int8".
        page_tokens: tokens of a KV page.
        prefix_cache: whether finished prompts stay findable.
        max_running: sequences computed at once.
        max_step_tokens: ceiling of tokens a step.
        max_waiting: queued requests before 429.
        device: "cpu", "cuda", or "auto": a GPU where there is one and PyTorch is installed.
        fast_nondeterministic: on a GPU, the library's own products: a token may then depend on its batch mates.
        threads: compute threads; None takes the cores that this process may use.
        numa: "auto" binds threads, and places weights, by the machine's nodes where there are several; or "off".
        isa: compute tier at most ("scalar", "avx2", "avx512", "neon"); None takes the best.
        pack_cache: whether repacked weights, and that a tokenizer's file is sound, are kept on disk for the next start.
        step_log: path of a replayable step log, or None.
    """

    model: str | None = None
    revision: str | None = None
    max_model_tokens: int | None = None
    kv_bytes: int | None = None
    kv_type: str = "auto"
    page_tokens: int = 32
    prefix_cache: bool = True
    max_running: int = 128
    max_step_tokens: int = 2048
    max_waiting: int = 4096
    device: str = "auto"
    fast_nondeterministic: bool = False
    threads: int | None = None
    numa: str = "auto"
    isa: str | None = None
    pack_cache: bool = True
    step_log: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A running model: what `api`, the library and the terminal chat hold.

    Attributes:
        name: for answers and logs.
        checkpoint: spec, files, defaults.
        tokenizer: text to ids and back.
        client: the engine.
        config: resolved choices.
        kv: the KV choice; `kv.line(kv_type)` is the printed line.
        kv_type: "bf16", "f32" or "int8".
        tier: compute tier in use.
        threads: compute threads in use.
        pool: those threads, for the next `load` of this process; None on a GPU.
    """

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    client: EngineThread
    config: EngineConfig
    kv: KvSize
    kv_type: str
    tier: str
    threads: int
    pool: Pool | None

    def request(self, id: str, tokens: tuple[int, ...], params: SamplingParams | None) -> Request:
        """A request with end tokens, the defaults where `params` is None, and a seed, drawn if none was given."""
        sampling = params if params is not None else self.checkpoint.generation_defaults
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbelow(limits.DRAWN_SEEDS))
        eos = () if sampling.ignore_eos else self.eos_token_ids
        return Request(
            id=id, prompt_tokens=tokens, sampling=sampling, eos_token_ids=eos, arrival_s=self.client.clock.now()
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """End tokens that the checkpoint or its tokenizer declares."""
        return tuple(sorted({*self.checkpoint.eos_token_ids, *self.tokenizer.eos_token_ids}))

    def close(self, grace_s: float = 0.0) -> None:
        """Ends the engine; its backend's memory is freed."""
        self.client.close(grace_s)


class _Computing(Backend, Protocol):
    """A backend that says what it computes with."""

    kv_type: str

    @property
    def tier(self) -> str: ...

    @property
    def threads(self) -> int: ...


class _Tensors(NamedTuple):
    """A backend that has its weights, its threads, and what KV may take of its memory once all else is there."""

    backend: _Computing
    pool: Pool | None
    budget: Callable[[], KvBudget]


def find_model(model: str | None, revision: str | None = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """The local path of a model: bundled, on disk, pulled before, or pulled from the hub now.

    Raises:
        ModelFileError: it is nowhere to be had, or was changed since it was pulled.
    """
    if model is None:
        return BUNDLED
    path = Path(model).expanduser()
    if path.exists():
        return path
    if (pulled := find_pulled(model, revision, say)) is not None:
        return pulled
    from penstock.model.hub import resolve_model

    return resolve_model(model, revision, say)


def model_name(model: str | None, own: str) -> str:
    """The model's name for people and answers: a hub id as it was given, else its folder's or file's (`own`)."""
    if model is None:
        return BUNDLED_NAME
    is_path = Path(model).expanduser().exists()
    return own if is_path or parse_reference(model) is None else model


def read_tokenizer(checkpoint: Checkpoint, notes: Path | None = None) -> Tokenizer:
    """The checkpoint's tokenizer, checked against the embedding's rows.

    Args:
        checkpoint: the model.
        notes: folder that keeps what was found in its files for the next start.

    Raises:
        ModelFileError: there is none, or it does not belong to these weights.
    """
    if checkpoint.gguf_metadata is not None:
        try:
            tokenizer = load_gguf_tokenizer(
                checkpoint.gguf_metadata, now=WallClock().date, max_ids=checkpoint.spec.vocab
            )
        except ModelFileError as error:  # made from metadata alone: it knows no file
            raise ModelFileError(f"{checkpoint.weights.files[0]}: {error.message}", hint=error.hint) from None
    elif checkpoint.folder is not None:
        tokenizer = load_tokenizer(checkpoint.folder, now=WallClock().date, max_ids=checkpoint.spec.vocab, notes=notes)
    else:
        raise ModelFileError(f"{checkpoint.name}: no tokenizer.", hint="put tokenizer.json beside the weights.")
    if tokenizer.vocab_size > checkpoint.spec.vocab:
        raise ModelFileError(
            f"{checkpoint.name}: {tokenizer.vocab_size} ids in the tokenizer, {checkpoint.spec.vocab} embedding rows.",
            hint="the tokenizer belongs to another model.",
        )
    return tokenizer


def load(options: LoadOptions, say: Callable[[str], None] = lambda line: None, pool: Pool | None = None) -> LoadedModel:
    """A running model.

    Args:
        options: the choices.
        say: takes lines for people, e.g. the KV line.
        pool: compute threads of a model that this process runs already (`LoadedModel.pool`): both take turns on them.
            None makes a pool.

    Raises:
        ModelFileError: a file is missing, corrupt, mismatched or of an unknown kind.
        ConfigError: a choice cannot be met.
    """
    options = replace(options, device=choose_device(options, say))
    checkpoint = open_checkpoint(find_model(options.model, options.revision, say))
    context = _context(options, checkpoint)
    if context > checkpoint.spec.max_tokens:
        raise ConfigError(
            f"max_model_tokens is {context:,}; the model was made for {checkpoint.spec.max_tokens:,}.",
            param="max_model_tokens",
            hint=f"lower it to {checkpoint.spec.max_tokens} or leave it out.",
        )
    # Weights are repacked without the interpreter's lock, beside the tokenizer.
    with _collections_paused(), ThreadPoolExecutor(1, "penstock-tokenizer") as beside:
        notes = default_folder(os.environ, Path.home()).with_name("tokenizers") if options.pack_cache else None
        reading = beside.submit(read_tokenizer, checkpoint, notes)
        tensors = _load_weights(checkpoint, options, context, pool)
    try:
        tokenizer = reading.result()
        tokenizer.start_encoders()
        return _start(options, checkpoint, tokenizer, tensors, say)
    except BaseException:
        tensors.backend.close()
        raise


@contextmanager
def _collections_paused() -> Iterator[None]:
    """No garbage collections: a vocabulary is half a million objects, none of them garbage, visited again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def choose_device(options: LoadOptions, say: Callable[[str], None]) -> str:
    """The device, "cpu" or "cuda": as asked, or what there is; PyTorch is imported only where the system shows a GPU.

    Raises:
        ConfigError: the device does not exist, or another choice is not for it.
    """
    if options.device not in DEVICES:
        raise ConfigError(f"device is {options.device!r}; {', '.join(DEVICES)} exist.", param="device")
    device = _found_device(say) if options.device == "auto" else options.device
    if device == "cpu":
        if options.fast_nondeterministic:
            raise ConfigError(
                "fast_nondeterministic is set and the device is the CPU, whose products are deterministic and fast.",
                param="fast_nondeterministic",
                hint="leave it out, or say --device cuda.",
            )
        return device
    for name, usual in (("threads", None), ("isa", None), ("numa", "auto")):
        if (value := getattr(options, name)) != usual:
            raise ConfigError(
                f"{name} is {value!r} and the device is a GPU.",
                param=name,
                hint=f"leave {name} out, or say --device cpu.",
            )
    if find_spec("torch") is None:
        raise ConfigError("device is 'cuda'; PyTorch is not installed.", param="device", hint=f"{_GPU_EXTRA}.")
    from penstock.backend.torch import open_device

    open_device(device)
    return device


def _found_device(say: Callable[[str], None]) -> str:
    if not has_gpu():
        return "cpu"
    if find_spec("torch") is None:
        say(f"a GPU is here and PyTorch is not installed: computing on the CPU. For the GPU: {_GPU_EXTRA}.")
        return "cpu"
    from penstock.backend.torch import count_gpus

    if count_gpus():
        return "cuda"
    say("a GPU is here and PyTorch sees none: computing on the CPU. Its driver or its CUDA build does not match.")
    return "cpu"


def _load_weights(checkpoint: Checkpoint, options: LoadOptions, context: int, pool: Pool | None) -> _Tensors:
    """The backend that has the checkpoint's weights.

    Raises:
        ModelFileError: what it cannot run, with the file that says so.
    """
    try:
        if options.device == "cuda":
            return _load_torch(checkpoint, options, context)
        backend = CpuBackend(checkpoint.spec, checkpoint.weights, _cpu_options(options, context), pool)
        return _Tensors(backend, backend.pool, lambda: KvBudget(read_machine().available_bytes, options.kv_bytes))
    except ModelFileError as error:  # made from a spec and tensors: it knows no file
        where = checkpoint.folder or checkpoint.weights.files[0]
        raise ModelFileError(f"{where}: {error.message}", hint=error.hint) from None


def _load_torch(checkpoint: Checkpoint, options: LoadOptions, context: int) -> _Tensors:
    from penstock.backend.torch import TorchBackend, TorchOptions

    chosen = TorchOptions(
        max_model_tokens=context,
        max_running=options.max_running,
        max_step_tokens=options.max_step_tokens,
        device=options.device,
        page_tokens=options.page_tokens,
        kv_type=options.kv_type,
        fast_nondeterministic=options.fast_nondeterministic,
    )
    backend = TorchBackend(checkpoint.spec, checkpoint.weights, chosen, WallClock())

    def budget() -> KvBudget:
        free = backend.free_bytes()
        return KvBudget(free, free, "the GPU") if options.kv_bytes is None else KvBudget(free, options.kv_bytes)

    return _Tensors(backend, None, budget)


def _start(
    options: LoadOptions, checkpoint: Checkpoint, tokenizer: Tokenizer, tensors: _Tensors, say: Callable[[str], None]
) -> LoadedModel:
    """The engine over a backend that has its weights: KV is sized and taken, the thread started."""
    backend = tensors.backend
    kv = size_kv(
        backend.kv_groups,
        options.page_tokens,
        _context(options, checkpoint),
        tensors.budget(),
        pinned_context=options.max_model_tokens is not None,
        chunk_tokens=options.max_step_tokens,
    )
    say(kv.line(backend.kv_type))
    config = EngineConfig(
        max_model_tokens=kv.max_model_tokens,
        vocab_size=checkpoint.spec.vocab,
        pages=kv.pages,
        max_step_tokens=options.max_step_tokens,
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        page_tokens=options.page_tokens,
        prefix_cache=options.prefix_cache,
        model_identity=checkpoint.weights.identity,
        step_log=options.step_log,
    )
    backend.allocate(kv.pages)
    scheduler = Scheduler(config, KvManager(backend.kv_groups, config))
    client = EngineThread(Engine(config, scheduler, backend, tokenizer), WallClock())
    return LoadedModel(
        name=model_name(options.model, checkpoint.name),
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        client=client,
        config=config,
        kv=kv,
        kv_type=backend.kv_type,
        tier=backend.tier,
        threads=backend.threads,
        pool=tensors.pool,
    )


def _context(options: LoadOptions, checkpoint: Checkpoint) -> int:
    return checkpoint.spec.max_tokens if options.max_model_tokens is None else options.max_model_tokens


def _cpu_options(options: LoadOptions, context: int) -> CpuOptions:
    return CpuOptions(
        threads=options.threads,
        numa=options.numa,
        kv_type=options.kv_type,
        page_tokens=options.page_tokens,
        max_model_tokens=context,
        max_running=options.max_running,
        max_step_tokens=options.max_step_tokens,
        isa=options.isa,
        pack_cache=options.pack_cache,
    )
