"""Networks with experts: transformers' own, whose last layer is computed whole.

They stand apart from the dense ones, so that loading those does not import them. Their configs have
types of their own: by the types of transformers, PEFT would turn adapters of plain matrices into
ones of the stacked experts.
"""

from typing import ClassVar

from transformers.models.glm4_moe import configuration_glm4_moe, modeling_glm4_moe
from transformers.models.qwen3_moe import configuration_qwen3_moe, modeling_qwen3_moe


class Glm4MoeConfig(configuration_glm4_moe.Glm4MoeConfig):  # type: ignore[misc]
    """GLM-4's."""

    model_type: ClassVar[str] = "masked_glm4_moe"


class Qwen3MoeConfig(configuration_qwen3_moe.Qwen3MoeConfig):  # type: ignore[misc]
    """Qwen3's."""

    model_type: ClassVar[str] = "masked_qwen3_moe"


class MaskedGlm4Moe(modeling_glm4_moe.Glm4MoeForCausalLM):  # type: ignore[misc]
    """GLM-4's mixture of experts. Its router leaves out groups by -inf, as LLaDA2's does."""

    config_class = Glm4MoeConfig


class MaskedQwen3Moe(modeling_qwen3_moe.Qwen3MoeForCausalLM):  # type: ignore[misc]
    """Qwen3's mixture of experts."""

    config_class = Qwen3MoeConfig
