"""Checkpoints as data: spec, families, readers, hub. numpy only, no torch."""

from penstock.model.spec import Activation, Attention, DecoderSpec, Layer, Mlp, Rope, RopeKind
from penstock.model.weights import WeightMap, WeightRef

__all__ = ["Activation", "Attention", "DecoderSpec", "Layer", "Mlp", "Rope", "RopeKind", "WeightMap", "WeightRef"]
