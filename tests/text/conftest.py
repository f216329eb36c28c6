"""Tokenizers to test with: small ones made here, real ones from the shared data where it is."""

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from penstock.model.gguf_file import read_gguf
from penstock.text import load_gguf_tokenizer, load_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
SPECIALS = ("<|begin|>", "<|im_start|>", "<|im_end|>", "<s>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAMPLE = [
    "Hello world, the quick brown fox jumps over the lazy dog.",
    "déjà vu 你好 世界 😀 👩‍👩‍👧",
    "start end im_start user",
]


def make_byte_level_folder(folder: Path, **config: object) -> Path:
    """A folder with a small byte-level BPE tokenizer and a ChatML template."""
    hf = Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    hf.train_from_iterator(SAMPLE, trainer)
    hf.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS])
    hf.add_tokens([AddedToken("<think>", normalized=False, special=False), AddedToken("ü", normalized=False)])
    bos = hf.token_to_id("<|begin|>")
    hf.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", bos)])
    folder.mkdir(exist_ok=True)
    hf.save(str(folder / "tokenizer.json"))
    values = {"bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def make_spm_metadata() -> dict[str, object]:
    """GGUF metadata of a tiny SentencePiece vocabulary with byte fallback."""
    words = [
        "▁",
        "h",
        "e",
        "l",
        "o",
        "w",
        "r",
        "d",
        "▁h",
        "el",
        "lo",
        "ello",
        "▁hello",
        "▁w",
        "or",
        "ld",
        "▁wor",
        "<",
        ">",
        "s",
    ]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [2, 3, 3, *([6] * 256), *([1] * len(words))]
    scores = [0.0] * 259 + [-float(index) for index in range(len(words))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def read_vocab(name: str, folder: Path) -> dict[str, object]:
    """The metadata of one of the real GGUF vocabularies."""
    source = DATA / "tokenizers" / f"ggml-vocab-{name}.gguf.gz"
    if not source.exists():
        pytest.skip("the shared tokenizer files are not here")
    path = folder / f"{name}.gguf"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    return dict(read_gguf(path).metadata)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    return load_tokenizer(make_byte_level_folder(tmp_path_factory.mktemp("byte_level")))


@pytest.fixture(scope="session")
def spm_metadata():
    return make_spm_metadata()


@pytest.fixture(scope="session")
def spm(spm_metadata):
    return load_gguf_tokenizer(spm_metadata)


@pytest.fixture(scope="session", params=["gpt-2", "llama-spm", "deepseek-coder"])
def real(request, tmp_path_factory):
    """(name, tokenizer) of each real vocabulary."""
    return request.param, load_gguf_tokenizer(read_vocab(request.param, tmp_path_factory.mktemp("vocab")))
