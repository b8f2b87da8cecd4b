"""The evaluation manifest: everything beside the weights that a score depends on.

One is kept for every evaluation set and pace; comparing two runs shows where they differ.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tabom.core import configs, env
from tabom.core.manifest import flatten
from tabom.decoding.config import DecodingConfig

if TYPE_CHECKING:
    from tabom.models.contract import MaskedDiffusionModel

EVALUATION = "evaluation.json"  # {set: {pace: manifest}} in an evaluation's folder
HELD_OUT = "held_out"  # its key of the held-out check, which says nothing of how it was evaluated


def evaluation_manifest(
    model: "MaskedDiffusionModel",
    decoding: DecodingConfig,
    *,
    batch_size: int,
    seed: int,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How one set is evaluated: plain values for JSON.

    facts: what identifies documents and judge, and further settings.
    """
    return {
        "decoding": configs.to_plain(decoding),
        "batch_size": batch_size,
        "seed": seed,
        "dtype": str(model.head_weight_VD.dtype).removeprefix("torch."),
        "attn_implementation": str(getattr(model.base_lm.config, "_attn_implementation", "?")),
        "mask_token_id": model.ids.mask,
        "end_ids": list(model.ids.eos),
        "device": _device(model),
        "versions": env.versions(),
        **configs.to_plain(dict(facts or {})),
    }


def _device(model: "MaskedDiffusionModel") -> str:
    if model.device.type != "cuda":
        return model.device.type
    gpus = env.hardware()["gpus"]
    return str(gpus[model.device.index or 0]) if gpus else "cuda"


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two manifests differ, dotted, each with both values (None: absent).

    The held-out check is left out: it is about the training, and a base has none.
    """
    one, two = (flatten({k: v for k, v in each.items() if k != HELD_OUT}) for each in (here, there))
    return {
        key: (one.get(key), two.get(key)) for key in {**one, **two} if one.get(key) != two.get(key)
    }
