"""Float32 logits of the golden checkpoints against those of the published modelling code.

Every folder `NAME-tiny` of the golden set with a `golden_logits.json` is a family; every entry of
the file is a test.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_set import GOLDEN, IS_OTHER, folders

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model, save_model
from tabom.models.tensors import stored_tensors

CASES = [
    pytest.param(folder, index, id=f"{folder.name}-logits-{index}")
    for folder in folders("golden_logits.json")
    for index in range(len(json.loads((folder / "golden_logits.json").read_text())))
]
FOLDERS = [pytest.param(folder, id=folder.name) for folder in folders("golden_logits.json")]


@cache
def loaded(folder: Path) -> tuple[MaskedDiffusionModel, list[dict[str, Any]]]:
    model = load_model(
        folder, dtype="float32", attn_implementation="sdpa", require_tokenizer=False, device="cpu"
    )
    return model, json.loads((folder / "golden_logits.json").read_text())


def largest_error(model: MaskedDiffusionModel, case: dict[str, Any]) -> tuple[float, float]:
    """The largest difference at real tokens, and what is allowed."""
    ids_BS, mask_BS = torch.tensor(case["input_ids"]), torch.tensor(case["attention_mask"])
    raw_BSV = torch.tensor(case["raw_logits"])
    with torch.inference_mode():
        hidden_BSD = model.hidden_states(
            ids_BS, None if mask_BS.all() else mask_BS, block_length=case.get("block_length")
        )
        error_BSV = (hidden_BSD @ model.head_weight_VD.T - raw_BSV).abs()
    # The official module itself moves by 1.3e-5 between attention kernels, at logits of 15.
    return float(error_BSV[mask_BS == 1].max()), 3e-6 * float(raw_BSV.abs().max()) + 5e-6


@pytest.mark.parametrize("folder, index", CASES)
def test_every_real_position(folder: Path, index: int) -> None:
    model, cases = loaded(folder)
    error, allowed = largest_error(model, cases[index])
    print(f"{folder.name}: {error:.1e}, allowed {allowed:.1e}")  # pytest -rP shows it
    assert error <= allowed


@pytest.mark.parametrize("folder", FOLDERS)
def test_saved_again_it_has_the_official_tensors(folder: Path, tmp_path: Path) -> None:
    model, cases = loaded(folder)
    save_model(model, tmp_path / "model")
    found, official = stored_tensors(tmp_path / "model"), stored_tensors(folder)
    assert found.keys() == official.keys()
    for name, tensor in official.items():
        torch.testing.assert_close(found[name].read(), tensor.read().float(), rtol=0, atol=0)
    again = load_model(tmp_path / "model", require_tokenizer=False, device="cpu")
    assert again.family.name == model.family.name
    error, allowed = largest_error(again, cases[0])
    assert error <= allowed


def test_the_set_of_the_repository_has_padded_rows() -> None:
    if IS_OTHER:
        pytest.skip("another set was asked for")
    for folder in folders("golden_logits.json"):
        cases = json.loads((folder / "golden_logits.json").read_text())
        assert any(0 in row for case in cases for row in case["attention_mask"]), folder
    assert len(list(GOLDEN.glob("*-tiny"))) == 6
