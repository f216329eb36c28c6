"""What needs PyTorch on a device: today a measurement of its limits, run as a process of its own.

Knows nothing about the serving path. Invariant: nothing outside this package imports it; importing it imports no torch.
"""
