"""Makes one peer's own form of the checkpoint; runs in the peers' environment.

    python -m benchmarks.peers.convert gguf SOURCE.gguf TARGET.gguf q4_0
    python -m benchmarks.peers.convert openvino SOURCE_FOLDER TARGET_FOLDER int4
    python -m benchmarks.peers.convert onnx SOURCE_FOLDER TARGET_FOLDER int4

Knows nothing about where files lie. Invariant: a target that is there is whole: it is made aside and renamed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

GROUP = "128"  # of OpenVINO's int4 weights: its default for models of this size


def gguf(source: Path, target: Path, kind: str) -> None:
    """A quantized GGUF file by llama.cpp's own quantizer, with its own mix of types."""
    import llama_cpp

    kinds = {
        "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
        "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
        "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    }
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = kinds[kind], os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), params) != 0:
        raise SystemExit(f"{source} was not quantized to {kind}.")


def openvino(source: Path, target: Path, kind: str) -> None:
    """OpenVINO's IR with compressed weights: int8 asymmetric a channel, or int4 by groups."""
    tool = Path(sys.executable).with_name("optimum-cli")
    command = [str(tool), "export", "openvino", "-m", str(source), "--task", "text-generation-with-past"]
    command += ["--weight-format", kind, *(["--group-size", GROUP] if kind == "int4" else []), str(target)]
    subprocess.run(command, check=True)


def onnx(source: Path, target: Path, kind: str) -> None:
    """onnxruntime-genai's folder by its own builder."""
    cache = target.with_suffix(".cache")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target)]
    try:
        subprocess.run([*command, "-p", kind, "-e", "cpu", "-c", str(cache)], check=True)
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def aside(make: Callable[[Path, Path, str], None], source: Path, target: Path, kind: str) -> None:
    """Makes the target beside its place and moves it there when it is whole."""
    part = target.with_name(f"part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.unlink(missing_ok=True)
    make(source, part, kind)
    part.rename(target)


if __name__ == "__main__":
    what, *paths, wanted = sys.argv[1:]
    aside({"gguf": gguf, "openvino": openvino, "onnx": onnx}[what], Path(paths[0]), Path(paths[1]), wanted)
