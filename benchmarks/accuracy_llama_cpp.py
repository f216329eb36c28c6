"""The part of accuracy.py that runs in the peers' environment: quantizes with llama.cpp and gives its logits.

python accuracy_llama_cpp.py quantize IN.gguf OUT.gguf FTYPE
python accuracy_llama_cpp.py logits IN.gguf WINDOWS.npy OUT.npy     # WINDOWS [windows, tokens] int32
"""

import ctypes
import sys

import llama_cpp
import numpy as np

F32 = 0  # GGML_TYPE_F32: keys and values as they are, so that only weights and activations are compared


def quantize(source, target, ftype):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(ftype)
    parameters.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters)):
        sys.exit(f"llama.cpp does not write type {ftype}")


def logits(path, windows_path, target):
    windows = np.load(windows_path)
    model = llama_cpp.Llama(
        path, n_ctx=windows.shape[1], n_batch=windows.shape[1], n_threads=2, logits_all=True, verbose=False,
        type_k=F32, type_v=F32,
    )  # fmt: skip
    found = np.empty((*windows.shape, model.n_vocab()), np.float32)
    for i, window in enumerate(windows):
        model.reset()
        model.eval([int(token) for token in window])
        found[i] = model.scores[: len(window)]
    np.save(target, found)


if __name__ == "__main__":
    {"quantize": quantize, "logits": logits}[sys.argv[1]](*sys.argv[2:])
