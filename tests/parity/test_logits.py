"""Float32 logits of the golden checkpoints against those of the published modelling code."""

import json
from pathlib import Path

import pytest
import torch

from tabom.models.loading import load_model


@pytest.mark.parametrize("family, alignment", [("dream", "shift_right"), ("llada", "identity")])
def test_every_unpadded_position(family: str, alignment: str, golden: Path) -> None:
    folder = golden / f"{family}-tiny"
    model = load_model(
        folder,
        dtype="float32",
        attn_implementation="sdpa",
        require_tokenizer=False,
        device="cpu",
    )
    assert (model.family.name, model.family.alignment) == (family, alignment)
    cases = json.loads((folder / "golden_logits.json").read_text())
    assert cases
    for index, case in enumerate(cases):
        ids_BS = torch.tensor(case["input_ids"])
        mask_BS = torch.tensor(case["attention_mask"])
        with torch.inference_mode():
            hidden_BSD = model.hidden_states(ids_BS, None if mask_BS.all() else mask_BS)
            error = (hidden_BSD @ model.head_weight_VD.T - torch.tensor(case["raw_logits"])).abs()
        assert error[mask_BS == 1].max() < 1e-5, f"case {index}"


@pytest.mark.parametrize("family", ["dream", "llada"])
def test_the_set_of_the_repository_has_padded_rows(family: str) -> None:
    text = Path(__file__).parents[1] / "golden" / f"{family}-tiny" / "golden_logits.json"
    cases = json.loads(text.read_text())
    assert any(0 in row for case in cases for row in case["attention_mask"])
