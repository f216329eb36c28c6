"""The families that are served, one file each, found by a config's `model_type`.

Knows nothing about files. Invariant: one family a model_type.
"""

from __future__ import annotations

from penstock.model.dense import Family, refuse_unknown
from penstock.model.families.gemma import GEMMA
from penstock.model.families.gemma2 import GEMMA2
from penstock.model.families.gemma3 import GEMMA3, GEMMA3_TEXT
from penstock.model.families.gpt_oss import GPT_OSS
from penstock.model.families.granite import GRANITE
from penstock.model.families.llama import LLAMA
from penstock.model.families.mistral import MINISTRAL, MISTRAL
from penstock.model.families.mixtral import MIXTRAL
from penstock.model.families.olmo2 import OLMO2
from penstock.model.families.olmoe import OLMOE
from penstock.model.families.phi3 import PHI3
from penstock.model.families.qwen2 import QWEN2
from penstock.model.families.qwen2_moe import QWEN2_MOE
from penstock.model.families.qwen3 import QWEN3
from penstock.model.families.qwen3_moe import QWEN3_MOE
from penstock.model.families.smollm3 import SMOLLM3
from penstock.model.fields import Fields, shown
from penstock.model.spec import DecoderSpec

__all__ = ["FAMILIES", "family_of", "read_spec"]

FAMILIES: tuple[Family, ...] = (
    LLAMA,
    MISTRAL,
    MINISTRAL,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3_TEXT,
    GEMMA3,
    PHI3,
    OLMO2,
    GRANITE,
    SMOLLM3,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    OLMOE,
    GPT_OSS,
)


def family_of(config: Fields) -> Family:
    """The family that a config's `model_type` (or, in older files, its architecture) names.

    Raises:
        ModelFileError: none is known by that name.
    """
    declared = config.get("architectures")
    for family in FAMILIES:
        if config.get("model_type") == family.model_type:
            return family
        if config.get("model_type") is None and declared == [family.architecture]:
            return family
    named = config.get("model_type") or declared
    raise config.error(
        f"unknown architecture {shown(named)}.", hint=f"known: {', '.join(f.model_type for f in FAMILIES)}."
    )


def read_spec(config: Fields, family: Family) -> DecoderSpec:
    """The spec that a family makes of a config.

    Raises:
        ModelFileError: a field is unknown, missing or out of range.
    """
    refuse_unknown(config, family)
    return family.spec(Fields({**family.defaults, **config.values}, config.source))
