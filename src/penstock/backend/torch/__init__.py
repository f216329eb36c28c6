"""What needs PyTorch: the reference backend, on a CPU or a GPU. Importing this door imports torch.

`penstock.backend.torch.limits` is a program of its own that measures a GPU. Invariant: only `penstock.assemble` enters
here, once a device was chosen.
"""

from penstock.backend.torch.backend import TorchBackend, TorchOptions, TorchTicket, count_gpus, open_device

__all__ = ["TorchBackend", "TorchOptions", "TorchTicket", "count_gpus", "open_device"]
