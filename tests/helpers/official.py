"""Golden decoding cases in the words of `DecodingConfig`, and how ours decodes them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.trajectory.record import Trajectory

Options = dict[str, Any]


class Official:
    """The decoding cases of one golden checkpoint, and how ours decodes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: list[dict[str, Any]] = json.loads((folder / "golden_decoding.json").read_text())
        self.model: MaskedDiffusionModel = load_model(folder, require_tokenizer=False, device="cpu")

    def trajectories(self, case: dict[str, Any], config: DecodingConfig) -> list[Trajectory]:
        """The rows of a case, decoded as one batch."""
        rows = zip(case["prompt_ids"], case["attention_mask"], strict=True)
        requests = [
            DecodeRequest(
                id=str(i), prompt_ids=[t for t, m in zip(ids, mask, strict=True) if m == 1]
            )
            for i, (ids, mask) in enumerate(rows)
        ]
        decoder = Decoder(self.model, config, seed=case["torch_seed"], batch_size=len(requests))
        return [d.trajectory for d in decoder.in_order(requests)]

    def decode(
        self, case: dict[str, Any], config: DecodingConfig, **changes: Any
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Response ids and steps of the rows of a case."""
        done = self.trajectories(case, replace(config, **changes))
        return [t.response_ids_N.tolist() for t in done], [t.step_N.tolist() for t in done]


def config_of(family: str | None, case: dict[str, Any]) -> DecodingConfig:
    """The settings of a case. An option that is not known here is an error."""
    options = dict(case["options"])
    if "algorithm" in case:
        options["official_loop"] = case["algorithm"]
    return DecodingConfig(schedule="official", **READERS[str(family)](options))


def dream(known: Options) -> Options:
    return {
        "policy": known.pop("alg"),
        "temperature": known.pop("temperature", 0.0) or 0.0,
        **{k: v for k, v in known.items() if v is not None},
    }


def llada(known: Options) -> Options:
    return {
        "policy": known.pop("remasking", "low_confidence"),
        "temperature": known.pop("temperature", 0.0) or 0.0,
        "cfg_scale": known.pop("cfg_scale", 0.0) or 0.0,
        **known,
    }


def never(threshold: float | None) -> float | None:
    """A threshold that no probability is above is none."""
    return None if threshold is None or threshold > 1 else threshold


def llada2(known: Options) -> Options:
    assert not known.pop("temperature", 0.0)
    return {
        "policy": "low_confidence",
        "max_new_tokens": known.pop("gen_length"),
        "threshold": never(known.pop("threshold", 0.95)),
        **(
            {"editing_threshold": never(known.pop("editing_threshold", None))}
            if known["official_loop"] == "llada2.1"
            else {}
        ),
        **known,
    }


def rnd1(known: Options) -> Options:
    assert known.pop("greedy") is True
    return {
        "steps": known.pop("num_diffusion_steps"),
        "greedy_tokens": True,
        **known,
    }


def sdar(known: Options) -> Options:
    assert not known.pop("temperature", 0.0)
    stops = known.pop("stopping_criteria_idx", None)
    return {
        "policy": known.pop("remasking_strategy"),
        "max_new_tokens": known.pop("gen_length"),
        "steps": known.pop("denoising_steps"),
        "threshold": never(known.pop("confidence_threshold", None)),
        "eos_early_stop": stops is not None,
        **known,
    }


READERS: dict[str, Callable[[Options], Options]] = {
    "dream": dream, "llada": llada, "llada2": llada2, "rnd1": rnd1, "sdar": sdar,
}  # fmt: skip
