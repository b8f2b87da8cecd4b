"""The networks of our families: transformers' own, with the last layer computed where it is asked.

Keys and values of the last layer are needed at every position. Its queries, output projection, MLP
and residuals, and the final norm, are needed only at the positions whose hidden rows are read; what
the others would give goes nowhere. Leaving them out changes no number but by rounding.

Which columns are asked travels as a keyword through transformers' backbone to its layers, so that
what computes a layer again (gradient checkpointing) or wraps it (FSDP, compilation) sees it too.
A family may also use a network of transformers as it is: its last layer is then computed whole.

Legend: B batch, S prompt + response, R gathered rows, W columns asked of each row, D hidden,
H heads, d head width.
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from tabom.models.rows import take_columns


class TrimmedLayer(nn.Module):
    """A pre-norm decoder layer that returns `[B, W, D]` when it is given `asked_BW`."""

    def forward(
        self, hidden_states: Tensor, *, asked_BW: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        if asked_BW is None:
            output: Tensor = super().forward(hidden_states, **kwargs)  # type: ignore[misc]
            return output
        # Submodules are called, never their weights: adapters may sit on any of them.
        normed_BSD = self.input_layernorm(hidden_states)  # type: ignore[operator]
        hidden_BWD = take_columns(hidden_states, asked_BW)
        hidden_BWD = hidden_BWD + _attend(self.self_attn, normed_BSD, asked_BW, **kwargs)
        update_BWD: Tensor = self.mlp(self.post_attention_layernorm(hidden_BWD))  # type: ignore[operator]
        return hidden_BWD + update_BWD


# Under the names of their parents, by which FSDP and device maps look for the layers of a model.
class LlamaDecoderLayer(TrimmedLayer, llama.LlamaDecoderLayer):  # type: ignore[misc]
    """Llama's."""


class Qwen2DecoderLayer(TrimmedLayer, qwen2.Qwen2DecoderLayer):  # type: ignore[misc]
    """Qwen2's."""


class Qwen3DecoderLayer(TrimmedLayer, qwen3.Qwen3DecoderLayer):  # type: ignore[misc]
    """Qwen3's."""


class LladaRotaryEmbedding(llama.LlamaRotaryEmbedding):  # type: ignore[misc]
    """Cosines and sines in float32; Llama's would round them to the dtype of the weights."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = super().forward(x.float(), position_ids)
        return cos, sin


class LladaAttention(llama.LlamaAttention):  # type: ignore[misc]
    """Llama's attention with queries and keys rotated in float32, then cast back."""

    def forward(
        self, hidden_states: Tensor, asked_BW: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        # The backbone hands the columns asked to every layer; this is a whole one.
        return _attend(self, hidden_states, None, **kwargs), None


# ---- the networks ----


class TrimmedNetwork(nn.Module):
    """A `*ForCausalLM` whose last layer takes `asked_BW`."""

    takes_asked_columns: ClassVar[bool] = True
    model: Any
    last_layer: ClassVar[type[TrimmedLayer]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        layers: Any = self.model.layers
        layers[-1] = self.last_layer(config, config.num_hidden_layers - 1)


class MaskedLlama(TrimmedNetwork, llama.LlamaForCausalLM):  # type: ignore[misc]
    """Llama."""

    last_layer = LlamaDecoderLayer


class MaskedQwen2(TrimmedNetwork, qwen2.Qwen2ForCausalLM):  # type: ignore[misc]
    """Qwen2."""

    last_layer = Qwen2DecoderLayer


class MaskedQwen3(TrimmedNetwork, qwen3.Qwen3ForCausalLM):  # type: ignore[misc]
    """Qwen3."""

    last_layer = Qwen3DecoderLayer


class MaskedLlada(MaskedLlama):
    """Llama with LLaDA's rotation: in float32, whatever the dtype of the weights."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.rotary_emb = LladaRotaryEmbedding(config=config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = LladaAttention(config, index)


def _attend(
    attention: Any,
    normed_BSD: Tensor,
    asked_BW: Tensor | None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> Tensor:
    """Self-attention of the columns asked (None: of all) over all columns, `[B, W, D]`."""
    heads = (-1, attention.head_dim)
    asked_BWD, asked_embeddings = normed_BSD, position_embeddings
    if asked_BW is not None:
        cos_BSd, sin_BSd = position_embeddings
        asked_BWD = take_columns(normed_BSD, asked_BW)
        asked_embeddings = take_columns(cos_BSd, asked_BW), take_columns(sin_BSd, asked_BW)
        if attention_mask is not None and attention_mask.shape[2] > 1:  # [B or 1, 1, S, S]
            attention_mask = take_columns(attention_mask[:, 0], asked_BW)[:, None]
    query_BWHd = attention.q_proj(asked_BWD).unflatten(-1, heads)
    key_BSHd = attention.k_proj(normed_BSD).unflatten(-1, heads)
    value_BHSd = attention.v_proj(normed_BSD).unflatten(-1, heads).transpose(1, 2)
    if isinstance(attention, qwen3.Qwen3Attention):
        query_BWHd, key_BSHd = attention.q_norm(query_BWHd), attention.k_norm(key_BSHd)
    key_BHSd = _rotate(key_BSHd, *position_embeddings).transpose(1, 2)
    if past_key_values is not None:
        key_BHSd, value_BHSd = past_key_values.update(key_BHSd, value_BHSd, attention.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, llama.eager_attention_forward
    )
    output_BWHd, _ = attend(
        attention,
        _rotate(query_BWHd, *asked_embeddings).transpose(1, 2),
        key_BHSd,
        value_BHSd,
        attention_mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        **kwargs,
    )
    attended_BWD: Tensor = attention.o_proj(output_BWHd.flatten(-2))
    return attended_BWD


def _rotate(x_BSHd: Tensor, cos_BSd: Tensor, sin_BSd: Tensor) -> Tensor:
    """The rotary embedding, in the dtype of its table (LLaDA: float32), then cast back."""
    cos, sin = cos_BSd.unsqueeze(2), sin_BSd.unsqueeze(2)
    rotated_BSHd: Tensor = x_BSHd * cos + llama.rotate_half(x_BSHd) * sin
    return rotated_BSHd.to(x_BSHd.dtype)
