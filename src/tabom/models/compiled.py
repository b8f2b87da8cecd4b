"""Regional compilation: decoder layers, which share one graph, and nothing around them."""

from typing import Any

import torch
from torch import nn

from tabom.core.errors import ModelError
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.folders import one_line

# Graphs that torch keeps before it runs a function as it is written (its default is 8). Layers
# share them, but a mask, one row, one column and each mode of autograd need their own.
MAX_GRAPHS = 32


def compile_layers(model: MaskedDiffusionModel, *, backend: str = "inductor") -> None:
    """Compile each decoder layer in place; names of parameters and results (to rounding) stay.

    Call it after an adapter is attached or merged. Compilation happens in the first calls and
    takes seconds to minutes; lengths are symbolic from the start, so that batches of other lengths
    use the same graphs. Calls with a cache run as they are written.

    backend: of `torch.compile`; "inductor" writes C++ or Triton code.
    Raises: `ModelError` where the model has no list of decoder layers, or where inductor cannot
        compile: without a C++ compiler (CPU) or Triton (CUDA).
    Source: "regional compilation" of the PyTorch recipes, `torch.nn.Module.compile`.
    """
    layers = getattr(getattr(model.base_lm, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"{model.name_or_path}: {type(model.base_lm).__name__} has no decoder layers in "
            "`model.layers` to compile; switch compilation off"
        )
    if backend == "inductor":
        _require_compiler(model.device)
    import torch._dynamo

    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MAX_GRAPHS)
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)
    model.has_compiled_layers = True


def _require_compiler(device: torch.device) -> None:
    """Compile a sum: a compiler that is not there is better found now than in the first call."""
    try:
        torch.compile(torch.add)(torch.ones(1, device=device), 1)
    except Exception as error:  # dynamo wraps what inductor raises
        raise ModelError(
            f"torch.compile cannot be used on {device}: {one_line(error)}; install what it needs "
            "(a C++ compiler for a CPU, Triton for CUDA), or switch compilation off"
        ) from error
