"""The toy world's tokenizer: one token a character, or an entry of a map; a chat template."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tabom.toyworld.alphabet import CHARACTERS, POINTERS

PAD, EOS, MASK, USER, ASSISTANT = "<pad>", "<eos>", "<mask>", "<user>", "<assistant>"
SPECIAL_TOKENS = (PAD, EOS, MASK, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<eos>"
    "{% else %}{{ raise_exception('the toy world has users and assistants only, got role '"
    " + message['role']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Ids: specials 0-4, `CHARACTERS`, `POINTERS`; an unknown character is an error."""
    tokens = (*SPECIAL_TOKENS, *CHARACTERS, *POINTERS)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    # No unknown token: the toy world has no text of others, so an unknown character is a mistake.
    core = Tokenizer(models.WordLevel(vocabulary))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[A-J][a-j]|."), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        mask_token=MASK,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )
