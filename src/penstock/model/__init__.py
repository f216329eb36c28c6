"""Checkpoints as data: spec, families, readers, facts. numpy only, no torch.

Two more doors, `penstock.model.hub` (downloads) and `penstock.model.cached` (list, verify, remove), import the hub's
client: this one does not, so that a local or pulled model starts without it.
"""

from penstock.model.checkpoint import Checkpoint, open_checkpoint
from penstock.model.facts import ModelFacts, inspect_checkpoint
from penstock.model.kv_groups import KV_COSTS, LayerGroup, kv_groups, resolve_kv_type
from penstock.model.places import places
from penstock.model.reference import parse_reference
from penstock.model.repo_cache import cache_folder, find_pulled
from penstock.model.rope_tables import RopeTable, rope_frequencies
from penstock.model.runnable import check_sizes, check_spec
from penstock.model.spec import Activation, Attention, DecoderSpec, Layer, Mlp, QkNorm, Rope, RopeKind
from penstock.model.values import find, matrix_places, read_vector, slice_rows
from penstock.model.weights import WeightMap, WeightRef

__all__ = [
    "Activation",
    "Attention",
    "Checkpoint",
    "DecoderSpec",
    "KV_COSTS",
    "Layer",
    "LayerGroup",
    "Mlp",
    "ModelFacts",
    "QkNorm",
    "Rope",
    "RopeKind",
    "RopeTable",
    "WeightMap",
    "WeightRef",
    "cache_folder",
    "check_sizes",
    "check_spec",
    "find",
    "find_pulled",
    "inspect_checkpoint",
    "kv_groups",
    "matrix_places",
    "open_checkpoint",
    "parse_reference",
    "places",
    "read_vector",
    "resolve_kv_type",
    "rope_frequencies",
    "slice_rows",
]
