"""The one random-weight checkpoint that all peers run, and each peer's own form of it, made once.

Knows nothing about speed. Invariant: every file comes from the same weights (one seed); a form that could not be made
has a reason, and the others go on.

The shape is Qwen3-0.6B's. GGUF files are quantized by llama.cpp's own quantizer with its own mix of types (a Q4_0 file
has its tied head in Q6_K), OpenVINO's and onnxruntime-genai's forms by their own tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.child import ROOT
from benchmarks.peers.environment import FOLDER, Peers, said
from benchmarks.peers.works import LLAMA, ONNX, OPENVINO, Contender
from benchmarks.random_checkpoint import GGUF_KINDS, SHAPE, write_gguf, write_safetensors

QUICK_LAYERS = 2
# Driver → (what makes its form, package that makes it, what it is made from).
MAKERS = {
    "openvino": ("openvino", OPENVINO, "safetensors"),
    "onnxruntime_genai": ("onnx", ONNX, "safetensors"),
    "penstock": ("gguf", LLAMA, "bf16.gguf"),
    "llama_cpp": ("gguf", LLAMA, "bf16.gguf"),
}


@dataclass
class Forms:
    """Where the forms lie.

    Attributes:
        folder: of all of them.
        failed: why one could not be made, by name.
    """

    folder: Path
    failed: dict[str, str] = field(default_factory=dict)

    def name(self, contender: Contender) -> str:
        """The form that a contender reads."""
        kind = MAKERS.get(contender.driver)
        if kind is None:
            return "safetensors"
        return f"{contender.format}.gguf" if kind[0] == "gguf" else f"{kind[0]}-{contender.format}"

    def path(self, contender: Contender) -> Path:
        """Where that is."""
        return self.folder / self.name(contender)


def folder_of(quick: bool) -> Path:
    """Where the forms lie."""
    return FOLDER / ("quick" if quick else "Qwen3-0.6B")


def shape(quick: bool) -> dict[str, object]:
    """The configuration, of few layers where it is to be quick."""
    return SHAPE | ({"num_hidden_layers": QUICK_LAYERS} if quick else {})


def write_source(folder: Path, quick: bool, say: Callable[[str], None]) -> None:
    """Writes the two forms that others are made from, where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (
        ("safetensors", lambda path: write_safetensors(path, shape(quick), "bf16")),
        ("bf16.gguf", lambda path: write_gguf(path, shape(quick), GGUF_KINDS["gguf-bf16"])),
    ):
        path, part = folder / name, folder / f"part-{name}"
        if not path.exists():
            say(f"writing {path}")
            write(part)
            part.rename(path)


def prepare(contenders: list[Contender], quick: bool, peers: Peers, say: Callable[[str], None]) -> Forms:
    """Makes every form that the contenders read."""
    forms = Forms(folder_of(quick))
    write_source(forms.folder, quick, say)
    for contender in contenders:
        name, path = forms.name(contender), forms.path(contender)
        if path.exists() or name in forms.failed:
            continue
        kind, package, source = MAKERS[contender.driver]
        if package not in peers.python:
            forms.failed[name] = f"{name} is made by {package}, which failed: {peers.failed.get(package, 'not chosen')}"
            continue
        say(f"writing {path}")
        command = [peers.python[package], "-m", "benchmarks.peers.convert", kind, forms.folder / source, path]
        why = said(["env", f"--chdir={ROOT}", "HF_HUB_OFFLINE=1", *command, contender.format], path.with_suffix(".log"))
        if why is not None:
            forms.failed[name] = f"{name} could not be made: {why}"
    return forms
