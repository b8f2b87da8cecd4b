"""Which model a run starts from. Light: it is read before anything heavy is imported."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tabom.core.configs import Count, NonNegative, Settings, expand_home
from tabom.core.errors import ConfigError
from tabom.core.identity import FOLDER, FREE
from tabom.models.family import Dtype, Quantization

if TYPE_CHECKING:
    from tabom.models.contract import MaskedDiffusionModel

Attention = Literal["sdpa", "eager", "flash_attention_2"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The base model."""

    model_name_or_path: str = field(metadata=FOLDER)
    """A local folder, a hub id, or an embedded model ("toy-base")."""
    adapter: str | None = field(default=None, metadata=FOLDER)
    """A LoRA adapter folder that is part of the base."""
    dtype: Dtype = "auto"
    """Of the weights; auto: bfloat16 on CUDA, else float32."""
    quantization: Quantization | None = None
    """Keep the layers' matrices in 4 (nf4) or 8 bits (int8), through bitsandbytes, for adapters to
    train on (QLoRA); null: in `dtype`."""
    attn_implementation: Attention = "sdpa"
    """The code that computes attention; flash_attention_2 needs its package."""
    device: str | None = field(default=None, metadata=FREE)
    """cuda, cpu, ...; found if null."""
    mask_token_id: int | None = None
    """Overrides the id found in the checkpoint."""
    allow_long_context: bool = field(default=False, metadata=FREE)
    """Let prompts and their slots go beyond the positions that config.json allows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # An empty path is the current folder to `pathlib`.
        if not self.model_name_or_path.strip():
            raise ConfigError("model_name_or_path is empty; name a folder or a hub id")
        if self.adapter is not None and not self.adapter.strip():
            raise ConfigError("adapter is empty; name a folder, or null for no adapter")
        expand_home(self, "model_name_or_path", "adapter")

    @property
    def options(self) -> dict[str, Any]:
        """How `load_model` is to load it, whatever is loaded."""
        names = ("dtype", "attn_implementation", "device", "mask_token_id")
        return {name: getattr(self, name) for name in names}

    def load(
        self,
        *,
        trained: Path | None = None,
        trainable: bool = False,
        require_tokenizer: bool = True,
    ) -> "MaskedDiffusionModel":
        """The model, with what a training wrote on top: an adapter, or a whole model instead.

        An adapter of the base itself is merged into it, so that the trained one can go on top; then
        the weights are quantized, if they are to be.
        trained: the folder of a finished training; None: the base alone.
        trainable: let its adapter train on.
        """
        from tabom.models.adapters import load_adapter, merge_adapter
        from tabom.models.loading import load_model, pick_device, pick_dtype
        from tabom.models.quantization import quantize, require_quantization

        options = self.options | {"require_tokenizer": require_tokenizer}
        if self.quantization is not None:
            place = pick_device(self.device)
            require_quantization(self.quantization, place)
            # The device never holds the weights in their own dtype, which is chosen by it.
            dtype = str(pick_dtype(self.dtype, place)).removeprefix("torch.")
            options |= {"device": "cpu", "dtype": dtype}
        is_whole = trained is not None and not (trained / "adapter_config.json").is_file()
        name = str(trained) if is_whole else self.model_name_or_path
        adapter = None if is_whole else self.adapter
        model = load_model(name, adapter=adapter, **options)
        if adapter is not None:
            merge_adapter(model)
        if self.quantization is not None:
            quantize(model, self.quantization, place)
        if trained is not None and not is_whole:
            load_adapter(model, trained, trainable=trainable)
        model.allows_long_context = self.allow_long_context
        return model


@dataclass(frozen=True, kw_only=True)
class RandomSizes(Settings):
    """The sizes of a random model, for tests, dry runs and timing."""

    vocab_size: Count | None = None
    """Tokens in the vocabulary; if left out, those of the family or of the tokenizer."""
    hidden_size: Count = 64
    """Width of the hidden states."""
    intermediate_size: Count = 128
    """Width inside the feed-forward layers."""
    num_layers: Count = 2
    """Number of layers."""
    num_heads: Count = 4
    """Attention heads."""
    num_kv_heads: Count = 2
    """Heads of keys and values."""
    initializer_range: NonNegative = 0.02
    """Deviation of the weights: 0.02 is as published, 0.25 gives distinct, peaked predictions."""
