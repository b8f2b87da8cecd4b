"""A base and its adapter as one checkpoint, checked against the two it was made of.

Legend: B rows, S positions, V vocabulary.
"""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from tabom.core.errors import ModelError
from tabom.models.adapters import merge_adapter, save_adapter
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.folders import resolve_folder
from tabom.models.loading import load_model, save_model
from tabom.models.tensors import stored_dtype

# Largest difference of a logit, relative to the largest logit, that rounding explains.
RELATIVE = {"float64": 1e-9, "float32": 1e-4, "float16": 0.02, "bfloat16": 0.05}
NUM_ROWS, NUM_TOKENS = 2, 32


@dataclass(frozen=True, kw_only=True)
class MergeCheck:
    """Largest absolute differences of logits, over a few rows of tokens and masks.

    difference: the written checkpoint against base plus adapter. tolerance: what was allowed.
    effect: base plus adapter against the base alone.
    """

    difference: float
    tolerance: float
    effect: float


def merge_checkpoint(
    model_name_or_path: str,
    adapter: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    mask_token_id: int | None = None,
    tolerance: float | None = None,
) -> MergeCheck:
    """Write base plus adapter as one checkpoint in the published layout, and check it.

    dtype: of the weights; None: that of the base's tensors, whatever its config.json says.
    tolerance: largest difference of a logit; None: what rounding in this dtype explains.
    Raises: `ModelError` if the output exists, if the adapter does not fit, or if the checkpoint,
        loaded again, differs from base plus adapter by more than the tolerance or by as much as
        the base does; then nothing is left behind.
    """
    output = Path(output)
    _require_new(output)
    if dtype is None:
        dtype = str(stored_dtype(resolve_folder(model_name_or_path))).removeprefix("torch.")
    options = {"dtype": dtype, "device": device, "mask_token_id": mask_token_id}
    options["require_tokenizer"] = False
    model = load_model(model_name_or_path, adapter=adapter, **options)  # type: ignore[arg-type]
    wanted_BSV = _logits(model)
    with model.lm.disable_adapter():  # type: ignore[operator]
        base_BSV = _logits(model)
    merge_adapter(model)
    partial = output.parent / f".{output.name}.{uuid.uuid4().hex}.tmp"
    try:
        save_model(model, partial)
        del model
        written_BSV = _logits(load_model(partial, **options))  # type: ignore[arg-type]
        greatest = float(wanted_BSV.abs().max())
        check = MergeCheck(
            difference=float((written_BSV - wanted_BSV).abs().max()),
            tolerance=RELATIVE[dtype] * greatest if tolerance is None else tolerance,
            effect=float((base_BSV - wanted_BSV).abs().max()),
        )
        _require_equal(check, dtype)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return check


def export_adapter(
    model_name_or_path: str,
    adapter: str | Path,
    output: str | Path,
    *,
    mask_token_id: int | None = None,
) -> None:
    """Write an adapter under the names of its family's published code.

    Raises: `ModelError` if the output exists or the adapter does not fit the model.
    """
    _require_new(Path(output))
    model = load_model(
        model_name_or_path,
        adapter=adapter,
        mask_token_id=mask_token_id,
        require_tokenizer=False,
        device="cpu",
    )
    save_adapter(model, output, official=True)


def _require_new(output: Path) -> None:
    if output.exists():
        raise ModelError(f"{output} exists; name a new folder, or remove it")


def _require_equal(check: MergeCheck, dtype: str) -> None:
    seen = (
        f"the merged checkpoint differs from base plus adapter by up to {check.difference:.3g} in "
        "a logit"
    )
    if not check.difference <= check.tolerance:  # written so that NaN fails
        raise ModelError(f"{seen}, allowed is {check.tolerance:.3g}; merge in float32, --dtype")
    if check.difference >= check.effect > 0:
        raise ModelError(
            f"{seen}, as much as the adapter changes at all ({check.effect:.3g}): rounding to "
            f"{dtype} loses it; merge in float32, --dtype float32"
        )


@torch.inference_mode()
def _logits(model: MaskedDiffusionModel) -> Tensor:
    """Float32 logits `[B, S, V]` on the CPU, of rows with some masks."""
    step = max(1, model.vocab_size // (2 * NUM_ROWS * NUM_TOKENS))
    ids = torch.arange(NUM_ROWS * NUM_TOKENS, device=model.device) * step % model.vocab_size
    ids_BS = ids.view(NUM_ROWS, NUM_TOKENS)
    ids_BS[:, NUM_TOKENS // 2 :: 2] = model.ids.mask
    return linear(model.hidden_states(ids_BS, None), model.head_weight_VD).float().cpu()
