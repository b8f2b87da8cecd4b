"""LoRA adapters through PEFT: attach, save, load and merge, where a mismatch is never a no-op."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tabom.core.errors import ModelError
from tabom.core.keys import fold, text_key
from tabom.core.manifest import check_folder
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import Family
from tabom.models.folders import read_json
from tabom.models.tensors import difference, headers, shapes

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
FORBIDDEN = ("lm_head", "embed_tokens")


def attach_lora(
    model: MaskedDiffusionModel,
    *,
    r: int = 16,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: tuple[str, ...] = ("q_proj", "v_proj"),
    seed: int = 0,
) -> None:
    """Put a fresh adapter on `model` in place; afterwards only its parameters train.

    The defaults are those of the paper's released adapters.

    r: rank. alpha: the update is scaled by alpha / r. dropout: on the adapter's input.
    target_modules: last parts of module names, or ("all-linear",) for all but the head.
    seed: the initial A matrices are a function of seed and module name alone (B is zero), so they
        do not depend on the device, on other modules or on the global generator.
    Raises: `ModelError` if a target matches no module, is the head or the embedding, if PEFT does
        not take the settings, or if an adapter is already there.
    """
    from peft import LoraConfig

    _require_bare(model)
    has_all = target_modules == ("all-linear",)
    if not has_all:
        _check_targets(model, target_modules)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="all-linear" if has_all else list(target_modules),
        base_model_name_or_path=model.name_or_path,
    )
    model.lm = _wrap(model, config)
    for name, parameter in model.lm.named_parameters():
        if ".lora_A." in name:
            high, low = fold(seed, text_key(name))
            generator = torch.Generator().manual_seed(high << 32 | low)
            bound = parameter.shape[1] ** -0.5  # PEFT's kaiming_uniform with a = sqrt(5)
            draw = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                parameter.copy_(draw)


def save_adapter(
    model: MaskedDiffusionModel,
    folder: str | Path,
    *,
    official: bool = False,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` the PEFT way.

    official: under the names of the family's published code, for use with that code. (They load
        here as well.)
    state: the weights under the names of `model.lm`, where they were gathered from several
        processes; None: `model.lm` holds them.
    Raises: `ModelError` if no adapter is attached.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    if model.lm is model.base_lm:
        raise ModelError("there is no adapter to save: attach_lora or load_adapter comes first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lm: Any = model.lm
    found = get_peft_model_state_dict(lm, state_dict=state, save_embedding_layers=False)
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    config = lm.peft_config[lm.active_adapter].to_dict()
    config.update(base_model_name_or_path=model.name_or_path, inference_mode=True)
    if official:
        found = {model.family.rename(key, to_published=True): v for key, v in found.items()}
        config["target_modules"] = _published_targets(model.family, found)
        config["task_type"] = model.family.adapter_task_type
    save_file(found, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True, default=_as_json)
    (folder / CONFIG_FILE).write_text(text + "\n")


def load_adapter(
    model: MaskedDiffusionModel, folder: str | Path, *, trainable: bool = False
) -> None:
    """Put a saved LoRA adapter on `model` in place.

    trainable: let its parameters train; the base stays frozen in both cases.
    Raises: `ModelError` if a file is missing, if the adapter is no LoRA or touches the head or
        embedding, or if any tensor of the file finds no place or does not fit; `DataError` if a
        file changed since a training of ours wrote it. The model is then left as it was.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _require_bare(model)
    folder = Path(folder)
    check_folder(folder)
    family = model.family
    config = _read_config(folder)
    if not isinstance(config.target_modules, str):
        config.target_modules = {_our_target(family, name) for name in config.target_modules}
    stored = {family.rename(n): tensor for n, tensor in headers(folder / WEIGHTS_FILE).items()}
    config.base_model_name_or_path = model.name_or_path
    config.inference_mode = not trainable
    wrapped = _wrap(model, config, where=f"adapter {folder}")
    slots = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    problem = difference(shapes(stored), shapes(slots))
    if problem:
        wrapped.unload()
        raise ModelError(
            f"adapter {folder} does not fit {model.name_or_path} ({problem}); it belongs to a "
            "model of another architecture or size"
        )
    set_peft_model_state_dict(wrapped, {name: tensor.read() for name, tensor in stored.items()})
    model.lm = wrapped


def merge_adapter(model: MaskedDiffusionModel) -> None:
    """Add the adapter to the weights in place; what remains is a bare model, free to train.

    Raises: `ModelError` if no adapter is attached, or if a merged weight is not finite.
    """
    if model.lm is model.base_lm:
        raise ModelError("there is no adapter to merge: load_adapter comes first")
    lm: Any = model.lm
    try:
        model.lm = lm.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(f"the adapter does not merge: {error}") from error
    model.lm.requires_grad_(True)


def _require_bare(model: MaskedDiffusionModel) -> None:
    if model.lm is not model.base_lm:
        raise ModelError(f"{model.name_or_path} already carries an adapter; load the base again")


def _wrap(model: MaskedDiffusionModel, config: Any, *, where: str = "LoRA") -> Any:
    from peft import get_peft_model

    was_training = model.training
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    # PEFT takes the base's name from here, and warns if the adapter's configuration has another.
    model.lm.name_or_path = model.name_or_path  # type: ignore[assignment]
    # PEFT draws from the global generator, and asks transformers under a deprecated name.
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        try:
            wrapped = get_peft_model(model.lm, config)
        except (TypeError, ValueError) as error:  # PEFT checks no types
            raise ModelError(f"{where} does not fit {model.name_or_path}: {error}") from error
    wrapped.train(was_training)
    adapted = [name for name, _ in wrapped.named_parameters() if ".lora_A." in name]
    for name in FORBIDDEN:
        if any(f".{name}." in key for key in adapted):
            wrapped.unload()
            raise ModelError(f"{where} adapts {name}: {_WHY_NOT_HEAD}")
    return wrapped


_WHY_NOT_HEAD = (
    "losses and decoding read the head's and the embedding's weight directly and would pass the "
    "adapter by; leave lm_head and embed_tokens out of the target modules"
)


def _check_targets(model: MaskedDiffusionModel, targets: tuple[str, ...]) -> None:
    modules = model.base_lm.named_modules()
    linear = [f".{name}" for name, module in modules if isinstance(module, nn.Linear)]
    known = sorted({name.rpartition(".")[2] for name in linear} - set(FORBIDDEN))
    for target in targets:
        is_there = any(name.endswith(f".{target}") for name in linear)
        if not is_there or target.rpartition(".")[2] in FORBIDDEN:
            raise ModelError(
                f"LoRA target {target!r} matches no linear module of {model.name_or_path} that may "
                f"have an adapter; take some of {', '.join(known)} ({_WHY_NOT_HEAD})"
            )


def _read_config(folder: Path) -> Any:
    from peft import LoraConfig

    fields = read_json(folder / CONFIG_FILE)
    if not fields:
        raise ModelError(
            f"adapter folder {folder} has no {CONFIG_FILE}; pass a PEFT adapter folder"
        )
    if fields.get("peft_type") != "LORA":
        raise ModelError(f"adapter {folder} is a {fields.get('peft_type')!r}; only LORA is known")
    if fields.get("modules_to_save"):
        raise ModelError(
            f"adapter {folder} saves whole modules {fields['modules_to_save']}; only LoRA "
            "matrices are supported"
        )
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG_FILE} is not a LoRA config: {error}") from error
    return replace(config, task_type=None)  # a task type would only add generation hooks


def _our_target(family: Family, target: str) -> str:
    """A target module of the published code ("attn_out", "blocks.3.ff_out") by our name."""
    for published, ours in family.tensor_names.items():
        inside = published.partition(".N.")[2]
        if inside and f".{target}".endswith(f".{inside}"):
            layer = re.search(r"\.(\d+)\.", f".{target.removesuffix(inside)}")
            # Alone, the name of a module is enough for PEFT; with its layer, so is ours.
            name = ours.partition(".N.")[2]
            return f"layers.{layer[1]}.{name}" if layer else name.rpartition(".")[2]
    return target


def _published_targets(family: Family, state: dict[str, Tensor]) -> list[str]:
    """The modules of a state in published names, as target modules.

    The last part of a name where that names no module outside the layers, else the layer with it:
    LLaDA's head is called `ff_out`, like a module of every layer.
    """
    outside = {n.rpartition(".")[2] for n in family.tensor_names if ".N." not in n}
    paths = {key.partition(".lora_")[0] for key in state}
    names = {path: path.rpartition(".")[2] for path in paths}
    return sorted(
        {".".join(p.split(".")[-3:]) if name in outside else name for p, name in names.items()}
    )


def _as_json(value: Any) -> Any:
    # PEFT keeps names in sets, whose order changes from process to process.
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
