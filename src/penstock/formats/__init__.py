"""Weight layouts and dequantizers: the one truth that model, backend, quant and native share."""

from penstock.formats.tensors import BLOCKS, BlockFormat, RawTensor, Storage, num_bytes

__all__ = ["BLOCKS", "BlockFormat", "RawTensor", "Storage", "num_bytes"]
