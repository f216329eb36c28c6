"""The keys of one architecture in a GGUF file's metadata, typed, bounded and counted off as they are read.

Knows nothing about architectures. Invariant: a key that nobody read either changes nothing or is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.core import ModelFileError, limits
from penstock.model.fields import Fields, shown

# Key → values under which it changes nothing where its architecture does not read it; () is every value.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.layer_norm_epsilon": (),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "moe_every_n_layers": (0, 1),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.finetuned": (),
    "rope.scaling.original_context_length": (),
    "rope.scaling.yarn_ext_factor": (1,),
    "tensor_data_layout": (),
    "use_parallel_residual": (False,),
    "vocab_size": (),
}


class Keys:
    """The metadata below `<architecture>.`; a list with one entry a layer reads as its value where all are equal.

    Attributes:
        source: all metadata.
        architecture: the prefix of the keys.
    """

    def __init__(self, source: Fields, architecture: str) -> None:
        self.source = source
        self.architecture = architecture
        self._prefix = architecture + "."
        own = {key: value for key, value in source.values.items() if key.startswith(self._prefix)}
        self._own = Fields({key: _collapsed(value) for key, value in own.items()}, source.source)
        self._read: set[str] = set()

    def error(self, key: str, message: str) -> ModelFileError:
        """An error about this key's value; `message` continues its name."""
        return self.source.error(f"{self._prefix}{key} {message}")

    def get(self, key: str) -> Any:
        """The value as stored, None where absent."""
        return self.source.get(self._name(key))

    def optional_integer(self, key: str, low: int = 1, high: int = limits.MAX_HIDDEN) -> int | None:
        """As `Fields.optional_integer`."""
        return self._own.optional_integer(self._name(key), low, high)

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = limits.MAX_HIDDEN) -> int:
        """As `Fields.integer`."""
        return self._own.integer(self._name(key), default, low, high)

    def number(self, key: str) -> float | None:
        """As `Fields.optional_number`."""
        return self._own.optional_number(self._name(key))

    def positive(self, key: str, default: float | None = None) -> float:
        """As `Fields.positive`."""
        return self._own.positive(self._name(key), default)

    def flag(self, key: str, default: bool) -> bool:
        """As `Fields.flag`."""
        return self._own.flag(self._name(key), default)

    def text(self, key: str, default: str) -> str:
        """As `Fields.text`."""
        return self._own.text(self._name(key), default)

    def refuse_unread(self) -> None:
        """Passes when every key was read or changes nothing.

        Raises:
            ModelFileError: naming the key and its value.
        """
        for name, value in self._own.values.items():
            if name in self._read:
                continue
            neutral = _NEUTRAL.get(name.removeprefix(self._prefix))
            if neutral is None or (neutral and value not in neutral):
                raise self.source.error(f"{shown(name)} is {shown(value)}, which is not supported.")

    def _name(self, key: str) -> str:
        self._read.add(self._prefix + key)
        return self._prefix + key


def _collapsed(value: object) -> object:
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        return value[0]
    return value
