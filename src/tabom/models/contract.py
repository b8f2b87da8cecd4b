"""What every masked diffusion model looks like to the rest of the house.

Legend: B batch, S prompt + response, R gathered rows, V vocabulary, D hidden, L rows and W columns
of one call with a cache.
"""

import re
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import set_stance

from tabom.core.errors import ModelError
from tabom.models.cache import CanvasCache
from tabom.models.family import Family
from tabom.models.ids import TokenIds
from tabom.models.rows import group_by_row
from tabom.models.sizes import context_problem

# Implementations of transformers that take a mask [B, 1, queries, keys], fewer queries than keys.
DENSE_ATTENTION = ("sdpa", "eager")


class MaskedDiffusionModel(nn.Module):
    """A backbone with its head, ids and tokenizer behind one contract.

    The backbone is a transformers `*ForCausalLM` (`lm`), perhaps wrapped by PEFT. Hidden states
    and the head are separate on purpose: callers gather the rows they need before the head, so
    that no [B, S, V] tensor is ever built.
    """

    def __init__(
        self, lm: nn.Module, *, family: Family, ids: TokenIds, tokenizer: Any, name_or_path: str
    ) -> None:
        super().__init__()
        self.lm = lm
        self.family = family
        self.ids = ids
        self.tokenizer = tokenizer
        self.name_or_path = name_or_path
        for name, token in ids.named():
            if not 0 <= token < self.vocab_size:
                raise ModelError(
                    f"{name_or_path}: the {name} id {token} (from {ids.sources.get(name, '?')}) is "
                    f"outside the vocabulary of {self.vocab_size}; correct it in config.json or "
                    "the tokenizer, or pass --mask_token_id with the id of the mask token"
                )
        # Our own networks take `asked_columns`; one of transformers' as it is does not.
        self._takes_asked_columns = bool(getattr(self.base_lm, "takes_asked_columns", False))
        self.allows_long_context = False  # `ModelConfig.load` may allow it
        self.has_compiled_layers = False  # `compile_layers` says when they are

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

    @property
    def block_length(self) -> int | None:
        """Length of a block under block-causal attention; None under full attention.

        Blocks are counted from the first token of the prompt; a position sees its own block and
        all before it.
        """
        return None if self.family.attention == "full" else int(self.base_lm.config.block_size)  # type: ignore[arg-type, union-attr]

    @property
    def max_positions(self) -> int | None:
        """The longest prompt plus slots that the published config allows; None if it says none."""
        config = getattr(self.base_lm, "config", None)
        found = getattr(config, "max_position_embeddings", None)
        return None if found is None else int(found)

    def require_positions(self, *, prompt_tokens: int, max_new_tokens: int) -> None:
        """Raise `ModelError` for a prompt with slots beyond `max_positions`, unless allowed."""
        problem = context_problem(
            self.max_positions, prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens
        )
        if problem is not None and not self.allows_long_context:
            raise ModelError(
                f"{problem}; lower max_new_tokens, leave out the longest prompts, or allow it with "
                "model.allow_long_context"
            )

    @property
    def attn_implementation(self) -> str:
        """The attention implementation of transformers that the backbone calls."""
        return str(self.base_lm.config._attn_implementation)  # type: ignore[union-attr]

    def hidden_states(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor | None,
        *,
        asked_BW: Tensor | None = None,
        block_length: int | None = None,
    ) -> Tensor:
        """Last hidden states `[B, S, D]` (after the final norm) under the family's attention.

        attention_mask_BS: 1 for real tokens, 0 for left padding; None means no padding, which
            keeps the fastest attention kernels.
        asked_BW: columns; the result is then `[B, W, D]`. Only for networks that take them.
        block_length: of a block-causal model, other than its own.
        """
        # Given even if None: another set of keywords is compiled anew.
        kwargs: dict[str, Any] = {"asked_BW": asked_BW} if self._takes_asked_columns else {}
        if self.family.attention == "block_causal":
            kwargs["position_ids"] = self._positions(input_ids_BS, attention_mask_BS)
            kwargs["attention_mask"] = self._visible(
                kwargs["position_ids"], attention_mask_BS, block_length=block_length
            )
        elif attention_mask_BS is not None:
            # As transformers would make it, but without its look at the values, for which the host
            # would wait; and of keys alone, which fast attention kernels take.
            is_real_B11S = (attention_mask_BS != 0)[:, None, None]
            is_sdpa = self.attn_implementation == "sdpa"
            kwargs["attention_mask"] = is_real_B11S if is_sdpa else attention_mask_BS
            if self.family.positions == "from_first_token":
                kwargs["position_ids"] = self._positions(input_ids_BS, attention_mask_BS)
        output = self.base_lm.model(input_ids=input_ids_BS, use_cache=False, **kwargs)  # type: ignore[operator, union-attr]
        return output.last_hidden_state  # type: ignore[no-any-return]

    def hidden_columns(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor | None,
        *,
        row_L: Tensor,
        column_LW: Tensor,
        num_keys: int,
        cache: CanvasCache,
    ) -> Tensor:
        """Last hidden states `[L, W, D]` of some columns of some rows; the others are as cached.

        input_ids_BS, attention_mask_BS: the whole canvas. row_L: rows asked. column_LW: columns
            asked of each. num_keys: columns from the left that may be seen at all.
        cache: what earlier calls stored; the columns asked are stored in it anew.
        Raises: `ModelError` for an attention implementation that takes no dense mask.
        """
        mask_BS = torch.ones_like(input_ids_BS) if attention_mask_BS is None else attention_mask_BS
        position_LS = self._positions(input_ids_BS, mask_BS).expand(len(mask_BS), -1)[row_L]
        cache.aim(row_L, column_LW, num_keys=num_keys)
        # Which layer stores where in the cache is no part of a graph that layers could share.
        as_written = set_stance("force_eager") if self.has_compiled_layers else nullcontext()
        with as_written:
            output = self.base_lm.model(  # type: ignore[operator, union-attr]
                input_ids=input_ids_BS[row_L].gather(1, column_LW),
                attention_mask=self._visible(position_LS, mask_BS[row_L], column_LW)[
                    ..., :num_keys
                ],
                position_ids=position_LS.gather(1, column_LW),
                past_key_values=cache,
                use_cache=False,
            )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _positions(self, input_ids_BS: Tensor, attention_mask_BS: Tensor | None) -> Tensor:
        """Positions `[B, S]` (or `[1, S]`, without padding); a pad of the left has 1."""
        if attention_mask_BS is None or self.family.positions == "from_first_pad":
            return torch.arange(input_ids_BS.shape[1], device=input_ids_BS.device)[None]
        position_BS = attention_mask_BS.long().cumsum(-1) - 1
        return position_BS.masked_fill(attention_mask_BS == 0, 1)

    def _visible(
        self,
        position_BS: Tensor,
        attention_mask_BS: Tensor | None,
        column_BW: Tensor | None = None,
        *,
        block_length: int | None = None,
    ) -> Tensor:
        """The mask `[B, 1, W or S, S]` of what each (asked) column sees, as attention takes it."""
        asked_BW = position_BS if column_BW is None else position_BS.gather(1, column_BW)
        visible_BWS = torch.ones(
            (*asked_BW.shape, position_BS.shape[1]), dtype=torch.bool, device=position_BS.device
        )
        if length := block_length or self.block_length:
            query_BW, key_BS = (
                p.div(length, rounding_mode="floor") for p in (asked_BW, position_BS)
            )
            visible_BWS = query_BW[:, :, None] >= key_BS[:, None, :]
        if attention_mask_BS is not None:
            visible_BWS = visible_BWS & (attention_mask_BS[:, None, :] != 0)
        if self.attn_implementation == "sdpa":
            return visible_BWS[:, None]
        if self.attn_implementation == "eager":  # which adds the mask to the scores
            dtype = self.head_weight_VD.dtype
            additive_BWS = torch.zeros_like(visible_BWS, dtype=dtype)
            return additive_BWS.masked_fill(~visible_BWS, torch.finfo(dtype).min)[:, None]
        raise ModelError(
            f"{self.name_or_path}: attn_implementation {self.attn_implementation!r} takes no dense "
            "mask, which block-causal attention and decoding with a cache need; take sdpa or eager"
        )

    def gather_rows(self, hidden_BSD: Tensor, batch_R: Tensor, position_R: Tensor) -> Tensor:
        """The hidden rows `[R, D]` whose logits predict `position_R` of rows `batch_R`."""
        return hidden_BSD[batch_R, self._column_of(position_R)]

    def _column_of(self, position_R: Tensor) -> Tensor:
        """The columns whose hidden states predict `position_R`."""
        if self.family.alignment == "shift_right":
            return (position_R - 1).clamp(min=0)
        return position_R

    def asked_hidden(
        self,
        input_ids_BS: Tensor,
        attention_mask_BS: Tensor | None,
        batch_R: Tensor,
        position_R: Tensor,
        *,
        widest: int | None = None,
    ) -> Tensor:
        """The hidden rows `[R, D]` whose logits predict `position_R` of rows `batch_R`.

        As `hidden_states`, then `gather_rows`, to rounding: the last layer is computed for the
        columns asked alone, where that saves something (see `tabom.models.networks`).
        Dropout in the last layer then draws for those columns alone.

        widest: the largest number of positions asked of one row, if the caller knows it (more is
            waste, less an error); None counts them, which on a GPU waits for the device.
        """
        num_rows, num_columns = input_ids_BS.shape
        if (
            self._takes_asked_columns
            and self.attn_implementation in DENSE_ATTENTION
            and len(batch_R)
        ):
            asked_BW, place_R = group_by_row(
                batch_R,
                self._column_of(position_R),
                num_rows=num_rows,
                num_columns=num_columns,
                widest=widest,
            )
            if asked_BW.shape[1] < num_columns:
                hidden_BWD = self.hidden_states(input_ids_BS, attention_mask_BS, asked_BW=asked_BW)
                return hidden_BWD[batch_R, place_R]
        hidden_BSD = self.hidden_states(input_ids_BS, attention_mask_BS)
        return self.gather_rows(hidden_BSD, batch_R, position_R)

    def encode_prompt(
        self, prompt: str | list[dict[str, str]], *, is_open: bool = False
    ) -> list[int]:
        """Chat-templated prompt ids, the assistant turn opened; a string is one user message.

        is_open: the last message is the beginning of the answer, which goes on from there.
        """
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ModelError(
                f"{self.name_or_path} has no chat template to put a prompt in (tokenizer: "
                f"{type(self.tokenizer).__name__}); copy the tokenizer files of an instruct "
                "checkpoint into the folder"
            )
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        said = [message["content"] for message in messages]
        for role in (str(message.get("role")) for message in messages):
            if self.special_text_in(role) is not None:
                raise ModelError(f"{self.name_or_path}: the role {role[:60]!a} is a special token")
        # What is said is put in afterwards where it holds the text of a special token.
        is_apart = any(map(self.special_text_in, said))
        marks = [f"\ue000{i}\ue001" for i in range(len(said))]
        shown = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        try:
            rendered = self.tokenizer.apply_chat_template(
                shown if is_apart else messages,
                add_generation_prompt=not is_open,
                continue_final_message=is_open,
                tokenize=False,
            )
            parts = re.split("(\ue000[0-9]+\ue001)", rendered) if is_apart else [rendered]
            ids: list[int] = []
            for part in parts:
                if part in marks:
                    ids += self.encode_text(said[marks.index(part)])
                elif part:
                    ids += self._plain_ids([part], is_apart=False)
        except Exception as error:  # the template raises what it likes, tokenizers bare Exceptions
            last = said[-1] if said else ""
            raise ModelError(
                f"the tokenizer of {self.name_or_path} does not take this prompt: {last[:60]!a} "
                f"({type(error).__name__}: {error}); a vocabulary that lacks a character takes no "
                "prompt with it: the toy models read letters, digits and a few signs"
            ) from error
        if self.ids.mask in ids:  # it would be decoded as a slot of the response
            raise ModelError(
                f"{self.name_or_path}: a prompt holds the mask token: {said[-1][:60]!a}"
            )
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of a text from outside; one that reads like a special token stays a text.

        Else a mask token in an answer would become a label, and one in a prompt would be decoded.
        Raises: ModelError for a text that is the mask token itself, whatever is done; what the
            tokenizer raises for a text that it does not take.
        """
        is_apart = self.special_text_in(text) is not None
        ids = self._plain_ids([text], is_apart=is_apart)
        if self._control_ids.isdisjoint(ids):
            return ids
        # A checkpoint may not call its mask special, and then nothing splits it: cut inside it.
        controls = [t for i, t in self._special_texts().items() if i in self._control_ids]
        pattern = "|".join(map(re.escape, controls)) or "(?!)"
        cuts = [0, *(match.start() + 1 for match in re.finditer(pattern, text)), len(text)]
        ids = self._plain_ids([text[i:j] for i, j in pairwise(cuts)], is_apart=True)
        if self.ids.mask in ids:
            raise ModelError(f"{self.name_or_path}: {text[:60]!a} holds the mask token")
        return ids

    def _plain_ids(self, parts: list[str], *, is_apart: bool) -> list[int]:
        ids: list[int] = []
        for part in parts:
            found = self.tokenizer(part, add_special_tokens=False, split_special_tokens=is_apart)
            ids += map(int, found["input_ids"])
        return ids

    @property
    def _control_ids(self) -> set[int]:
        """The ids that end a response, and the one that stands for what is still to be said."""
        return {self.ids.mask, *self.ids.eos}

    def special_text_in(self, text: str) -> str | None:
        """A special token (mask, end, role, ...) whose text stands in the text; None if none does.

        Tokenizers turn such text into the token's id unless they are told otherwise.
        """
        return next((t for t in self._special_texts().values() if t in text), None)

    def _special_texts(self) -> dict[int, str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {
            i: str(token)
            for i, token in added.items()
            if getattr(token, "special", True) or i in self._control_ids
        }

    def decode_response(self, response_ids: list[int]) -> str:
        """Text up to the first end token; mask tokens and other specials are left out."""
        for i, token in enumerate(response_ids):
            if token in self.ids.eos:
                response_ids = response_ids[:i]
                break
        return str(self.tokenizer.decode(response_ids, skip_special_tokens=True))
