"""Checkpoint folder -> model, and back. Only explicit classes: code in a checkpoint never runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.core.manifest import check_folder
from tabom.models.adapters import load_adapter
from tabom.models.checkpoint import Checkpoint
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import Dtype, Family
from tabom.models.folders import one_line
from tabom.models.probes import require_probes
from tabom.models.tensors import check_tensors, fill, stored_tensors


def load_model(
    model_name_or_path: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    device: str | torch.device | None = None,
    mask_token_id: int | None = None,
    require_tokenizer: bool = True,
) -> MaskedDiffusionModel:
    """Load a checkpoint in its published layout, check that all of it arrived, and probe it.

    model_name_or_path: "toy-base" (it comes with the package), a folder, or a hub id.
    adapter: a PEFT adapter folder to put on it (frozen).
    dtype: "float32", "bfloat16", ..., or "auto": bfloat16 on CUDA, float32 elsewhere.
    device: default: CUDA if there is one.
    mask_token_id: overrides what config and tokenizer say.
    require_tokenizer: False lets a folder without tokenizer files load with `tokenizer=None`.
    Returns: the model in eval mode.
    Raises: `ModelError` for a missing folder, an unknown family, tensors that are missing, left
        over or of another shape, or ids that do not fit; its kind `ProbeError` for a failed probe;
        `DataError` for a file that changed since a training of ours wrote it.
    """
    checkpoint = Checkpoint.find(model_name_or_path)
    check_folder(checkpoint.folder)
    # Small files come first, so that what is wrong with them is told before the weights load.
    tokenizer = checkpoint.tokenizer(is_required=require_tokenizer)
    place = pick_device(device)
    lm = load_lm(
        checkpoint,
        dtype=pick_dtype(dtype, place),
        attn_implementation=attn_implementation,
        device=place,
    )
    vocab_size = lm.get_output_embeddings().weight.shape[0]
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ModelError(
            f"{checkpoint.folder}: the tokenizer has {len(tokenizer)} tokens, the embedding only "
            f"{vocab_size} rows; take the tokenizer that belongs to this checkpoint"
        )
    model = MaskedDiffusionModel(
        lm,
        family=checkpoint.family,
        ids=checkpoint.ids(mask_token_id=mask_token_id),
        tokenizer=tokenizer,
        name_or_path=str(model_name_or_path),
    )
    if adapter is not None:
        load_adapter(model, adapter)
    model.to(place).eval()
    require_probes(model)
    return model


def save_model(
    model: MaskedDiffusionModel, folder: str | Path, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write all weights, config and tokenizer in the family's published layout.

    The folder loads again with `load_model`. state: the weights under the names of `model.lm`,
    where they were gathered from several processes; None: `model.lm` holds them. A LoRA adapter
    must be merged or saved on its own first: Raises `ModelError` if one is attached.
    """
    if model.lm is not model.base_lm:
        raise ModelError("an adapter is attached: save it with save_adapter, or merge it first")
    write_checkpoint(model.lm, model.family, folder, state=state)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def write_checkpoint(
    lm: Any, family: Family, folder: str | Path, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """The weights (or `state`) and the published config.json of a bare `family.lm_class`."""
    folder = Path(folder)
    state = lm.state_dict() if state is None else state
    if lm.config.tie_word_embeddings:
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    # Renamed here: transformers maps names back only for a model that it mapped while loading. A
    # part of a larger tensor is copied, since no two tensors of a file may share their memory.
    published_state = {
        name: torch.cat(parts) if len(parts) > 1 or parts[0]._is_view() else parts[0]
        for name, parts in family.parts(state).items()
    }
    with quiet_transformers():
        lm.save_pretrained(folder, state_dict=published_state, save_original_format=False)
    (folder / "generation_config.json").unlink(missing_ok=True)  # describes another decoder
    published = family.to_published_config(lm.config)
    published.pop("dtype", None)  # the name of newer versions; the published code knows the older
    published["torch_dtype"] = str(lm.get_output_embeddings().weight.dtype).removeprefix("torch.")
    text = json.dumps(published, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n")


def pick_device(device: str | torch.device | None) -> torch.device:
    """The torch device of a flag; None is CUDA if there is one, else the CPU."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if place.type == "meta":
            raise ModelError("device 'meta' holds no numbers; take cpu or cuda")
        # A device that is named well may still not be there; only using it tells.
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {str(device)!r} is not there ({one_line(error)}); take cpu or cuda"
        ) from error
    return place


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a flag; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in get_args(Dtype):
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(get_args(Dtype))}")
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def load_lm(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    attn_implementation: str,
    device: torch.device | None = None,
) -> Any:
    """The transformers model with every tensor of the folder in it, or a `ModelError`.

    `dtype` is applied while loading: a later `.to(bfloat16)` would also round the rotary table.
    device: where the weights are put; None: the CPU.
    """
    folder, family = checkpoint.folder, checkpoint.family
    config, network = checkpoint.network_config(), family.network()
    stored = stored_tensors(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds a model and an adapter (adapter_config.json); move the adapter to a "
            "folder of its own and pass it as the adapter"
        )
    try:
        with quiet_transformers(), torch.device("meta"):
            lm = network._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
    except ImportError as error:  # of a package that the attention needs
        raise ModelError(
            f"attn_implementation {attn_implementation!r} cannot be used here: {one_line(error)}; "
            "install what it needs, or take sdpa"
        ) from error
    except Exception as error:  # many kinds: transformers raises what it likes
        raise ModelError(
            f"{folder}: config.json does not describe a network: {one_line(error)}; it may be "
            "that of another checkpoint"
        ) from error
    # It is no weight, so no file fills it.
    lm.model.rotary_emb = type(lm.model.rotary_emb)(config=lm.config)
    problem = check_tensors(lm, stored, family=family)
    if problem:
        raise ModelError(
            f"{folder}: the tensors are not those of family {family.name} ({problem}); the "
            "checkpoint is incomplete or of another architecture"
        )
    fill(lm, stored, family=family, device=device or torch.device("cpu"))
    lm.config.is_causal = False
    return lm.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no loading report: what matters in them is an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
