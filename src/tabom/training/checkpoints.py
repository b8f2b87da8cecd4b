"""Weights on disk: an adapter the PEFT way, or the whole model; and where a run may go on.

A checkpoint is whole when its seal is there: a file, written last, with the hash of every other
one. One that a crash cut short has none, one that was damaged later does not fit its own; both are
passed over for the one before.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tabom.core.atomic import read_json, write_json
from tabom.core.errors import DataError, StageError
from tabom.core.manifest import FileFacts, check_file, describe_file
from tabom.models.adapters import WEIGHTS_FILE, save_adapter
from tabom.models.checkpoint import Checkpoint
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_lm, save_model

IDENTITY = "tabom_run.json"
METER = "tabom_meter.json"  # what was added up since the last log
SEAL = "tabom_files.json"
# ObjectiveStep -> MaskedDiffusionModel -> lm: what a gathered state dict has in front of its keys.
_PREFIX = "model.lm."

log = logging.getLogger(__name__)


def is_adapter(model: MaskedDiffusionModel) -> bool:
    """Whether the backbone is wrapped by PEFT."""
    return hasattr(model.lm, "peft_config")


def save_weights(
    model: MaskedDiffusionModel,
    folder: Path,
    *,
    state_dict: dict[str, Tensor] | None = None,
    raw: bool = False,
) -> None:
    """Write the adapter (PEFT's files) or the whole model with its tokenizer.

    raw: of an adapter that changed its base, as it is trained; see `save_adapter`.
    state_dict: gathered by FSDP, with the keys of ObjectiveStep; None: the model holds it all.
    """
    state = None
    if state_dict is not None:
        state = {k.removeprefix(_PREFIX): v for k, v in state_dict.items() if k.startswith(_PREFIX)}
    if is_adapter(model):
        save_adapter(model, folder, state=state, raw=raw)
    else:
        save_model(model, folder, state=state)


def load_weights(model: MaskedDiffusionModel, folder: Path) -> None:
    """Read back what `save_weights` wrote, every tensor of it.

    Raises: StageError or ModelError if the files do not hold exactly the weights of this model.
    """
    if not is_adapter(model):
        dtype = model.head_weight_VD.dtype
        saved = load_lm(Checkpoint.find(folder), dtype=dtype, attn_implementation="sdpa")
        model.base_lm.load_state_dict(saved.state_dict())
        return
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    lm: Any = model.lm
    found = load_file(folder / WEIGHTS_FILE)
    wanted = get_peft_model_state_dict(lm, save_embedding_layers=False)
    shapes, saved_shapes = ({k: v.shape for k, v in s.items()} for s in (wanted, found))
    if shapes != saved_shapes:
        raise StageError(
            f"checkpoint {folder} holds {len(found)} adapter tensors that are not the "
            f"{len(wanted)} of this model; remove it, or pass --resume never"
        )
    set_peft_model_state_dict(lm, found)


def seal(checkpoint: Path, *, keep: int | None) -> None:
    """Declare a checkpoint whole, then remove older ones.

    keep: how many of the newest whole checkpoints stay; None: all.
    """
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != SEAL)
    write_json(
        checkpoint / SEAL,
        {path.relative_to(checkpoint).as_posix(): describe_file(path) for path in files},
    )
    if keep is not None:
        for folder in numbered(checkpoint.parent)[keep:]:
            shutil.rmtree(folder)


def numbered(output_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, whole or not, the newest first."""
    folders = [f for f in output_dir.glob("checkpoint-*") if f.name[11:].isdecimal()]
    return sorted(folders, key=step_of, reverse=True)


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint. A damaged one is passed over with a warning."""
    for folder in numbered(output_dir):
        if not (folder / SEAL).is_file():  # a crash cut it short
            continue
        try:
            for name, expected in read_json(folder / SEAL).items():
                check_file(folder / name, FileFacts(**expected))
            return folder
        except (DataError, AttributeError, KeyError, TypeError) as error:
            log.warning("%s is damaged and passed over: %s", folder, error)
    return None


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step a checkpoint was written after; 0 for None."""
    return int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint is not None else 0


def remove_checkpoints(output_dir: Path) -> None:
    """Remove every checkpoint folder of an earlier run."""
    for folder in numbered(output_dir):
        shutil.rmtree(folder)


def check_identity(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Raises: StageError if the checkpoint was made with other settings, data or base model."""
    there = read_json(checkpoint / IDENTITY)["identity"]
    differing = [
        f"{key}: {there.get(key)!r} there, {identity.get(key)!r} here"
        for key in sorted({*there, *identity})
        if there.get(key) != identity.get(key)
    ]
    if differing:
        raise StageError(
            f"checkpoint {checkpoint} was made by another run ({'; '.join(differing)}); take "
            f"another output_dir, or pass --resume never to remove it and start over"
        )


def check_sharding(checkpoint: Path, *, is_fsdp: bool) -> None:
    """Raises: StageError for a checkpoint of FSDP without it, and the other way round.

    The Trainer would not find the optimiser's state, and start it anew without a word.
    """
    is_whole = (checkpoint / "optimizer.pt").is_file()
    if is_whole == is_fsdp:
        there, here = ("without FSDP", "with FSDP") if is_whole else ("with FSDP", "without")
        raise StageError(
            f"checkpoint {checkpoint} was made {there}, and this run is {here}; launch it as "
            f"before, or pass --resume never to remove the checkpoint and start over"
        )
