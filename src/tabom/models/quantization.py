"""Body weights in four or eight bits, through bitsandbytes: the base of QLoRA.

The matrices of the layers are stored small and multiplied in the dtype of the model; embeddings,
norms and the head stay as they are. Source: Dettmers et al. 2023 (QLoRA), 2022 (LLM.int8).
"""

import logging
from typing import Any

import torch
from torch import nn

from tabom.core.errors import ConfigError, ModelError
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.devices import require_bitsandbytes
from tabom.models.family import Quantization


def require_quantization(kind: Quantization, device: torch.device) -> None:
    """Raises `ConfigError` if this cannot be done here."""
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(f"quantization {kind} needs CUDA (or, slowly, a CPU), not {device.type}")
    require_bitsandbytes(kind)


def quantize(model: MaskedDiffusionModel, kind: Quantization, device: torch.device) -> None:
    """Store the matrices of the layers in few bits, and put the model on `device`.

    In place, one matrix after the other, so that the device never holds the whole model in its
    own dtype. kind: "nf4" (four bits, scales quantized again) or "int8".
    Raises: `ConfigError` without bitsandbytes or on a device that it does not know; `ModelError`
        for an attached adapter, or experts that are stacked in one tensor.
    """
    require_quantization(kind, device)
    if model.lm is not model.base_lm:
        raise ModelError("an adapter is attached: merge it before the weights are quantized")
    body: Any = model.base_lm.model
    if any(parameter.dim() > 2 for parameter in body.parameters()):
        raise ModelError(
            f"family {model.family.name} stacks its experts in one tensor, which bitsandbytes does "
            "not take; leave quantization out"
        )
    # It says with every product that int8 ones are taken in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    dtype = model.head_weight_VD.dtype
    linears = [(name, m) for name, m in body.named_modules() if type(m) is nn.Linear]
    for name, linear in linears:
        parent, _, own = name.rpartition(".")
        small = _small(linear, kind, dtype).to(device).requires_grad_(False)
        setattr(body.get_submodule(parent), own, small)
    model.to(device).eval()


def _small(linear: nn.Linear, kind: Quantization, dtype: torch.dtype) -> nn.Module:
    """The same matrix for bitsandbytes, which stores it small when it is moved to a device."""
    import bitsandbytes as bnb

    shape, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
    made: nn.Module
    with torch.device("meta"):
        if kind == "nf4":
            made = bnb.nn.Linear4bit(*shape, has_bias, compute_dtype=dtype, quant_type="nf4")
            # Its packing for some CPUs rounds to bfloat16, and cannot be trained through.
            setattr(made, "support_avx512bf16_for_cpu", False)  # noqa: B010
        else:
            made = bnb.nn.Linear8bitLt(*shape, has_bias, has_fp16_weights=False)
    weight = linear.weight.detach().cpu()
    if kind == "nf4":
        made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=made)
    else:
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made


def is_quantized(lm: nn.Module) -> bool:
    """Whether a network holds weights in few bits."""
    return any(parameter.dtype in (torch.int8, torch.uint8) for parameter in lm.parameters())
