"""The one table of bounds: every count, length, size, depth and time that a stranger controls.

Knows nothing about who checks them. Invariant: a bound used at the door is a name in this file, never a literal there.
"""

from __future__ import annotations

from typing import Final

# Requests (the HTTP body and its fields).
MAX_BODY_BYTES: Final = 16 * 1024 * 1024
MAX_JSON_DEPTH: Final = 64
MAX_JSON_KEYS: Final = 100_000
MAX_JSON_VALUES: Final = 4_000_000
MAX_BODY_S: Final = 60.0
MAX_HEADER_S: Final = 10.0
MAX_PREPARING: Final = 1024
MAX_HEADER_COUNT: Final = 128
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_PROMPTS: Final = 1024
MAX_SAMPLES: Final = 128
MAX_MESSAGES: Final = 4096
MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARS: Final = 1024
MAX_STOP_TOKEN_IDS: Final = 128
MAX_LOGIT_BIAS: Final = 1024
MAX_LOGPROBS: Final = 20
MAX_CACHE_SALT_CHARS: Final = 256
MAX_REQUEST_TIMEOUT_S: Final = 86_400.0
MAX_SEED: Final = 2**63 - 1
DRAWN_SEEDS: Final = 2**53  # seeds that we draw: every JSON reader holds them exactly
MIN_SEED: Final = -(2**63)
MAX_TEMPERATURE: Final = 100.0
MAX_PENALTY: Final = 2.0
MAX_REPETITION_PENALTY: Final = 10.0
MAX_LOGIT_BIAS_VALUE: Final = 100.0

# Tools: how many in a request (and calls in a message), and how long what names and describes them.
MAX_TOOLS: Final = 128
MAX_TOOL_NAME_CHARS: Final = 64
MAX_TOOL_DESCRIPTION_CHARS: Final = 64 * 1024
MAX_NAME_CHARS: Final = 256

# Chat templates.
MAX_TEMPLATE_CHARS: Final = 256 * 1024
MAX_RENDERED_CHARS: Final = 16 * 1024 * 1024
MAX_RENDER_STEPS: Final = 2_000_000
MAX_RENDER_WORK_CHARS: Final = 256 * 1024 * 1024
MAX_TRIAL_STEPS: Final = 100_000  # a trial conversation has four short messages
MAX_TRIAL_WORK_CHARS: Final = 8 * 1024 * 1024

# Streams.
MAX_STREAM_BUFFER_BYTES: Final = 64 * 1024
MAX_STREAM_STALL_S: Final = 60.0
SSE_PING_S: Final = 10.0

# Model files.
MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
MAX_TOKENIZER_BYTES: Final = 64 * 1024 * 1024
MAX_TOKENIZER_REST_BYTES: Final = 12 * 1024 * 1024  # of tokenizer.json, beside the vocabulary and its merges
MAX_TOKENIZER_STEPS: Final = 8192  # objects in that rest which aren't added tokens; each may take kilobytes
MAX_PIECES: Final = 524_288  # of a vocabulary in a tokenizer's file; the largest published ones have half of that
MAX_MERGES: Final = 1_048_576
MAX_UNIGRAM_BYTES: Final = 4 * 1024 * 1024  # in all pieces; the library takes 350 bytes for each
MAX_ADDED_CHARS: Final = 512 * 1024  # in all added tokens; the library takes 60 bytes for each
MAX_PIECE_CHARS: Final = 512
MAX_ADDED_TOKENS: Final = 65_536
MAX_CONTROL_PARTS: Final = 2**25  # characters of all beginnings of all control tokens
MAX_PATTERN_CHARS: Final = 4096
MAX_PATTERNS: Final = 64
MAX_SAFETENSORS_HEADER_BYTES: Final = 20 * 1024 * 1024
MAX_TENSORS: Final = 1_000_000
MAX_SHARDS: Final = 4096
MAX_GGUF_KEYS: Final = 100_000
MAX_GGUF_STRING_BYTES: Final = 64 * 1024 * 1024
MAX_OVERHEAD_BYTES: Final = 64 * 1024 * 1024  # that reading a model file takes in memory above its size
MAX_DIMS: Final = 8
MAX_LAYERS: Final = 1024
MAX_EXPERTS: Final = 1024
MAX_VOCAB: Final = 4_194_304
MAX_HIDDEN: Final = 1_048_576
MAX_MODEL_TOKENS: Final = 16_777_216

# The hub's answers.
MAX_HUB_FILES: Final = 20_000
MAX_HUB_FILE_BYTES: Final = 2**44
MAX_HUB_WAIT_S: Final = 60.0
MAX_HUB_RETRIES: Final = 5

# Answers of a server under a benchmark.
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024
MAX_ERROR_BODY_BYTES: Final = 64 * 1024

# Benchmark records.
MAX_RECORD_BYTES: Final = 128 * 1024 * 1024
MAX_RECORD_OVERHEAD_BYTES: Final = 2 * 1024 * 1024 * 1024  # that parsing one takes: each chunk's time is a number

# Workloads of a benchmark and the files they come from.
MIN_RATE_RPS: Final = 1e-6
MAX_RATE_RPS: Final = 1e6
MAX_BENCH_USERS: Final = 100_000
MAX_BENCH_REQUESTS: Final = 1_000_000
MAX_BENCH_SPAN_S: Final = 366 * 86_400.0
MAX_TRACE_ROWS: Final = 1_000_000
MAX_TRACE_BYTES: Final = 1024 * 1024 * 1024  # unpacked
MAX_TRACE_LINE_BYTES: Final = 4 * 1024 * 1024
MAX_TRACE_BLOCKS: Final = 8_000_000
MAX_COUNTED_ANSWER_BYTES: Final = 256 * 1024 * 1024  # /tokenize names every id
