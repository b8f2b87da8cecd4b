"""Family "sdar": SDAR and TraDo, which decode block after block.

The published weights are a Qwen3 network, key for key. A position sees its own block, both ways,
and all blocks before it; blocks are counted from the first token of the prompt. What lies behind a
finished block can therefore be cached exactly.
"""

from typing import Any

from tabom.core.errors import ModelError
from tabom.models.family import Family
from tabom.models.folders import ConfigDict

BLOCK_SIZE = 4  # of the published SDAR checkpoints, and of random ones


class Sdar(Family):
    """Qwen3, block-causal."""

    def network(self) -> Any:
        from tabom.models.networks import MaskedQwen3

        return MaskedQwen3

    def to_network_config(self, published: ConfigDict) -> Any:
        block_size = published.get("block_size")
        if not isinstance(block_size, int) or block_size < 1:
            raise ModelError(
                f"config.json of family sdar has block_size = {block_size!r}, expected the number "
                "of tokens of a block; add the one it was trained with, e.g. "
                f'"block_size": {BLOCK_SIZE}'
            )
        return super().to_network_config(published)


FAMILY = Sdar(
    name="sdar",
    attention="block_causal",
    official_decoding="sdar",
    default_mask_id=151669,
    end_of_turn=("<|im_end|>",),
    answer_end="<|im_end|>",  # ChatML, as the published training has it
    tokenizer_class="Qwen2Tokenizer",
    tokenizer_files=(("tokenizer.json",), ("vocab.json", "merges.txt")),
    special_tokens={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    required={"use_sliding_window": False, "attention_bias": False, "hidden_act": "silu"},
    template={
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "block_size": BLOCK_SIZE,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "use_cache": False,
    },
    published_vocab_size=151936,
    adapter_task_type="CAUSAL_LM",
)
