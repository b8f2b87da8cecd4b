"""LoRA adapters through PEFT: attach, save, load and merge, where a mismatch is never a no-op."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tabom.core.errors import ModelError
from tabom.core.keys import fold, text_key
from tabom.core.manifest import check_folder
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.family import ADAPTER_PREFIX, Family, swap_name
from tabom.models.folders import read_json
from tabom.models.quantization import is_quantized
from tabom.models.tensors import Stored, difference, headers, shapes

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
FORBIDDEN = ("lm_head", "embed_tokens")
FROM_WEIGHTS = ("pissa", "olora")  # adapters that begin as a part of the weights


@dataclass(frozen=True, kw_only=True)
class LoraVariant:
    """How an adapter differs from plain LoRA.

    use_rslora: scaled by alpha / sqrt(r). use_dora: directions and lengths are trained apart.
    init: "default", or one of PEFT's that leaves B zero ("gaussian") or takes A and B out of the
        weights ("pissa", "olora"): these change the base, and what is saved is a plain LoRA of
        twice the rank for the base as it was.
    alpha_pattern, rank_pattern: module name -> value.
    """

    use_rslora: bool = False
    use_dora: bool = False
    init: str = "default"
    alpha_pattern: Mapping[str, int] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)


def attach_lora(
    model: MaskedDiffusionModel,
    *,
    r: int = 16,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: tuple[str, ...] = ("q_proj", "v_proj"),
    seed: int = 0,
    variant: LoraVariant = LoraVariant(),
) -> None:
    """Put a fresh adapter on `model` in place; afterwards only its parameters train.

    The defaults are those of the paper's released adapters.

    r: rank. alpha: the update is scaled by alpha / r. dropout: on the adapter's input.
    target_modules: last parts of module names, or ("all-linear",) for all but the head. Routers
        and routed experts are no matrices of their own and never have one.
    seed: the initial A matrices are a function of seed and module name alone (B is zero), so they
        do not depend on the device, on other modules or on the global generator.
    variant: of LoRA, and values of some modules.
    Raises: `ModelError` if a target matches no module, is the head or the embedding, if PEFT does
        not take the settings, or if an adapter is already there.
    """
    from peft import LoraConfig

    _require_bare(model)
    if target_modules == ("all-linear",):
        # PEFT's own would put adapters on stacked experts as well.
        target_modules = tuple(_linear_names(model))
    else:
        _check_targets(model, target_modules)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=list(target_modules),
        base_model_name_or_path=model.name_or_path,
        use_rslora=variant.use_rslora,
        use_dora=variant.use_dora,
        init_lora_weights=True if variant.init == "default" else variant.init,  # type: ignore[arg-type]
        alpha_pattern=dict(variant.alpha_pattern),
        rank_pattern=dict(variant.rank_pattern),
    )
    model.lm = _wrap(model, config)
    if variant.init in FROM_WEIGHTS:
        lora = (".lora_A.", ".lora_B.")
        parameters = model.lm.named_parameters()
        model.lm.initial_lora = {  # type: ignore[assignment]
            _stored(n): p.detach().clone() for n, p in parameters if any(x in n for x in lora)
        }
    for name, parameter in model.lm.named_parameters():
        if ".lora_A." in name and variant.init not in FROM_WEIGHTS:
            high, low = fold(seed, text_key(name))
            generator = torch.Generator().manual_seed(high << 32 | low)
            bound = parameter.shape[1] ** -0.5  # PEFT's kaiming_uniform with a = sqrt(5)
            draw = torch.empty(parameter.shape)
            if variant.init == "default":
                draw.uniform_(-bound, bound, generator=generator)
            else:
                draw.normal_(std=1 / len(draw), generator=generator)  # PEFT's, by the rank
            with torch.no_grad():
                parameter.copy_(draw)


def save_adapter(
    model: MaskedDiffusionModel,
    folder: str | Path,
    *,
    official: bool = False,
    state: Mapping[str, Tensor] | None = None,
    raw: bool = False,
) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json` the PEFT way.

    official: under the names of the family's published code, for use with that code. (They load
        here as well.)
    state: the weights under the names of `model.lm`, where they were gathered from several
        processes; None: `model.lm` holds them.
    raw: an adapter that changed its base ("pissa", "olora") as it is trained, for going on, and
        not as a plain one.
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
    initial = getattr(lm, "initial_lora", None)
    if initial is not None and not raw:
        found = _less(found, initial)
        config["init_lora_weights"] = True
        # The same scale on twice the rank: alpha / r, or alpha / sqrt(r).
        factor = 2**0.5 if config["use_rslora"] else 2
        config["r"], config["lora_alpha"] = 2 * config["r"], factor * config["lora_alpha"]
        config["rank_pattern"] = {k: 2 * v for k, v in config["rank_pattern"].items()}
        config["alpha_pattern"] = {k: factor * v for k, v in config["alpha_pattern"].items()}
    if official:
        found = _fused(model, found, config)
        found = {model.family.rename(key, to_published=True): v for key, v in found.items()}
        config["target_modules"] = _published_targets(model.family, found)
        config["task_type"] = model.family.adapter_task_type
    save_file(found, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True, default=_as_json)
    (folder / CONFIG_FILE).write_text(text + "\n")


def _stored(name: str) -> str:
    """A parameter's name as an adapter's file has it."""
    return name.replace(".default.", ".")


def _less(found: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B A - B0 A0 as one product of twice the rank."""
    result = {}
    for name, tensor in found.items():
        first = initial[name].to(tensor)
        if ".lora_A." in name:
            result[name] = torch.cat([tensor, first], dim=0)
        else:
            result[name] = torch.cat([tensor, -first], dim=1)
    return result


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
        targets = config.target_modules
        config.target_modules = {t for name in targets for t in _our_targets(family, name)}
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = getattr(config, name).items()
        setattr(config, name, {t: v for key, v in pattern for t in _our_targets(family, key)})
    stored = {family.rename(n): tensor for n, tensor in headers(folder / WEIGHTS_FILE).items()}
    stored = _split(model, stored)
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

    Raises: `ModelError` if no adapter is attached, if a merged weight is not finite, or if the
        weights are quantized: what an adapter adds is less than their rounding.
    """
    if model.lm is model.base_lm:
        raise ModelError("there is no adapter to merge: load_adapter comes first")
    if is_quantized(model.base_lm):
        raise ModelError("the weights are quantized: load the base without, and merge into that")
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


def _linear_names(model: MaskedDiffusionModel) -> list[str]:
    """The last parts of the names of the matrices that may have an adapter."""
    modules = model.base_lm.named_modules()
    linear = {name.rpartition(".")[2] for name, m in modules if isinstance(m, nn.Linear)}
    return sorted(linear - set(FORBIDDEN))


def _check_targets(model: MaskedDiffusionModel, targets: tuple[str, ...]) -> None:
    modules = model.base_lm.named_modules()
    linear = [f".{name}" for name, module in modules if isinstance(module, nn.Linear)]
    for target in targets:
        is_there = any(name.endswith(f".{target}") for name in linear)
        if not is_there or target.rpartition(".")[2] in FORBIDDEN:
            raise ModelError(
                f"LoRA target {target!r} matches no linear module of {model.name_or_path} that may "
                f"have an adapter; take some of {', '.join(_linear_names(model))} "
                f"({_WHY_NOT_HEAD}; routers and routed experts are no plain matrices and have none "
                "either)"
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


def _our_targets(family: Family, target: str) -> list[str]:
    """A target module of the published code ("attn_out", "blocks.3.ff_out") by our names."""
    ours: list[tuple[str, tuple[str, ...]]] = [(k, (v,)) for k, v in family.tensor_names.items()]
    for published, names in [*ours, *family.fused.items()]:
        inside = published.partition(".N.")[2]
        # Targets are also named by the last part alone.
        is_named = f".{target}".endswith(f".{inside}") or target == inside.rpartition(".")[2]
        if inside and is_named:
            layer = re.search(r"\.(\d+)\.", f".{target.removesuffix(inside)}")
            # Alone, the name of a module is enough for PEFT; with its layer, so is ours.
            found = [name.partition(".N.")[2] for name in names]
            return [f"layers.{layer[1]}.{n}" if layer else n.rpartition(".")[2] for n in found]
    return [target]


def _split(model: MaskedDiffusionModel, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """An adapter of a fused matrix as adapters of the matrices in it, exactly.

    They share its A; whatever else it has (B, a bias, DoRA's magnitudes) has a row for each output,
    and theirs are their own.
    """
    heights = {n.removesuffix(".weight"): len(p) for n, p in model.lm.named_parameters()}
    found: dict[str, Stored] = {}
    for key, tensor in stored.items():
        name, mark, rest = key.removeprefix(ADAPTER_PREFIX).partition(".lora_")
        parts = [
            part
            for published, ours in model.family.fused.items()
            for one in ours
            if (part := swap_name(name, published, one)) is not None
        ]
        first_row = 0
        for part in parts:
            height, is_shared = heights.get(part, 0), rest.startswith("A.")
            shape = (height, *tensor.shape[1:])
            mine = tensor if is_shared else replace(tensor, shape=shape, first_row=first_row)
            found[f"{ADAPTER_PREFIX}{part}{mark}{rest}"] = mine
            first_row += height
        if parts and not rest.startswith("A.") and first_row != tensor.shape[0]:
            raise ModelError(
                f"{tensor.path}: {tensor.name} has {tensor.shape[0]} rows, and {', '.join(parts)} "
                f"have {first_row} in all; the adapter belongs to a model of another size"
            )
        if not parts:
            found[key] = tensor
    return found


def _fused(
    model: MaskedDiffusionModel, state: dict[str, Tensor], config: dict[str, Any]
) -> dict[str, Tensor]:
    """Adapters of matrices that are published as one, as adapters of that one, exactly.

    Where their A differ, the A lie below one another and each B stands in columns of its own: an
    adapter of the sum of the ranks, which `config` is told. Other tensors stay as they are.
    Raises: `ModelError` for kinds of LoRA that have no such form.
    """
    heights = {n: p.shape[0] for n, p in model.base_lm.named_parameters()}
    heights = {n.replace(".base_layer", "").removesuffix(".weight"): h for n, h in heights.items()}
    fused: dict[str, dict[int, str]] = {}  # published module -> which of its parts have adapters
    for key in state:
        module, _, rest = key.removeprefix(ADAPTER_PREFIX).partition(".lora_")
        if (place := model.family.fused_into(module)) is not None:
            fused.setdefault(place[0], {})[place[1]] = module
            if not rest.startswith(("A.weight", "B.weight")) or config.get("rank_pattern"):
                raise ModelError(
                    f"{key}: only plain LoRA of one rank has a form for the published code, which "
                    "holds these matrices as one; merge the adapter instead"
                )
    found = dict(state)
    for published, modules in fused.items():
        names = [
            name
            for pattern, ours in model.family.fused.items()
            for one in ours
            if (name := swap_name(published, pattern, one)) is not None
        ]
        a, b = (
            {i: found.pop(f"{ADAPTER_PREFIX}{name}.lora_{x}.weight") for i, name in modules.items()}
            for x in "AB"
        )
        first = next(iter(a.values()))
        is_one = len(a) == len(names) and all(torch.equal(first, other) for other in a.values())
        rank, times = len(first), 1 if is_one else len(a)
        rows, column = [], 0
        for i, name in enumerate(names):
            block = first.new_zeros(heights[name], rank * times)
            if i in b:
                block[:, column : column + rank] = b[i]
                column += 0 if is_one else rank
            rows.append(block)
        stem = f"{ADAPTER_PREFIX}{published}"
        found[f"{stem}.lora_A.weight"] = first if is_one else torch.cat([a[i] for i in sorted(a)])
        found[f"{stem}.lora_B.weight"] = torch.cat(rows)
        if times > 1:
            module = published.rpartition(".")[2]
            scale = times**0.5 if config.get("use_rslora") else times
            config["rank_pattern"] = {module: rank * times}
            config["alpha_pattern"] = {module: config["lora_alpha"] * scale}
    return found


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
