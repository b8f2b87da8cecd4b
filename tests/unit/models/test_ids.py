from typing import Any

import pytest

from tabom.core.errors import ModelError
from tabom.models.families import get_family
from tabom.models.ids import TokenizerFacts, resolve_ids


def tokenizer(added: dict[int, str] | None = None, **ids: int) -> TokenizerFacts:
    """A tokenizer that calls some ids `<mask>`, `<eos>` and `<pad>`."""
    names = {name.removesuffix("_id"): f"<{name.split('_')[0]}>" for name in ids}
    special = {text: ids[f"{name}_id"] for name, text in names.items()}
    return TokenizerFacts(
        vocabulary={"<|im_end|>": 45, "a": 1, **special}, added=added or {}, names=names
    )


DREAM, TOY = get_family("dream"), get_family("toy")
CONFIG = {"mask_token_id": 66, "eos_token_id": 43, "pad_token_id": 42}


@pytest.mark.parametrize(
    "config, tok, user, mask, source",
    [
        (CONFIG, tokenizer(mask_token_id=66), 7, 7, "--mask_token_id"),
        (CONFIG, tokenizer(mask_token_id=65), 7, 7, "--mask_token_id"),
        (CONFIG, None, None, 66, "config.json mask_token_id"),
        ({"eos_token_id": 43}, tokenizer(mask_token_id=65), None, 65, "tokenizer mask_token"),
        ({"eos_token_id": 43}, tokenizer(), None, 151666, "default of family dream"),
    ],
)
def test_mask_comes_from_the_first_that_knows(
    config: dict[str, Any], tok: Any, user: int | None, mask: int, source: str
) -> None:
    ids = resolve_ids(config, family=DREAM, tokenizer=tok, mask_token_id=user)
    assert ids.mask == mask
    assert ids.sources["mask"].startswith(source)


def test_config_and_tokenizer_that_disagree_are_not_guessed_between() -> None:
    with pytest.raises(ModelError, match="says mask_token_id 66, the tokenizer says 65"):
        resolve_ids(CONFIG, family=DREAM, tokenizer=tokenizer(mask_token_id=65))


def test_no_mask_anywhere() -> None:
    with pytest.raises(ModelError, match=r"no mask token id.*family toy has no default"):
        resolve_ids({"eos_token_id": 1}, family=TOY, tokenizer=tokenizer())


def test_eos_gathers_every_end_and_the_filler_is_the_first() -> None:
    config = {**CONFIG, "eos_token_id": [43, 44]}
    ids = resolve_ids(config, family=DREAM, tokenizer=tokenizer(eos_token_id=44))
    assert ids.eos == (43, 44, 45)
    assert (ids.filler, ids.pad) == (43, 42)
    assert ids.sources["end_of_turn"] == "tokenizer <|im_end|>"
    toy = resolve_ids(CONFIG, family=TOY, tokenizer=tokenizer(eos_token_id=40))
    assert toy.eos == (43, 40)
    assert "end_of_turn" not in toy.sources


def test_eos_and_pad_from_the_tokenizer() -> None:
    tok = tokenizer(eos_token_id=40, pad_token_id=39)
    ids = resolve_ids({"mask_token_id": 66}, family=TOY, tokenizer=tok)
    assert (ids.eos, ids.pad) == ((40,), 39)
    assert (ids.sources["eos"], ids.sources["pad"]) == (
        "tokenizer eos_token '<eos>'",
        "tokenizer pad_token '<pad>'",
    )


def test_pad_falls_to_the_eos_and_says_so() -> None:
    ids = resolve_ids({"mask_token_id": 66, "eos_token_id": 0}, family=TOY, tokenizer=None)
    assert (ids.pad, ids.eos) == (0, (0,))
    assert "no pad_token" in ids.sources["pad"]


def test_no_eos_anywhere() -> None:
    with pytest.raises(ModelError, match="no EOS id"):
        resolve_ids({"mask_token_id": 66}, family=TOY, tokenizer=None)


@pytest.mark.parametrize("taken, name", [(43, "eos"), (42, "pad")])
def test_mask_that_is_also_another_special(taken: int, name: str) -> None:
    with pytest.raises(ModelError, match=f"mask token id {taken} .* is also the {name} id"):
        resolve_ids(CONFIG, family=DREAM, tokenizer=None, mask_token_id=taken)


@pytest.mark.parametrize(
    "mask, words",
    [
        (
            93,
            r"mask_token_id 93, which is '<\|eot_id\|>' of the tokenizer.*'<\|mdm_mask\|>' \(95\)",
        ),
        (96, r"mask_token_id 96, which is no special token of the tokenizer"),
        ("95", "has mask_token_id '95', expected a token id"),
        (True, "has mask_token_id True, expected a token id"),
    ],
)
def test_a_config_that_names_another_special_token(mask: Any, words: str) -> None:
    # LLaDA's tokenizer has no mask_token attribute: its vocabulary alone knows the mask.
    tok = tokenizer({93: "<|eot_id|>", 94: "<|endoftext|>", 95: "<|mdm_mask|>"}, eos_token_id=94)
    config = {"mask_token_id": mask, "eos_token_id": 94}
    llada = get_family("llada")
    with pytest.raises(ModelError, match=words):
        resolve_ids(config, family=llada, tokenizer=tok)
    assert resolve_ids({**config, "mask_token_id": 95}, family=llada, tokenizer=tok).mask == 95
    if mask == 93:  # the user's word counts
        assert resolve_ids(config, family=llada, tokenizer=tok, mask_token_id=93).mask == 93


def test_a_mask_id_that_is_text_is_no_disagreement_of_equal_numbers() -> None:
    with pytest.raises(ModelError, match="has mask_token_id '66', expected a token id"):
        resolve_ids({"mask_token_id": "66"}, family=DREAM, tokenizer=tokenizer(mask_token_id=66))
