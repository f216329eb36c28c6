"""Weight layouts and dequantizers: the one truth that model, backend, quant and native share."""

from penstock.formats.gguf_blocks import dequantize_bytes
from penstock.formats.mapped import drop_pages
from penstock.formats.pack_cache import CacheProblem, PackCache, default_folder, default_max_bytes
from penstock.formats.packed import (
    CODE_FORMATS,
    FLOAT_LAYOUTS,
    LAYOUT_VERSION,
    CodeFormat,
    Layout,
    PackedMatrix,
    Packer,
    ScaleForm,
    Take,
    array_bytes,
    pack,
    unpack,
    zeros,
)
from penstock.formats.tensors import (
    BLOCKS,
    FOREIGN_BLOCKS,
    BlockFormat,
    RawTensor,
    Storage,
    foreign_bytes,
    num_bytes,
)

__all__ = [
    "BLOCKS",
    "BlockFormat",
    "CODE_FORMATS",
    "CacheProblem",
    "CodeFormat",
    "FLOAT_LAYOUTS",
    "FOREIGN_BLOCKS",
    "LAYOUT_VERSION",
    "Layout",
    "PackCache",
    "PackedMatrix",
    "Packer",
    "RawTensor",
    "ScaleForm",
    "Storage",
    "Take",
    "array_bytes",
    "default_folder",
    "default_max_bytes",
    "dequantize_bytes",
    "drop_pages",
    "foreign_bytes",
    "num_bytes",
    "pack",
    "unpack",
    "zeros",
]
