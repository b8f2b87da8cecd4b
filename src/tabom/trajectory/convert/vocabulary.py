"""What the converters must know of a model: its tokenizer, and its special ids. No model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tabom.core.errors import DataError
from tabom.core.rows import MalformedRowError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A tokenizer and special ids; every one may be unknown.

    tokenizer: as transformers' (with a chat template where prompts are to be templated).
    mask_id: hides a slot. end_ids: every id that ends a response. size: rows of the embedding.
    """

    tokenizer: Any = None
    mask_id: int | None = None
    end_ids: tuple[int, ...] = ()
    size: int | None = None

    def encode_prompt(self, prompt: str, *, place: str) -> list[int]:
        """Chat-templated ids of one user message, the assistant turn opened."""
        tokenizer = self._need(place, "the row has no prompt ids (tabom.prompt_token_ids)")
        if getattr(tokenizer, "chat_template", None) is None:
            raise DataError(
                f"{place}: the tokenizer has no chat template to put the prompt in; take the "
                "tokenizer of the instruct checkpoint that made the trajectories"
            )
        messages = [{"role": "user", "content": prompt}]
        with _naming(place):
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        return [int(i) for i in ids]

    def tokenize(self, text: str, *, place: str) -> list[int]:
        """Ids of text that carries its special tokens as text; none are added."""
        tokenizer = self._need(place, "the row holds text and no token ids")
        with _naming(place):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [int(i) for i in ids]

    def decode_response(self, ids: list[int], *, place: str) -> str:
        """Text up to the first end token, special tokens left out."""
        tokenizer = self._need(place, "the row has no text of the response alone")
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return str(tokenizer.decode(ids[:end], skip_special_tokens=True))

    def need_mask(self, place: str) -> int:
        """The mask id. Raises: DataError saying which flag gives it."""
        if self.mask_id is None:
            raise DataError(
                f"{place}: which slots are masked is told by the mask id, and that is not known; "
                "pass --model_name_or_path, or --mask_token_id"
            )
        return self.mask_id

    def _need(self, place: str, why: str) -> Any:
        if self.tokenizer is None:
            raise DataError(
                f"{place}: {why}; pass --model_name_or_path with the checkpoint (or the folder of "
                "the tokenizer files and config.json) that made the trajectories"
            )
        return self.tokenizer


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """A text that the tokenizer cannot take makes its row malformed."""
    try:
        yield
    except Exception as error:  # tokenizers raise bare ones
        raise MalformedRowError(place, "", f"its text has no tokens ({error})") from error
