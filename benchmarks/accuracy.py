"""What each packed type costs in accuracy as it runs here, and in llama.cpp: beside its own weights in float32.

    make bench-accuracy                                     all types; some minutes, and a busy machine doesn't matter
    make bench-accuracy ARGS="--types Q4_0,Q8_0 --windows 8"

The bundled model, the only trained one at hand, is written to GGUF, quantized by llama.cpp (the peer's environment),
and each file is read back by gguf-py into float32: the reference is penstock's float32 kernels on those values, so
that what the type itself lost does not count, only what the kernels add by their arithmetic (8-bit activations). Both
engines keep keys and values in float32. The text is held-out; KL is of the whole vocabulary, in nats a token, with a
bootstrap interval over windows, which are drawn together for both engines: they read the same ones. Rows that a
type's blocks don't divide are stored in another one by llama.cpp's quantizer; the table says what a file holds. The
control is a run whose last norm's channels are one per cent too large and too small in turn: where it does not stand
out from what two engines differ by in float32, the run is refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401 - teaches numpy the name bfloat16
import numpy as np
from forced import Reader, expect_texts, read_text
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from pages import expect_table, fill
from random_checkpoint import finish
from records import ROOT, write_record
from safetensors.numpy import load_file

from penstock.assemble import find_model
from penstock.bench import read_origin
from penstock.bench.stats import bootstrap
from penstock.model import open_checkpoint
from penstock.text import load_tokenizer

HERE = Path(__file__).resolve().parent
TEXT = ROOT.parent / "shared/data/corpus/classic_books_valid.jsonl.bz2"
# llama.cpp's file types (llama_ftype) of the storage types that are compared.
FILE_TYPES = {
    "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_1": 9, "Q5_0": 8, "Q4_K_M": 15, "Q4_1": 3, "Q4_0": 2,
    "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_M": 12, "Q2_K": 10,
}  # fmt: skip
ENGINES = ("penstock", "llama.cpp")
CONTROL_ERROR, CONTROL_FACTOR = 0.01, 100
TINY = 1e-15  # nats: an engine that computes the reference to the bit
CHARS_A_TOKEN = 8  # more than any text has
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


@dataclass(frozen=True)
class Distance:
    """How far logits are from the reference: KL and top-1 agreement per window (nats a token; share), perplexity."""

    kl: np.ndarray
    agreement: np.ndarray
    perplexity: float

    def figures(self):
        return {
            "kl_nats": estimated(lambda drawn: self.kl[drawn].mean(), len(self.kl)),
            "top1_agreement": estimated(lambda drawn: self.agreement[drawn].mean(), len(self.kl)),
            "perplexity": self.perplexity,
        }


def estimated(statistic, windows):
    """A statistic of windows, with its bootstrap interval."""
    found = bootstrap(windows, lambda drawn: float(statistic(drawn)))
    return {"value": found.value, "low": found.low, "high": found.high}


def verdict(ours, theirs):
    """How penstock's distance compares with llama.cpp's over the same windows, and whether it is no worse.

    It is worse where the whole interval of the ratio of KLs lies above 1, or that of the difference of agreements
    below 0.
    """
    count = len(ours.kl)
    ratio = estimated(lambda drawn: ours.kl[drawn].sum() / max(theirs.kl[drawn].sum(), TINY), count)
    more = estimated(lambda drawn: (ours.agreement - theirs.agreement)[drawn].mean(), count)
    return {"kl_ratio": ratio, "agreement_difference": more, "no_worse": ratio["low"] <= 1 and more["high"] >= 0}


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, inner = name.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}"


def interleaved(values, heads):
    """Rows of q and k in the order of GGUF's llama files: RoPE pairs lie beside each other."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(values.shape)


def write_float_gguf(folder, path):
    """A llama checkpoint's folder as an F32 GGUF file with its byte-level BPE vocabulary."""
    config = json.loads((folder / "config.json").read_text())
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_token_list(tokens + [f"<unused {i}>" for i in range(config["vocab_size"] - len(tokens))])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"][0])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, values in load_file(folder / "model.safetensors").items():
        values = values.astype(np.float32)
        for part, count in heads.items():
            values = interleaved(values, count) if part in name else values
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    finish(writer)


def write_dequantized(source, path, error=0.0):
    """The same file with every tensor in float32, by gguf-py; the last norm off by `error`, up and down in turn."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.")):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).astype(np.float32)
        if tensor.name == "output_norm.weight":
            values = values * (1 + error * (-1) ** np.arange(len(values))).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    finish(writer)


def read_windows(folder, text, count, length):
    """Token ids of the text's beginning.  # [count, length] int32"""
    found = load_tokenizer(folder).encode(read_text(text)[: count * length * CHARS_A_TOKEN])
    if len(found) < count * length:
        raise SystemExit(
            f"{text} gives {len(found):,} tokens, {count * length:,} are asked for. hint: lower --windows."
        )
    return np.array(found[: count * length], np.int32).reshape(count, length)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def distance(reference, found, windows):
    """Of log probabilities, each [windows, tokens, V] f64."""
    kl, agree, loss = [], [], []
    for p, q, tokens in zip(reference, found, windows, strict=True):
        kl.append(float((np.exp(p) * (p - q)).sum(-1).mean()))
        agree.append(float((p.argmax(-1) == q.argmax(-1)).mean()))
        loss.append(float(-np.take_along_axis(q[:-1], tokens[1:, None].astype(np.int64), 1).mean()))
    return Distance(np.array(kl), np.array(agree), float(np.exp(np.mean(loss))))


class Bench:
    """One model, one text, one temporary folder."""

    def __init__(self, work, options):
        self.work, self.peer, self.isa = work, options.peer, options.isa
        folder = find_model(None, None, print)
        self.windows = read_windows(folder, options.text, options.windows, options.tokens)
        np.save(work / "windows.npy", self.windows)
        write_float_gguf(Path(folder), work / "float.gguf")

    def ours(self, path):
        reader = Reader(open_checkpoint(path), "f32", self.windows.shape[1], isa=self.isa)
        return [np.concatenate(list(reader.read(tuple(map(int, window))))) for window in self.windows]

    def theirs(self, path):
        self.call("logits", path, self.work / "windows.npy", self.work / "logits.npy")
        return [log_softmax(logits.astype(np.float64)) for logits in np.load(self.work / "logits.npy")]

    def call(self, *arguments):
        command = [self.peer, HERE / "accuracy_llama_cpp.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"llama.cpp could not {arguments[0]}: {done.stderr.strip()[-500:]}")

    def row(self, kind):
        packed, plain, spoiled = (self.work / f"{kind}{end}.gguf" for end in ("", "-f32", "-control"))
        self.call("quantize", self.work / "float.gguf", packed, FILE_TYPES[kind])
        write_dequantized(packed, plain)
        write_dequantized(packed, spoiled, CONTROL_ERROR)
        reference = self.ours(plain)
        found = {
            "penstock": self.ours(packed),
            "llama.cpp": self.theirs(packed),
            "llama.cpp, F32": self.theirs(plain),
            "control": self.ours(spoiled),
        }
        apart = {who: distance(reference, got, self.windows) for who, got in found.items()}
        if apart["control"].kl.min() <= CONTROL_FACTOR * apart["llama.cpp, F32"].kl.max():
            raise SystemExit(
                f"{kind}: the control is not seen: these figures can't tell a wrong norm from a right one."
            )
        row = {"type": kind, "holds": holds(packed)} | {who: one.figures() for who, one in apart.items()}
        for path in (packed, plain, spoiled):
            path.unlink()
        return row | {"verdict": verdict(apart["penstock"], apart["llama.cpp"])}


def holds(path):
    """Shares of the matrices' weights by the type that they are stored in, the largest first."""
    weights = Counter()
    for tensor in GGUFReader(path).tensors:
        if len(tensor.shape) > 1:
            weights[GGMLQuantizationType(tensor.tensor_type).name] += int(tensor.n_elements)
    return {kind: count / weights.total() for kind, count in weights.most_common()}


def table(rows):
    heads = ("type", "holds", "KL penstock", "KL llama.cpp", "ratio", "top-1 penstock", "top-1 llama.cpp")
    heads = (*heads, "no worse", "KL of llama.cpp's F32", "KL of the control")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["type"], ", ".join(f"{kind} {share:.0%}" for kind, share in row["holds"].items())]
        cells += [spread(row[who]["kl_nats"], "{:.2e}") for who in ENGINES]
        cells.append(spread(row["verdict"]["kl_ratio"], "{:.2f}"))
        cells += [spread(row[who]["top1_agreement"], "{:.2%}") for who in ENGINES]
        cells.append("yes" if row["verdict"]["no_worse"] else "**no**")
        cells += [f"{row[who]['kl_nats']['value']:.1e}" for who in ("llama.cpp, F32", "control")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(estimate, form):
    return f"{form.format(estimate['value'])} ({form.format(estimate['low'])} to {form.format(estimate['high'])})"


def statement(rows):
    """What the table comes to, in a sentence that its rows decide."""
    worse = [row["type"] for row in rows if not row["verdict"]["no_worse"]]
    if worse:
        return (
            f"Worse than llama.cpp on the same file and text: {', '.join(worse)}; not worse: {len(rows) - len(worse)}."
        )
    return f"No worse than llama.cpp on the same file and text: all {len(rows)} types."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="python with llama-cpp-python")
    parser.add_argument("--text", type=Path, default=TEXT, help="text or .jsonl file, maybe .gz or .bz2")
    parser.add_argument("--types", default=",".join(FILE_TYPES))
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--isa", help="compute tier at most")
    parser.add_argument("--json", help="file that takes the record")
    parser.add_argument("--page", type=Path, help="page whose table named accuracy is written anew")
    options = parser.parse_args()
    expect_texts([options.text])
    expect_table(options.page, "accuracy")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        rows = []
        for kind in options.types.split(","):
            rows.append(bench.row(kind))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    text = f"{statement(rows)}\n\n{table(rows)}"
    print(f"\n{text}")
    if options.page is not None:
        fill(options.page, "accuracy", f"{options.windows} windows of {options.tokens} tokens. {text}", read_origin())
    write_record(options.json, "accuracy", rows, windows=options.windows, tokens=options.tokens)


if __name__ == "__main__":
    main()
