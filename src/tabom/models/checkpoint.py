"""A checkpoint folder in its published layout: what its small files say.

Nothing here imports torch or transformers before a tokenizer or a network is asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.core.errors import ModelError, TabomError
from tabom.models.families import detect_family
from tabom.models.family import Family, require_values
from tabom.models.folders import ConfigDict, one_line, read_config, resolve_folder
from tabom.models.ids import TokenIds, has_tokenizer, read_tokenizer_facts, resolve_ids


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder in the published layout of a family. config: its config.json, as published."""

    folder: Path
    config: ConfigDict
    family: Family

    @classmethod
    def find(cls, name_or_path: str | Path, *, weights: bool = True) -> "Checkpoint":
        """The checkpoint of a packaged name, a folder or a hub id.

        weights: whether they are fetched too, where the hub is asked.
        Raises: `ModelError` if there is none, or of no known family.
        """
        folder = resolve_folder(str(name_or_path), weights=weights)
        config = read_config(folder)
        return cls(folder=folder, config=config, family=detect_family(config, where=str(folder)))

    def ids(self, *, mask_token_id: int | None = None) -> TokenIds:
        """The special ids. Raises: `ModelError` as `resolve_ids`."""
        facts = read_tokenizer_facts(self.folder, family=self.family)
        return resolve_ids(
            self.config, family=self.family, tokenizer=facts, mask_token_id=mask_token_id
        )

    def tokenizer(self, *, is_required: bool = True) -> Any:
        """The family's tokenizer; None if there are no tokenizer files and none is required."""
        # Checked by file name: given a folder without its files, transformers' Qwen2Tokenizer
        # loads without a word and knows a single token.
        if not has_tokenizer(self.folder, family=self.family):
            if not is_required:
                return None
            groups = " or ".join(" + ".join(group) for group in self.family.tokenizer_files)
            raise ModelError(
                f"{self.folder} has no tokenizer ({groups}); copy the tokenizer files of the "
                "checkpoint there"
            )
        try:
            tokenizer = self.family.load_tokenizer(self.folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{self.folder}: the tokenizer does not load: {one_line(error)}"
            ) from error
        if getattr(tokenizer, "split_special_tokens", False):
            raise ModelError(
                f"{self.folder / 'tokenizer_config.json'} says split_special_tokens: true, which "
                "cuts the roles and ends of the chat template into pieces that no model was "
                "trained on; set it to false"
            )
        tokenizer.init_kwargs.pop("auto_map", None)  # else save_pretrained would hand it on
        return tokenizer

    def network_config(self) -> Any:
        """The config of the network, as transformers takes it.

        Raises: `ModelError` if config.json does not fit the family, or if the weights are
            quantised, which would load as tensors of other shapes.
        """
        # Which attention runs is the caller's to say: a copy of Dream names flash_attention_2.
        chosen = ("attn_implementation", "_attn_implementation")
        published = {name: value for name, value in self.config.items() if name not in chosen}
        path = self.folder / "config.json"
        try:
            # An autoregressive model is causal; quantised weights are tensors of other shapes.
            require_values(published, {"is_causal": False, "quantization_config": None})
            config = self.family.to_network_config(published)
        except TabomError as error:
            raise ModelError(f"{self.folder}: {error}") from error
        except Exception as error:  # transformers checks the fields with errors of many kinds
            raise ModelError(
                f"{path} does not describe a model of family {self.family.name}: {one_line(error)}"
            ) from error
        pad, vocab_size = config.pad_token_id, config.vocab_size
        if pad is not None and not 0 <= pad < vocab_size:  # torch would refuse it in other words
            raise ModelError(
                f"{path}: the pad id {pad} is outside the vocabulary of {vocab_size}; take the "
                "config.json that was published with the weights"
            )
        return config


def load_ids(model_name_or_path: str | Path, *, mask_token_id: int | None = None) -> TokenIds:
    """The special ids of a checkpoint, without its weights, torch or transformers.

    Raises: `ModelError` as `resolve_ids`, or if there is no such checkpoint.
    """
    return Checkpoint.find(model_name_or_path, weights=False).ids(mask_token_id=mask_token_id)
