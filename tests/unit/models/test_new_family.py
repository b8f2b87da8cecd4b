"""A family is one file: written to a folder, found by listing, loaded, asked and saved."""

from pathlib import Path

import pytest
import torch

from tabom.core.errors import ModelError
from tabom.models import families
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model, save_model
from tabom.models.random_checkpoint import write_random_checkpoint

MISTRAL = """
from dataclasses import dataclass
from typing import Any

from tabom.models.family import Family


class Breeze(Family):
    def network(self) -> Any:
        from transformers import MistralForCausalLM

        return MistralForCausalLM


FAMILY = Breeze(
    name="breeze",
    alignment="shift_right",
    default_mask_id=7,
    required={"sliding_window": None},
    template={
        "model_type": "breeze",
        "architectures": ["BreezeModel"],
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MaskedDiffusionModel:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "breeze.py").write_text(MISTRAL)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "more")])
    folder = write_random_checkpoint(
        tmp_path / "model", family="breeze", vocab_size=41, initializer_range=0.25
    )
    return load_model(folder, require_tokenizer=False, device="cpu")


def test_one_file_is_a_family(model: MaskedDiffusionModel, tmp_path: Path) -> None:
    assert "breeze" in families.family_names()
    assert (model.family.name, model.ids.mask, model.max_positions) == ("breeze", 39, 512)
    ids_BS = torch.arange(8)[None]
    batch_R, position_R = torch.zeros(2, dtype=torch.long), torch.tensor([3, 5])
    with torch.inference_mode():
        hidden_BSD = model.hidden_states(ids_BS, None)
        asked_RD = model.asked_hidden(ids_BS, None, batch_R, position_R)
    assert torch.equal(asked_RD, hidden_BSD[0, [2, 4]])
    save_model(model, tmp_path / "again")
    again = load_model(tmp_path / "again", require_tokenizer=False, device="cpu")
    for name, weight in model.lm.state_dict().items():
        assert torch.equal(weight, again.lm.state_dict()[name])


def test_a_switch_that_it_does_not_implement_is_refused(
    model: MaskedDiffusionModel, tmp_path: Path
) -> None:
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"sliding_window": null', '"sliding_window": 8'))
    with pytest.raises(ModelError, match="sliding_window = 8, and only None is implemented"):
        load_model(tmp_path / "model", require_tokenizer=False)


def test_without_the_file_it_is_unknown() -> None:
    with pytest.raises(ModelError, match="'breeze' is not one of"):
        families.get_family("breeze")
