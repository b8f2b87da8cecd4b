import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model


class Official:
    """The decoding cases of one golden checkpoint, and how ours decodes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: list[dict[str, Any]] = json.loads((folder / "golden_decoding.json").read_text())
        self.model: MaskedDiffusionModel = load_model(folder, require_tokenizer=False, device="cpu")

    def decode(
        self, case: dict[str, Any], config: DecodingConfig, **changes: Any
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Response ids and steps of the rows of a case, decoded as one batch."""
        requests = [
            DecodeRequest(
                id=str(row), prompt_ids=[t for t, m in zip(ids, mask, strict=True) if m == 1]
            )
            for row, (ids, mask) in enumerate(
                zip(case["prompt_ids"], case["attention_mask"], strict=True)
            )
        ]
        done = [
            d.trajectory
            for d in Decoder(
                self.model,
                replace(config, **changes),
                seed=case["torch_seed"],
                batch_size=len(requests),
            ).in_order(requests)
        ]
        return [t.response_ids_N.tolist() for t in done], [t.step_N.tolist() for t in done]


@pytest.fixture(scope="session")
def official(golden: Path) -> Callable[[str], Official]:
    cache: dict[str, Official] = {}

    def get(family: str) -> Official:
        if family not in cache:
            cache[family] = Official(golden / f"{family}-tiny")
        return cache[family]

    return get
