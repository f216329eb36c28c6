"""Native core of penstock."""

from collections.abc import Sequence
from typing import Annotated, overload

import numpy
import numpy.typing
from numpy.typing import NDArray


class Kernels:
    @property
    def name(self) -> str: ...

    def rms_norm(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], weight: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], eps: float) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    def rotate(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], cosines: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], sines: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], interleaved: bool) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]:
        """x with its first pairs turned by the angles."""

    def gated(self, gate: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], up: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], activation: int, clamp: float = 0.0) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    def add_scaled(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], y: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale: float) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    def cap_logits(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], scale: float, cap: float) -> Annotated[NDArray[numpy.float32], dict(shape=(None,))]: ...

    def scan_logits(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> tuple[float, int, bool]:
        """(maximum, its first index, whether all are finite)."""

    def exponentials(self, x: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], maximum: float, inverse: float) -> tuple[float, Annotated[NDArray[numpy.float32], dict(shape=(None,))]]:
        """(sum, values) of exp((x - maximum) * inverse)."""

    def attend(self, q: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], k: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], v: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order='C', device='cpu', writable=False)], table: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], page_tokens: int, first_position: int, scale: float, kv_type: int = 0, window: int = 0, softcap: float = 0.0, sinks: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None, None))]:
        """
        Attention of successive queries over keys and values stored in pages by the table.
        """

def kernels(tier: str | None = None) -> Kernels:
    """
    Kernels of the named tier; of PENSTOCK_ISA, else of the highest that runs here.
    """

def tiers() -> list[str]:
    """Names of the tiers that run here, lowest first."""

class Pool:
    @overload
    def __init__(self, threads: int) -> None: ...

    @overload
    def __init__(self, nodes: Sequence[tuple[int, int, Sequence[int]]]) -> None: ...

    @property
    def threads(self) -> int: ...

    @property
    def nodes(self) -> int: ...

    @property
    def refusals(self) -> int: ...

    def shares(self, count: int, own: bool = False) -> list[int]:
        """
        The thread that ran each of `count` indices; own says without stealing between nodes.
        """

def default_threads(root: str = '/') -> int:
    """
    Physical cores this process may use: affinity and the cgroup's CPU limit count, the host's number does not.
    """

class Matrix:
    def __init__(self, layout: int, n: int, k: int, codes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], scales: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, subscales: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, mins: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None, bits: int = 0, group: int = 0, super: int = 0, zero: int = 0, scale_form: int = 0, codebook: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> None: ...

    @property
    def n(self) -> int: ...

    @property
    def k(self) -> int: ...

def alive() -> tuple[int, int, int]:
    """Decoders, pools and matrices that exist."""

def linear(pool: Pool, kernels: Kernels, w: Matrix, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, y: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """y = x · Wᵀ + bias, every row's bits independent of the others."""

def place(pool: Pool, source: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], tile_bytes: int) -> None:
    """
    Copies source to target, every tile by a thread of the node that computes it.
    """

def pack(pool: Pool, storage: str, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], n: int, k: int, rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None, codes: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], scales: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')] | None, subscales: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')] | None, mins: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')] | None) -> None:
    """
    Fills the arrays of an empty group-code matrix from stored blocks, rows of them in the order given.
    """

def bench_bandwidth(pool: Pool, kernels: Kernels, data: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], streams: int, prefetch: bool = False) -> float:
    """
    Reads all of data once, in so many streams a thread; returns a checksum.
    """

def bench_peak(pool: Pool, kernels: Kernels, what: str, count: int) -> int:
    """
    Runs count iterations a thread of "fma" or "dot"; returns the operations done.
    """

class Sampling:
    def __init__(self) -> None: ...

    @property
    def temperature(self) -> float: ...

    @temperature.setter
    def temperature(self, arg: float, /) -> None: ...

    @property
    def top_p(self) -> float: ...

    @top_p.setter
    def top_p(self, arg: float, /) -> None: ...

    @property
    def min_p(self) -> float: ...

    @min_p.setter
    def min_p(self, arg: float, /) -> None: ...

    @property
    def typical_p(self) -> float: ...

    @typical_p.setter
    def typical_p(self, arg: float, /) -> None: ...

    @property
    def top_k(self) -> int: ...

    @top_k.setter
    def top_k(self, arg: int, /) -> None: ...

    @property
    def repetition(self) -> float: ...

    @repetition.setter
    def repetition(self, arg: float, /) -> None: ...

    @property
    def presence(self) -> float: ...

    @presence.setter
    def presence(self, arg: float, /) -> None: ...

    @property
    def frequency(self) -> float: ...

    @frequency.setter
    def frequency(self, arg: float, /) -> None: ...

    @property
    def min_tokens(self) -> int: ...

    @min_tokens.setter
    def min_tokens(self, arg: int, /) -> None: ...

    @property
    def logprobs(self) -> int: ...

    @logprobs.setter
    def logprobs(self, arg: int, /) -> None: ...

    @property
    def seed(self) -> int: ...

    @seed.setter
    def seed(self, arg: int, /) -> None: ...

    @property
    def sample(self) -> int: ...

    @sample.setter
    def sample(self, arg: int, /) -> None: ...

    @property
    def bias(self) -> list[tuple[int, float]]: ...

    @bias.setter
    def bias(self, arg: Sequence[tuple[int, float]], /) -> None: ...

    @property
    def end_ids(self) -> list[int]: ...

    @end_ids.setter
    def end_ids(self, arg: Sequence[int], /) -> None: ...

class SampleRow:
    def __init__(self, sampling: Sampling, tokens: Sequence[int], num_prompt: int) -> None: ...

def sample_many(kernels: Kernels, logits: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], sampling: Sampling, first_position: int, count: int, tokens: Sequence[int], num_prompt: int) -> list[int]:
    """
    Tokens drawn at successive positions from the same logits and history; -1 where nothing may be drawn.
    """

def raw_logprob(kernels: Kernels, logits: numpy.typing.NDArray[numpy.float32], token: int, top: int) -> list[tuple[int, float, int, tuple[tuple[int, float], ...]]]: ...

def head_rows(pool: Pool, kernels: Kernels, head: Matrix, x: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], logits: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], maxima: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
    """
    Fills logits with x times the head, and maxima with the greatest of each 32.
    """

def sample_rows(pool: Pool, kernels: Kernels, logits: numpy.typing.NDArray[numpy.float32], maxima: numpy.typing.NDArray[numpy.float32], rows: list[SampleRow], position: int, masks: list[bytes | None] | None = None) -> list[tuple[int, int, list[tuple[int, float, int, tuple[tuple[int, float], ...]]] | None]]:
    """
    (token, error, log probabilities) of each row of logits that head_rows() filled.
    """

def least_noise(kernels: Kernels, key: int, blocks: Sequence[int]) -> list[int]:
    """
    The least noise of each block of 32 tokens, 53 bits, of one position's key.
    """

class LayerFacts:
    def __init__(self) -> None: ...

    @property
    def num_heads(self) -> int: ...

    @num_heads.setter
    def num_heads(self, arg: int, /) -> None: ...

    @property
    def num_kv_heads(self) -> int: ...

    @num_kv_heads.setter
    def num_kv_heads(self, arg: int, /) -> None: ...

    @property
    def head_dim(self) -> int: ...

    @head_dim.setter
    def head_dim(self, arg: int, /) -> None: ...

    @property
    def intermediate(self) -> int: ...

    @intermediate.setter
    def intermediate(self, arg: int, /) -> None: ...

    @property
    def window(self) -> int: ...

    @window.setter
    def window(self, arg: int, /) -> None: ...

    @property
    def rope(self) -> int: ...

    @rope.setter
    def rope(self, arg: int, /) -> None: ...

    @property
    def kv_group(self) -> int: ...

    @kv_group.setter
    def kv_group(self, arg: int, /) -> None: ...

    @property
    def activation(self) -> int: ...

    @activation.setter
    def activation(self, arg: int, /) -> None: ...

    @property
    def scale(self) -> float: ...

    @scale.setter
    def scale(self, arg: float, /) -> None: ...

    @property
    def softcap(self) -> float: ...

    @softcap.setter
    def softcap(self, arg: float, /) -> None: ...

    @property
    def clamp(self) -> float: ...

    @clamp.setter
    def clamp(self, arg: float, /) -> None: ...

    @property
    def qkv_clip(self) -> float: ...

    @qkv_clip.setter
    def qkv_clip(self, arg: float, /) -> None: ...

    @property
    def qk_norm_all(self) -> bool: ...

    @qk_norm_all.setter
    def qk_norm_all(self, arg: bool, /) -> None: ...

    @property
    def num_experts(self) -> int: ...

    @num_experts.setter
    def num_experts(self, arg: int, /) -> None: ...

    @property
    def experts_per_token(self) -> int: ...

    @experts_per_token.setter
    def experts_per_token(self, arg: int, /) -> None: ...

    @property
    def shared_intermediate(self) -> int: ...

    @shared_intermediate.setter
    def shared_intermediate(self, arg: int, /) -> None: ...

    @property
    def norm_topk(self) -> bool: ...

    @norm_topk.setter
    def norm_topk(self, arg: bool, /) -> None: ...

class ModelFacts:
    def __init__(self) -> None: ...

    @property
    def hidden(self) -> int: ...

    @hidden.setter
    def hidden(self, arg: int, /) -> None: ...

    @property
    def vocab(self) -> int: ...

    @vocab.setter
    def vocab(self, arg: int, /) -> None: ...

    @property
    def max_tokens(self) -> int: ...

    @max_tokens.setter
    def max_tokens(self, arg: int, /) -> None: ...

    @property
    def norm_eps(self) -> float: ...

    @norm_eps.setter
    def norm_eps(self, arg: float, /) -> None: ...

    @property
    def embed_scale(self) -> float: ...

    @embed_scale.setter
    def embed_scale(self, arg: float, /) -> None: ...

    @property
    def residual_scale(self) -> float: ...

    @residual_scale.setter
    def residual_scale(self, arg: float, /) -> None: ...

    @property
    def logit_scale(self) -> float: ...

    @logit_scale.setter
    def logit_scale(self, arg: float, /) -> None: ...

    @property
    def logit_softcap(self) -> float: ...

    @logit_softcap.setter
    def logit_softcap(self, arg: float, /) -> None: ...

class ModelBuilder:
    def __init__(self) -> None: ...

    def set_facts(self, facts: ModelFacts) -> None: ...

    def add_layer(self, facts: LayerFacts) -> None: ...

    def add_rope(self, cos: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], sin: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], interleaved: bool) -> int: ...

    def set_vector(self, place: str, layer: int, values: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], count: int) -> None: ...

    def set_matrix(self, place: str, layer: int, matrix: Matrix) -> None: ...

class Decoder:
    def __init__(self, pool: Pool, kernels: Kernels, model: ModelBuilder, max_slots: int, max_step_tokens: int, page_tokens: int, kv_type: int) -> None: ...

    def num_groups(self) -> int: ...

    def bytes_per_page(self, group: int) -> int: ...

    def allocate(self, pages: Sequence[int]) -> None: ...

    def read_page(self, group: int, page: int) -> bytes: ...

    def write_page(self, group: int, page: int, bytes: bytes) -> None: ...

    def submit(self, step: int, released: tuple[int, ...], opened: list[tuple[int, tuple[int, ...], int, Sampling]], copies: tuple[tuple[int, int, int], ...], rows: tuple[tuple[object, ...], ...]) -> None: ...

    def finish(self, masks: dict[int, bytes]) -> tuple[float, list[tuple[tuple[int, ...], int, list[tuple[int, float, int, tuple[tuple[int, float], ...]]] | None, list[tuple[int, float, int, tuple[tuple[int, float], ...]]] | None]]]: ...

    def peek_logits(self) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]: ...

    def cancel(self) -> None: ...
