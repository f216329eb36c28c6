"""What a checkpoint is and what it costs, without reading weights.

Knows nothing about backends. Invariant: a bare config.json gives the same shapes and parameter count as its
checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.core import SamplingParams
from penstock.model.checkpoint import (
    CONFIG,
    generation_defaults,
    local_path,
    open_checkpoint,
    read_generation,
    storage_summary,
)
from penstock.model.families import family_of, read_spec
from penstock.model.fields import Fields
from penstock.model.json_file import read_json
from penstock.model.kv_groups import KV_COSTS, LayerGroup, kv_bytes_per_token, kv_groups
from penstock.model.places import count_active_parameters, count_parameters
from penstock.model.safetensors_file import INDEX
from penstock.model.spec import DecoderSpec, Rope
from penstock.model.weights import WeightMap


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts for people and for planning.

    Attributes:
        name: the folder's or file's name.
        spec: the decoder.
        num_parameters: trained values; a tied head counts once.
        num_active_parameters: those that one token meets; fewer in a mixture of experts.
        total_bytes: of the weights in use; 0 where only a config was there.
        bytes_by_storage: storage kind → bytes, largest first; () where only a config was there.
        quantization: the kind that most bytes have, or None for floats and bare configs.
        kv_bytes_per_token: KV type → bytes that one token keeps, in all groups together.
        kv_groups: layers by how far they look back, with what one token keeps in them; behind a window it is let go.
        skipped: part of the checkpoint that is not served → its tensors.
        generation_defaults: sampling that the model's makers recommend.
    """

    name: str
    spec: DecoderSpec
    num_parameters: int
    num_active_parameters: int
    total_bytes: int
    bytes_by_storage: tuple[tuple[str, int], ...]
    quantization: str | None
    kv_bytes_per_token: tuple[tuple[str, int], ...]
    kv_groups: tuple[LayerGroup, ...]
    skipped: tuple[tuple[str, int], ...]
    generation_defaults: SamplingParams

    def report(self) -> str:
        """Aligned lines for a terminal."""
        spec, attention, mlp = self.spec, self.spec.layers[0].attention, self.spec.layers[0].mlp
        windows = Counter(f"{layer.attention.window:,} tokens" for layer in spec.layers if layer.attention.window)
        rows = [
            ("model", self.name),
            ("family", spec.family),
            ("parameters", f"{self.num_parameters:,}{self._active()}"),
            ("layers", f"{len(spec.layers)}"),
            ("hidden", f"{spec.hidden:,} (feed-forward {mlp.intermediate:,}, {mlp.activation.value})"),
            ("heads", f"{attention.num_heads} of {attention.head_dim} (key-value {attention.num_kv_heads})"),
            ("vocabulary", f"{spec.vocab:,} ({'tied' if spec.tied_head else 'own'} head)"),
            ("context", f"{spec.max_tokens:,} tokens"),
            ("rope", _shared_out(Counter(_rope(layer.attention.rope) for layer in spec.layers), len(spec.layers))),
        ]
        if windows:
            rows.append(("window", _shared_out(windows, len(spec.layers))))
        for kind, size in self.bytes_by_storage:
            rows.append((f"{kind} weights", f"{size:,} bytes"))
        if self.bytes_by_storage:
            rows.append(("weights", f"{self.total_bytes:,} bytes, {self.quantization or 'not quantized'}"))
        for kind, size in self.kv_bytes_per_token:
            rows.append((f"KV {kind}", f"{size:,} bytes a token{self._by_group(kind)}"))
        for part, count in self.skipped:
            rows.append(("not served", f"{part} ({count:,} tensors)"))
        rows.append(("sampling", self._recommended()))
        return "\n".join(f"{name:<13} {value}" for name, value in rows)

    def _by_group(self, kind: str) -> str:
        """What each group keeps of them, where there is more than one."""
        if len(self.kv_groups) == 1:
            return ""
        return ": " + ", ".join(
            f"{group.name} {kv_bytes_per_token(self.spec, kind, group.layers):,}" for group in self.kv_groups
        )

    def _recommended(self) -> str:
        own = SamplingParams()
        chosen = {name: getattr(self.generation_defaults, name) for name in SamplingParams.__dataclass_fields__}
        changed = [f"{name} {value}" for name, value in chosen.items() if value != getattr(own, name)]
        return ", ".join(changed) or "nothing recommended"

    def _active(self) -> str:
        mixture = next((layer.mlp for layer in self.spec.layers if layer.mlp.num_experts), None)
        if mixture is None:
            return ""
        chosen = f"{mixture.experts_per_token} of {mixture.num_experts} experts"
        return f" ({self.num_active_parameters:,} a token: {chosen})"


def _shared_out(kinds: Mapping[str, int], num_layers: int) -> str:
    """Kinds of layers and how many there are of each, where there is more than one."""
    if list(kinds.values()) == [num_layers]:
        return next(iter(kinds))
    return "; ".join(f"{kind} in {count} of {num_layers} layers" for kind, count in kinds.items())


def _rope(rope: Rope | None) -> str:
    if rope is None:
        return "none"
    scaling = "".join(f", {name} {value:g}" for name, value in rope.scaling)
    return f"{rope.kind.value}, theta {rope.theta:g}, {rope.dims} dimensions{scaling}"


def inspect_checkpoint(path: str | Path) -> ModelFacts:
    """Facts of a folder, a `.gguf` file or a bare config.json (also: a folder without weights).

    Raises:
        ModelFileError: a file is missing, corrupt, mismatched or of an unknown kind.
    """
    found = local_path(path)
    config = found / CONFIG if found.is_dir() else found
    bare = found.is_dir() and not (any(found.glob("*.safetensors")) or (found / INDEX).is_file())
    if config.suffix == ".json" and (bare or not found.is_dir()):
        fields = Fields(read_json(config), str(config))
        spec = read_spec(fields, family_of(fields))
        # a lone config.json says nothing about sampling
        defaults = generation_defaults(read_generation(found)) if bare else SamplingParams()
        return _facts(found.resolve().name if bare else found.stem, spec, None, defaults)
    checkpoint = open_checkpoint(found)
    return _facts(checkpoint.name, checkpoint.spec, checkpoint.weights, checkpoint.generation_defaults)


def _facts(name: str, spec: DecoderSpec, weights: WeightMap | None, defaults: SamplingParams) -> ModelFacts:
    floats = ("F32", "F16", "BF16")
    storage = () if weights is None else storage_summary(weights)
    parts = Counter(tensor.split(".")[0] for tensor in (() if weights is None else weights.skipped))
    return ModelFacts(
        name=name,
        spec=spec,
        num_parameters=count_parameters(spec),
        num_active_parameters=count_active_parameters(spec),
        total_bytes=sum(size for _, size in storage),
        bytes_by_storage=storage,
        quantization=storage[0][0] if storage and storage[0][0] not in floats else None,
        kv_bytes_per_token=tuple((kind, kv_bytes_per_token(spec, kind)) for kind in KV_COSTS),
        kv_groups=kv_groups(spec),
        skipped=tuple(sorted(parts.items())),
        generation_defaults=defaults,
    )
