from collections.abc import Callable

import numpy as np
import pytest
import torch

from tabom.decoding.requests import DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.models.random_checkpoint import write_random_checkpoint

VOCAB = 23


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], MaskedDiffusionModel]:
    """A tiny random model per family, with peaked and distinct predictions."""
    cache: dict[str, MaskedDiffusionModel] = {}

    def get(family: str) -> MaskedDiffusionModel:
        if family not in cache:
            folder = write_random_checkpoint(
                tmp_path_factory.mktemp(family) / "model",
                family=family,
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                initializer_range=0.3,
                seed=11,
            )
            cache[family] = load_model(folder, require_tokenizer=False, device="cpu")
        return cache[family]

    return get


@pytest.fixture(scope="session")
def requests_of() -> Callable[..., list[DecodeRequest]]:
    """`requests_of(lengths)`: one request per prompt length, with keyed ids and tokens."""

    def make(lengths: list[int], *, seed: int = 0) -> list[DecodeRequest]:
        rng = np.random.default_rng(seed)
        return [
            DecodeRequest(id=f"r{i}", prompt_ids=rng.integers(0, VOCAB - 3, n).tolist())
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
