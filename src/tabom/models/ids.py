"""Which ids are special, read in one order and with the place each was read from.

Everything is read from the files of the folder, without torch and without transformers, so that a
verb that needs ids alone starts at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabom.core.errors import ModelError
from tabom.models.family import Family
from tabom.models.folders import ConfigDict, one_line, read_json


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Special ids and where each was read from (for `doctor`, logs and the fingerprint).

    eos: every id that ends a response, EOS and end-of-turn. filler: what follows the end inside
    the canvas (the EOS of the family). answer_end: what closes an answer that is trained on.
    """

    mask: int
    pad: int
    eos: tuple[int, ...]
    filler: int
    sources: dict[str, str]
    answer_end: int | None = None

    def named(self) -> list[tuple[str, int]]:
        """Every id with its name in `sources`."""
        return [("mask", self.mask), ("pad", self.pad), *(("eos", token) for token in self.eos)]

    @property
    def end(self) -> int:
        """The id that a trained answer ends with: the family's own choice, else the filler."""
        return self.filler if self.answer_end is None else self.answer_end


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What the files of a tokenizer say about special tokens.

    vocabulary: ids by text, added tokens included. added: texts of added tokens by id.
    names: "mask_token", "eos_token", "pad_token" -> text.
    """

    vocabulary: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def id_of(self, name: str) -> int | None:
        """The id of a named special token."""
        return self.vocabulary.get(self.names.get(name, ""))

    def word(self, token: int) -> str | None:
        """The text of an ordinary token, None for a special one or an id that there is not."""
        special = {self.vocabulary.get(text) for text in self.names.values()}
        if token in self.added or token in special:
            return None
        return next((text for text, i in self.vocabulary.items() if i == token), None)


def read_tokenizer_facts(folder: Path, *, family: Family) -> TokenizerFacts | None:
    """Vocabulary and special tokens of a folder; None if it has no tokenizer."""
    if not has_tokenizer(folder, family=family):
        return None
    config = read_json(folder / "tokenizer_config.json")
    names = dict(family.special_tokens)
    try:
        # Where both files name a token, tokenizer_config.json counts.
        for source in (read_json(folder / "special_tokens_map.json"), config):
            for name in ("mask_token", "eos_token", "pad_token"):
                if source.get(name) is not None:
                    names[name] = _text(source[name])
        vocabulary, added = _vocabulary(folder)
        for token, entry in (config.get("added_tokens_decoder") or {}).items():
            added[int(token)] = _text(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: the tokenizer's JSON files are broken: {error!r}") from error
    # Added tokens win over words of the vocabulary that have the same text.
    vocabulary |= {text: token for token, text in added.items()}
    return TokenizerFacts(vocabulary=vocabulary, added=added, names=names)


def has_tokenizer(folder: Path, *, family: Family) -> bool:
    """Whether one complete group of the family's tokenizer files is there."""
    groups = family.tokenizer_files
    return any(all((folder / name).is_file() for name in group) for group in groups)


def _vocabulary(folder: Path) -> tuple[dict[str, int], dict[int, str]]:
    """Ids by text, and the texts of added tokens by id."""
    path = folder / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ModelError(f"{folder}: the tokenizer does not load: {one_line(error)}") from error
        added = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
        return tokenizer.get_vocab(with_added_tokens=True), added
    added = {int(i): text for text, i in read_json(folder / "added_tokens.json").items()}
    return dict(read_json(folder / "vocab.json")), added


def _text(entry: Any) -> str:
    """A token as the JSON files write it: its text, or an object with it."""
    return str(entry["content"] if isinstance(entry, dict) else entry)


def resolve_ids(
    config: ConfigDict,
    *,
    family: Family,
    tokenizer: TokenizerFacts | None,
    mask_token_id: int | None = None,
) -> TokenIds:
    """Mask, EOS, end-of-turn, pad and filler ids: user > config > tokenizer > family default.

    config: the published config.json.
    mask_token_id: the user's choice; it also settles a config and a tokenizer that disagree.
    Returns: the ids and their sources. `eos` holds every id that ends a response, the filler
        first; the tokenizer's EOS and the family's end-of-turn tokens are added to the config's.
    Raises: `ModelError` if an id cannot be found, if config and tokenizer name different mask
        ids, if the config's is not the one that the tokenizer calls a mask, or if the mask is an
            ordinary word of the tokenizer, an end or a pad token.
    """
    facts = TokenizerFacts() if tokenizer is None else tokenizer
    mask, mask_source = _mask(config, family, facts, mask_token_id)
    # A wrong id is seldom outside the vocabulary: it is a word, and everything seems to work.
    word = facts.word(mask)
    if word is not None and "mask" not in word.lower():
        raise ModelError(
            f"mask token id {mask} (from {mask_source}) is the ordinary token {word!r} of the "
            "tokenizer; the mask is a special token: pass --mask_token_id with its id"
        )
    # The first end token is the filler, and config.json comes before the tokenizer.
    ends = _said("eos_token", config, facts)
    if not ends and family.default_eos_id is not None:
        ends = [(family.default_eos_id, f"default of family {family.name}")]
    if not ends:
        raise ModelError(
            "no EOS id: config.json has no eos_token_id and the tokenizer has no eos_token; add "
            "eos_token_id to config.json"
        )
    filler, eos_source = ends[0]
    pads = _said("pad_token", config, facts) or [(filler, "the EOS id (no pad_token is named)")]
    eot = {text: facts.vocabulary[text] for text in family.end_of_turn if text in facts.vocabulary}
    sources = {
        "mask": mask_source,
        "eos": eos_source,
        "filler": f"first EOS, {eos_source}",
        "pad": pads[0][1],
    }
    if eot:
        sources["end_of_turn"] = "tokenizer " + ", ".join(sorted(eot))
    found = TokenIds(
        mask=mask,
        pad=pads[0][0],
        eos=tuple(dict.fromkeys((*(token for token, _ in ends), *eot.values()))),
        filler=filler,
        sources=sources,
        answer_end=facts.vocabulary.get(family.answer_end or ""),
    )
    for name, token in found.named():
        if name != "mask" and token == mask:
            raise ModelError(
                f"mask token id {mask} (from {mask_source}) is also the {name} id; they must "
                "differ: pass --mask_token_id with the id of the mask token"
            )
    return found


def _said(name: str, config: ConfigDict, facts: TokenizerFacts) -> list[tuple[int, str]]:
    """What config.json and then the tokenizer say of a special token, each with its source."""
    in_config, in_tokenizer = config.get(f"{name}_id"), facts.id_of(name)
    found = in_config if isinstance(in_config, list) else [in_config]
    if any(type(token) is not int for token in found if token is not None):
        raise ModelError(f"config.json has {name}_id {in_config!r}, expected a token id")
    said = [(token, f"config.json {name}_id") for token in found if token is not None]
    if in_tokenizer is not None:
        said.append((in_tokenizer, f"tokenizer {name} {facts.names[name]!r}"))
    return said


def _mask(
    config: ConfigDict, family: Family, facts: TokenizerFacts, user: int | None
) -> tuple[int, str]:
    if user is not None:
        return user, "--mask_token_id"
    said = _said("mask_token", config, facts)
    if len({token for token, _ in said}) > 1:
        raise ModelError(
            f"config.json says mask_token_id {said[0][0]}, the tokenizer says {said[1][0]} "
            f"({facts.names['mask_token']!r}); pass --mask_token_id with the id of the mask token"
        )
    if said:
        _require_named_mask(said[0][0], facts)
        return said[0]
    default = family.mask_id_of(config)
    if default is not None:
        return default, f"default of family {family.name}"
    raise ModelError(
        "no mask token id: config.json has no mask_token_id, the tokenizer has no mask_token and "
        f"family {family.name} has no default for this config; pass --mask_token_id"
    )


def _require_named_mask(mask: int, facts: TokenizerFacts) -> None:
    """A tokenizer without a mask_token attribute (LLaDA's) still has the token, under its name."""
    masks = {i: text for i, text in facts.added.items() if "mask" in text.lower()}
    if masks and mask not in masks:
        found = repr(facts.added[mask]) if mask in facts.added else "no special token"
        raise ModelError(
            f"config.json says mask_token_id {mask}, which is {found} of the tokenizer, and the "
            f"tokenizer has {', '.join(f'{text!r} ({i})' for i, text in masks.items())}; pass "
            "--mask_token_id with the id of the mask token"
        )
