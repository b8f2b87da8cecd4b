"""The settings of one training run, under the names that TRL and transformers users know."""

import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tabom.core.configs import Bound, Count, NonNegative, Settings
from tabom.core.errors import ConfigError
from tabom.core.plain import to_plain

if TYPE_CHECKING:
    from transformers import TrainingArguments

Strategy = Literal["no", "steps", "epoch"]
# Those of transformers that need no evaluation to go by.
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip
LoraInit = Literal["default", "gaussian", "pissa", "olora"]
Resume = Literal["auto", "never"]
Rejected = Literal["leave_out", "advantage", "group"]  # what becomes of rejected trajectories
Whole = Annotated[int, Bound(">=", 0)]
Part = Annotated[float, Bound(">=", 0), Bound("<", 1)]

# Fields that change neither the weights nor what is written at the end: a run may go on with
# other values of them.
_FREE = frozenset(
    {
        "logging_steps", "save_strategy", "save_steps", "save_total_limit", "eval_strategy",
        "eval_steps", "eval_cuts", "per_device_eval_batch_size", "dataloader_num_workers",
        "report_to", "run_name", "run_group", "disable_tqdm", "use_cpu", "resume",
        "max_buffer_bytes", "torch_compile",
    }
)  # fmt: skip
# Fields that transformers has under the same name, but that are carried out here.
_OURS = frozenset({"torch_compile", "gradient_checkpointing", "group_by_length"})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """How a model is trained. Defaults are the paper's (its batch of 4 is per device)."""

    learning_rate: NonNegative = 2e-5
    """Peak learning rate of the optimiser."""
    per_device_train_batch_size: Count = 4
    """Responses in a micro-batch of one process. How a step is cut up does not change it."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches in an optimiser step."""
    num_train_epochs: float = 5.0
    """Passes over the data. A last batch smaller than per_device_train_batch_size is left out of
    its epoch (each epoch is shuffled anew, so other responses are left out each time)."""
    max_steps: int = -1
    """Optimiser steps in all; above 0 it wins over num_train_epochs."""
    warmup_steps: Whole = 50
    """Optimiser steps over which the learning rate rises from 0."""
    lr_scheduler_type: Scheduler = "cosine"
    """How the learning rate falls after the warm-up."""
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the scheduler, such as {min_lr_rate: 0.1} or {num_decay_steps: 100}."""
    weight_decay: NonNegative = 0.01
    """Weight decay of the optimiser."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    optim: str = "adamw_torch_fused"
    """The optimiser's name in transformers; the default is AdamW in one fused kernel."""
    group_by_length: bool = False
    """Also put responses of like length into one step, as in transformers. Within a step they are
    always sorted, which changes nothing; this changes which ones meet."""
    seed: Whole = 0
    """Of the shuffle, the contexts, the LoRA initialisation and dropout."""
    max_length: int | None = None
    """Responses of more tokens (prompt and slots) are dropped and counted; null: no limit."""
    bf16: bool | None = None
    """Autocast to bfloat16; null: where the device is a GPU that has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    torch_compile: bool = False
    """Compile the decoder layers; the first steps take minutes longer."""
    use_peft: bool = True
    """Train a LoRA adapter; false trains all weights."""
    lora_r: Count = 16
    """Rank of the LoRA matrices."""
    lora_alpha: Count = 16
    """Scale of the LoRA update, over lora_r."""
    lora_dropout: Part = 0.0
    """Dropout on what enters the LoRA matrices."""
    lora_target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the modules that get LoRA matrices, or all-linear."""
    use_rslora: bool = False
    """Scale the update by lora_alpha over the root of lora_r (rsLoRA)."""
    use_dora: bool = False
    """Train directions and lengths of the weights apart (DoRA)."""
    lora_init: LoraInit = "default"
    """How the matrices begin: A random and B zero (default, gaussian), or both taken out of the
    weights (pissa, olora); what is saved is then a plain adapter of twice the rank."""
    lora_alpha_pattern: dict[str, int] = field(default_factory=dict)
    """lora_alpha of some modules by name."""
    lora_rank_pattern: dict[str, int] = field(default_factory=dict)
    """lora_r of some modules by name."""
    logging_steps: Count = 10
    """Optimiser steps between two lines of metrics.jsonl."""
    save_strategy: Strategy = "steps"
    """When a checkpoint is written: every save_steps steps, at the end of each epoch, or no."""
    save_steps: Count = 500
    """Optimiser steps between two checkpoints."""
    save_total_limit: Count | None = 2
    """Checkpoints that are kept, the newest ones; null: all."""
    eval_strategy: Strategy = "epoch"
    """When the loss on held-out responses is taken: every eval_steps steps, each epoch, or no."""
    eval_steps: Count = 100
    """Optimiser steps between two evaluations."""
    eval_cuts: Count = 4
    """Fixed contexts asked of each held-out response."""
    eval_size: Whole = 0
    """Prompts held out of the training data for the held-out loss; 0: none."""
    eval_fraction: Part = 0.0
    """The same as a share of the prompts."""
    per_device_eval_batch_size: Count = 8
    """Held-out responses in one forward pass of one process."""
    dataloader_num_workers: Whole = 0
    """Processes that put batches together; 0: the training process itself."""
    max_buffer_bytes: Whole = 192 * 2**20
    """Bytes of logits that the head may keep for the backward pass; those that find no room are
    computed again. 0: none is kept."""
    report_to: str = "none"
    """Trackers of transformers, with commas between (tensorboard,wandb,trackio); metrics.jsonl is
    always written."""
    run_name: str | None = None
    """The run's name in trackers; null: in a study its name, arm and seed."""
    run_group: str | None = None
    """The group of runs in trackers that have such; null: in a study its name."""
    disable_tqdm: bool = False
    """No progress bar."""
    use_cpu: bool | None = None
    """Train on the CPU; null: where the model lies."""
    resume: Resume = "auto"
    """auto goes on from the last whole checkpoint in the output folder; never starts over and
    removes the checkpoints that are there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps == 0:
            raise ConfigError("max_steps is 0; set at least 1, or -1 to train by epochs")
        if self.max_steps < 1 and self.num_train_epochs <= 0:
            raise ConfigError(
                "no length of training: set num_train_epochs above 0, or max_steps at least 1"
            )
        if self.eval_size and self.eval_fraction:
            raise ConfigError("set eval_size or eval_fraction, not both")
        if self.use_dora and self.lora_init in ("pissa", "olora"):
            raise ConfigError(
                f"use_dora does not go with lora_init {self.lora_init}: what is trained could not "
                "be saved as an adapter of the base; take lora_init default"
            )
        if self.use_peft and not self.lora_target_modules:
            raise ConfigError(
                "lora_target_modules is empty; name the modules that LoRA changes "
                "(q_proj, v_proj), or set use_peft to false"
            )

    def decisive(self, *, world_size: int | None = None) -> dict[str, Any]:
        """The settings that decide the result, as plain values: a stage or a checkpoint made with
        others is refused.

        The batch enters as its product, because how a step is cut up does not matter.
        world_size: processes that share a step; None: as the launcher's environment says.
        """
        if world_size is None:
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
        kept = {k: v for k, v in to_plain(self).items() if k not in _FREE}
        per_device = kept.pop("per_device_train_batch_size")
        kept["global_batch_size"] = (
            per_device * kept.pop("gradient_accumulation_steps") * world_size
        )
        if not self.use_peft:
            of_lora = ("lora_", "use_rslora", "use_dora")
            kept = {k: v for k, v in kept.items() if not k.startswith(of_lora)}
        return kept

    def training_arguments(
        self, output_dir: str, *, has_eval: bool, use_cpu: bool
    ) -> "TrainingArguments":
        """The same settings as transformers.TrainingArguments.

        Raises: ConfigError if the device does not have what was asked for, or the tracker or the
            optimiser is not installed.
        """
        import torch
        from transformers import Trainer, TrainingArguments
        from transformers.integrations import get_available_reporting_integrations

        trackers = get_available_reporting_integrations()
        asked = [name.strip() for name in self.report_to.split(",")]
        if unknown := [name for name in asked if name not in ("none", "all", *trackers)]:
            raise ConfigError(
                f"training.report_to is {unknown[0]!r}; installed here: "
                f"{', '.join(['none', *trackers])}; install the tracker, or take one of these"
            )
        has_bf16 = not use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        theirs = {f.name for f in fields(TrainingArguments) if f.init} - _OURS
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name in theirs}
        settings |= {
            "output_dir": output_dir,
            "report_to": asked,
            "project": self.run_group or "tabom",  # of trackio, which is given no group
            "data_seed": self.seed,
            "bf16": has_bf16 if self.bf16 is None else self.bf16,
            "eval_strategy": self.eval_strategy if has_eval else "no",
            "use_cpu": use_cpu,
            # Older checkpoints go only when the new one is known to be whole (`checkpoints.seal`).
            "save_total_limit": None,
            "dataloader_pin_memory": False,  # batches stay on the CPU; contexts are moved later
            "remove_unused_columns": False,
            "logging_nan_inf_filter": False,  # would log a NaN loss as the running average
            "ddp_find_unused_parameters": False,
        }
        try:
            arguments = TrainingArguments(**settings)
            Trainer.get_optimizer_cls_and_kwargs(arguments)  # its package is installed
        except (ValueError, ImportError) as error:
            raise ConfigError(f"training settings (optim {self.optim}): {error}") from error
        # Several visible GPUs in one process would be wrapped in DataParallel, which cannot split
        # a context; one process per GPU (torchrun, accelerate launch) uses them all.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments
