"""What every masked diffusion model looks like to the rest of the house.

Legend: B batch, S prompt + response, R gathered rows, V vocabulary, D hidden.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tabom.core.errors import ModelError

Alignment = Literal["identity", "shift_right"]


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Special ids and where each was read from (for `doctor`, logs and the fingerprint)."""

    mask: int
    pad: int
    eos: tuple[int, ...]  # every id that ends a response: EOS and end-of-turn
    filler: int  # what follows the end inside the canvas (the EOS of the family)
    sources: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """The facts of one family: the row that a new family adds."""

    name: str  # "toy", "dream", "llada", ...
    alignment: Alignment  # "shift_right": the hidden state at p - 1 predicts position p (Dream)
    attention: Literal["full", "block_causal"] = "full"
    default_mask_id: int | None = None
    # Where position 0 of a left-padded row is: its first token (Dream), or its first pad (LLaDA).
    # Rotary embeddings are relative, so this is a matter of rounding: parity with the published
    # code needs it.
    positions: Literal["from_first_token", "from_first_pad"] = "from_first_token"


class MaskedDiffusionModel(nn.Module):
    """A backbone with its head, ids and tokenizer behind one contract.

    The backbone is a transformers `*ForCausalLM` (`lm`), perhaps wrapped by PEFT. Hidden states
    and the head are separate on purpose: callers gather the rows they need before the head, so
    that no [B, S, V] tensor is ever built.
    """

    def __init__(
        self, lm: nn.Module, *, spec: FamilySpec, ids: TokenIds, tokenizer: Any, name_or_path: str
    ) -> None:
        super().__init__()
        self.lm = lm
        self.spec = spec
        self.ids = ids
        self.tokenizer = tokenizer
        self.name_or_path = name_or_path
        vocab_size = self.head_weight_VD.shape[0]
        if not 0 <= ids.mask < vocab_size:
            raise ModelError(
                f"mask token id {ids.mask} (from {ids.sources.get('mask', '?')}) is outside the "
                f"vocabulary of {vocab_size}; pass --mask_token_id with the id of the mask token"
            )

    @property
    def base_lm(self) -> nn.Module:
        """The transformers `*ForCausalLM`, with PEFT's wrapper (if any) taken off."""
        get_base = getattr(self.lm, "get_base_model", None)
        return get_base() if get_base is not None else self.lm

    @property
    def head_weight_VD(self) -> Tensor:
        weight: Tensor = self.base_lm.get_output_embeddings().weight  # type: ignore[operator, union-attr]
        return weight

    @property
    def vocab_size(self) -> int:
        return self.head_weight_VD.shape[0]

    @property
    def device(self) -> torch.device:
        return self.head_weight_VD.device

    def hidden_states(self, input_ids_BS: Tensor, attention_mask_BS: Tensor | None) -> Tensor:
        """Last hidden states `[B, S, D]` (after the final norm) under full attention.

        attention_mask_BS: 1 for real tokens, 0 for left padding; None means no padding, which
            keeps the fastest attention kernels.
        """
        kwargs: dict[str, Any] = {}
        if attention_mask_BS is not None:
            kwargs["attention_mask"] = attention_mask_BS
            if self.spec.positions == "from_first_token":
                position_BS = attention_mask_BS.long().cumsum(-1) - 1
                kwargs["position_ids"] = position_BS.masked_fill(attention_mask_BS == 0, 1)
        output = self.base_lm.model(input_ids=input_ids_BS, use_cache=False, **kwargs)  # type: ignore[operator, union-attr]
        return output.last_hidden_state  # type: ignore[no-any-return]

    def gather_rows(self, hidden_BSD: Tensor, batch_R: Tensor, position_R: Tensor) -> Tensor:
        """The hidden rows `[R, D]` whose logits predict `position_R` of rows `batch_R`."""
        if self.spec.alignment == "shift_right":
            position_R = (position_R - 1).clamp(min=0)
        return hidden_BSD[batch_R, position_R]

    def encode_prompt(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Chat-templated prompt ids, the assistant turn opened; a string is one user message."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ModelError(
                f"{self.name_or_path} has no chat template to put a prompt in (tokenizer: "
                f"{type(self.tokenizer).__name__}); copy the tokenizer files of an instruct "
                "checkpoint into the folder"
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        ids = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(i) for i in ids]

    def decode_response(self, response_ids: list[int]) -> str:
        """Text up to the first end token; mask tokens and other specials are left out."""
        for i, token in enumerate(response_ids):
            if token in self.ids.eos:
                response_ids = response_ids[:i]
                break
        return str(self.tokenizer.decode(response_ids, skip_special_tokens=True))
