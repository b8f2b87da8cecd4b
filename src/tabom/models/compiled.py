"""Regional compilation: decoder layers, which share one graph, and nothing around them."""

from typing import Any

from torch import nn

from tabom.core.errors import ModelError
from tabom.models.contract import MaskedDiffusionModel

# Graphs that torch keeps before it runs a function as it is written (its default is 8). Layers
# share them, but a mask, one row, one column and each mode of autograd need their own.
MAX_GRAPHS = 32


def compile_layers(model: MaskedDiffusionModel, *, backend: str = "inductor") -> None:
    """Compile each decoder layer in place; names of parameters and results (to rounding) stay.

    Call it after an adapter is attached or merged. Compilation happens in the first calls and
    takes seconds to minutes; lengths are symbolic from the start, so that batches of other lengths
    use the same graphs. Calls with a cache run as they are written.

    backend: of `torch.compile`; "inductor" writes C++ or Triton code.
    Raises: `ModelError` where the model has no list of decoder layers, or where inductor finds no
        C++ compiler (CPU) or no Triton (CUDA).
    Source: "regional compilation" of the PyTorch recipes, `torch.nn.Module.compile`.
    """
    layers = getattr(getattr(model.base_lm, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"{model.name_or_path}: {type(model.base_lm).__name__} has no decoder layers in "
            "`model.layers` to compile; switch compilation off"
        )
    if backend == "inductor":
        _require_compiler(model.device.type)
    import torch._dynamo

    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, MAX_GRAPHS)
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)
    model.has_compiled_layers = True


def _require_compiler(device: str) -> None:
    if device == "cpu":
        from torch._inductor import config
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ModelError(
                f"torch.compile finds no C++ compiler (looked for {config.cpp.cxx}); install g++ "
                "or name one in the variable CXX, or switch compilation off"
            ) from error
        return
    from torch.utils._triton import has_triton

    if not has_triton():
        raise ModelError(
            f"torch.compile on {device} needs Triton, which is not there or does not know the "
            "device; install triton, or switch compilation off"
        )
