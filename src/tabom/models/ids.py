"""Which ids are special, read in one order and with the place each was read from."""

from typing import Any

from tabom.core.errors import ModelError
from tabom.models.contract import TokenIds
from tabom.models.family import ConfigDict, Family


def resolve_ids(
    config: ConfigDict, *, family: Family, tokenizer: Any, mask_token_id: int | None = None
) -> TokenIds:
    """Mask, EOS, end-of-turn, pad and filler ids: user > config > tokenizer > family default.

    config: the published config.json. tokenizer: may be None.
    mask_token_id: the user's choice; it also settles a config and a tokenizer that disagree.
    Returns: the ids and their sources. `eos` holds every id that ends a response, the filler
        first; the tokenizer's EOS and the family's end-of-turn tokens are added to the config's.
    Raises: `ModelError` if an id cannot be found, if config and tokenizer name different mask
        ids, if the config's is not the one that the tokenizer calls a mask, or if the mask is an
            ordinary word of the tokenizer, an end or a pad token.
    """
    mask, mask_source = _mask(config, family, tokenizer, mask_token_id)
    _require_no_word(mask, mask_source, tokenizer)
    eos, eos_source = _eos(config, tokenizer)
    eot = _end_of_turn(family, tokenizer)
    sources = {"mask": mask_source, "eos": eos_source, "filler": f"first EOS, {eos_source}"}
    if eot:
        sources["end_of_turn"] = "tokenizer " + ", ".join(sorted(eot))
    all_eos = tuple(dict.fromkeys((*eos, *eot.values())))
    pad, sources["pad"] = _pad(config, tokenizer, eos[0])
    for name, taken in (("EOS", all_eos), ("pad", (pad,))):
        if mask in taken:
            raise ModelError(
                f"mask token id {mask} (from {mask_source}) is also the {name} id; they must "
                "differ: pass --mask_token_id with the id of the mask token"
            )
    return TokenIds(mask=mask, pad=pad, eos=all_eos, filler=eos[0], sources=sources)


def _mask(config: ConfigDict, family: Family, tokenizer: Any, user: int | None) -> tuple[int, str]:
    if user is not None:
        return user, "--mask_token_id"
    in_config = config.get("mask_token_id")
    if in_config is not None and type(in_config) is not int:
        raise ModelError(f"config.json has mask_token_id {in_config!r}, expected a token id")
    in_tokenizer = getattr(tokenizer, "mask_token_id", None)
    if in_config is not None and in_tokenizer is not None and in_config != in_tokenizer:
        raise ModelError(
            f"config.json says mask_token_id {in_config}, the tokenizer says {in_tokenizer} "
            f"({tokenizer.mask_token!r}); pass --mask_token_id with the id of the mask token"
        )
    if in_config is not None:
        _require_named_mask(in_config, tokenizer)
        return in_config, "config.json mask_token_id"
    if in_tokenizer is not None:
        return int(in_tokenizer), f"tokenizer mask_token {tokenizer.mask_token!r}"
    default = family.spec.default_mask_id
    if family.mask_id_of is not None:
        default = family.mask_id_of(config)
    if default is not None:
        return default, f"default of family {family.spec.name}"
    raise ModelError(
        "no mask token id: config.json has no mask_token_id, the tokenizer has no mask_token and "
        f"family {family.spec.name} has no default for this config; pass --mask_token_id"
    )


def _require_no_word(mask: int, source: str, tokenizer: Any) -> None:
    """A wrong id is seldom outside the vocabulary: it is a word, and everything seems to work."""
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is None or mask in added or mask in tokenizer.all_special_ids:
        return
    token = tokenizer.convert_ids_to_tokens(mask) if 0 <= mask < len(tokenizer) else None
    if token is not None and "mask" not in token.lower():
        raise ModelError(
            f"mask token id {mask} (from {source}) is the ordinary token {token!r} of the "
            "tokenizer; the mask is a special token: pass --mask_token_id with its id"
        )


def _require_named_mask(mask: int, tokenizer: Any) -> None:
    """A tokenizer without a mask_token attribute (LLaDA's) still has the token, under its name."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    masks = {i: str(token) for i, token in added.items() if "mask" in str(token).lower()}
    if masks and mask not in masks:
        found = repr(str(added[mask])) if mask in added else "no special token"
        raise ModelError(
            f"config.json says mask_token_id {mask}, which is {found} of the tokenizer, and the "
            f"tokenizer has {', '.join(f'{text!r} ({i})' for i, text in masks.items())}; pass "
            "--mask_token_id with the id of the mask token"
        )


def _eos(config: ConfigDict, tokenizer: Any) -> tuple[tuple[int, ...], str]:
    in_config = config.get("eos_token_id")
    in_tokenizer = getattr(tokenizer, "eos_token_id", None)
    found: list[int] = []
    if in_config is not None:
        found += in_config if isinstance(in_config, list) else [in_config]
    if in_tokenizer is not None:
        found.append(in_tokenizer)
    if not found:
        raise ModelError(
            "no EOS id: config.json has no eos_token_id and the tokenizer has no eos_token; add "
            "eos_token_id to config.json"
        )
    source = "config.json eos_token_id" if in_config is not None else "tokenizer eos_token"
    return tuple(dict.fromkeys(int(i) for i in found)), source


def _end_of_turn(family: Family, tokenizer: Any) -> dict[str, int]:
    if tokenizer is None:
        return {}
    vocabulary = tokenizer.get_vocab()
    return {text: vocabulary[text] for text in family.end_of_turn if text in vocabulary}


def _pad(config: ConfigDict, tokenizer: Any, eos: int) -> tuple[int, str]:
    in_config = config.get("pad_token_id")
    if in_config is not None:
        return int(in_config), "config.json pad_token_id"
    in_tokenizer = getattr(tokenizer, "pad_token_id", None)
    if in_tokenizer is not None:
        return int(in_tokenizer), f"tokenizer pad_token {tokenizer.pad_token!r}"
    return eos, "the EOS id (no pad_token is named)"
