"""The settings of one training run, under the names that TRL and transformers users know."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from tabom.core.configs import require_finite
from tabom.core.errors import ConfigError
from tabom.core.plain import ADDED_LATER, to_plain

if TYPE_CHECKING:
    from transformers import TrainingArguments

Strategy = Literal["no", "steps", "epoch"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Resume = Literal["auto", "never"]

# Fields that change neither the weights nor what is written at the end: a run may go on with
# other values of them.
_FREE = frozenset(
    {
        "logging_steps", "save_strategy", "save_steps", "save_total_limit", "eval_strategy",
        "eval_steps", "eval_cuts", "per_device_eval_batch_size", "dataloader_num_workers",
        "report_to", "disable_tqdm", "use_cpu", "resume", "max_buffer_bytes", "torch_compile",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained. Defaults are the paper's (its batch of 4 is per device).

    learning_rate, weight_decay, max_grad_norm, lr_scheduler_type, warmup_steps: of the optimiser.
    optim: its name in transformers; the default is AdamW in one fused kernel.
    per_device_train_batch_size, gradient_accumulation_steps: responses in a micro-batch, and
        micro-batches in an optimiser step. How a step is cut up does not change its result.
    num_train_epochs, max_steps: length of the run; max_steps > 0 wins over epochs. A last batch
        smaller than per_device_train_batch_size is left out of its epoch (the data are shuffled
        anew in each epoch, so other responses are left out each time).
    group_by_length: also put responses of like length into one step, as in transformers. Within
        a step they are always sorted, which changes nothing; this changes which ones meet.
    seed: of the shuffle, the contexts, the LoRA initialisation and dropout.
    max_length: responses whose prompt and slots exceed it are dropped and counted; None: no limit.
    bf16: autocast to bfloat16; None: where the device is a GPU that has it.
    gradient_checkpointing: recompute activations in the backward pass, for memory.
    torch_compile: compile the decoder layers; the first steps take minutes longer.
    use_peft: train a LoRA adapter (lora_r, lora_alpha, lora_dropout, lora_target_modules);
        False trains all weights.
    logging_steps, save_strategy, save_steps, save_total_limit, eval_strategy, eval_steps: as in
        transformers.
    eval_cuts: fixed contexts asked of each held-out response. eval_size, eval_fraction: prompts
        held out of the training data for that (a number, or a share; 0: none).
    max_buffer_bytes: of logits that the head may keep for the backward pass; those that find no
        room are computed again. 0: none is kept.
    report_to: trackers of transformers ("tensorboard", "wandb", ...); metrics.jsonl is always
        written.
    use_cpu: train on the CPU; None: where the model lies.
    resume: "auto" goes on from the last complete checkpoint in the output folder; "never" starts
        over and removes the checkpoints that are there.
    """

    learning_rate: float = 2e-5
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 5.0
    max_steps: int = -1
    warmup_steps: int = 50
    lr_scheduler_type: Scheduler = "cosine"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    optim: str = field(default="adamw_torch_fused", metadata=ADDED_LATER)
    group_by_length: bool = field(default=False, metadata=ADDED_LATER)
    seed: int = 0
    max_length: int | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    use_peft: bool = True
    lora_r: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    logging_steps: int = 10
    save_strategy: Strategy = "steps"
    save_steps: int = 500
    save_total_limit: int | None = 2
    eval_strategy: Strategy = "epoch"
    eval_steps: int = 100
    eval_cuts: int = 4
    eval_size: int = 0
    eval_fraction: float = 0.0
    per_device_eval_batch_size: int = 8
    dataloader_num_workers: int = 0
    max_buffer_bytes: int = 192 * 2**20
    report_to: str = "none"
    disable_tqdm: bool = False
    use_cpu: bool | None = None
    resume: Resume = "auto"

    def __post_init__(self) -> None:
        require_finite(self, "training")
        for name, kind in (
            ("save_strategy", Strategy),
            ("eval_strategy", Strategy),
            ("lr_scheduler_type", Scheduler),
            ("resume", Resume),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"training {name} is {getattr(self, name)!r}; take one of "
                    f"{', '.join(get_args(kind))}"
                )
        for name in (
            "per_device_train_batch_size", "per_device_eval_batch_size", "lora_r", "lora_alpha",
            "gradient_accumulation_steps", "logging_steps", "save_steps", "eval_steps",
            "eval_cuts",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"training {name} must be at least 1, got {getattr(self, name)}")
        if self.max_steps == 0:
            raise ConfigError("training max_steps is 0; set at least 1, or -1 to train by epochs")
        if self.max_steps < 1 and self.num_train_epochs <= 0:
            raise ConfigError(
                "training has no length: set num_train_epochs above 0, or max_steps at least 1"
            )
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "seed",
                     "eval_size", "dataloader_num_workers", "max_buffer_bytes"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"training {name} must be >= 0, got {getattr(self, name)}")
        for name in ("lora_dropout", "eval_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"training {name} must be in [0, 1), got {getattr(self, name)}")
        if self.eval_size and self.eval_fraction:
            raise ConfigError("training: set eval_size or eval_fraction, not both")
        if self.use_peft and not self.lora_target_modules:
            raise ConfigError(
                "training lora_target_modules is empty; name the modules that LoRA changes "
                "(q_proj, v_proj), or set use_peft to false"
            )

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that a started or finished stage holds on to, as plain values.

        Those left out (how often to log or save, memory, the bar) may differ in a rerun.
        """
        return {k: v for k, v in to_plain(self).items() if k not in _FREE}

    def decisive(self, *, world_size: int) -> dict[str, Any]:
        """The settings that decide the result: a checkpoint made with others is refused.

        The batch enters as its product, because how a step is cut up does not matter.
        """
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _FREE}
        per_device = kept.pop("per_device_train_batch_size")
        kept["global_batch_size"] = (
            per_device * kept.pop("gradient_accumulation_steps") * world_size
        )
        kept["lora_target_modules"] = list(self.lora_target_modules)
        if not self.use_peft:
            kept = {k: v for k, v in kept.items() if not k.startswith("lora_")}
        return kept

    def training_arguments(
        self, output_dir: str, *, has_eval: bool, use_cpu: bool
    ) -> "TrainingArguments":
        """The same settings as transformers.TrainingArguments.

        Raises: ConfigError if the device does not have what was asked for.
        """
        import torch
        from transformers import TrainingArguments
        from transformers.integrations import get_available_reporting_integrations

        trackers = get_available_reporting_integrations()
        if self.report_to not in ("none", "all", *trackers):
            raise ConfigError(
                f"training report_to is {self.report_to!r}; installed here: "
                f"{', '.join(['none', *trackers])}; install the tracker, or take one of these"
            )
        bf16 = self.bf16
        if bf16 is None:
            bf16 = not use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        try:
            arguments = TrainingArguments(
                output_dir=output_dir,
                learning_rate=self.learning_rate,
                per_device_train_batch_size=self.per_device_train_batch_size,
                per_device_eval_batch_size=self.per_device_eval_batch_size,
                gradient_accumulation_steps=self.gradient_accumulation_steps,
                num_train_epochs=self.num_train_epochs,
                max_steps=self.max_steps,
                warmup_steps=self.warmup_steps,
                lr_scheduler_type=self.lr_scheduler_type,
                weight_decay=self.weight_decay,
                max_grad_norm=self.max_grad_norm,
                optim=self.optim,
                seed=self.seed,
                data_seed=self.seed,
                bf16=bf16,
                logging_steps=self.logging_steps,
                save_strategy=self.save_strategy,
                save_steps=self.save_steps,
                save_total_limit=self.save_total_limit,
                eval_strategy=self.eval_strategy if has_eval else "no",
                eval_steps=self.eval_steps,
                dataloader_num_workers=self.dataloader_num_workers,
                dataloader_drop_last=True,  # else accelerate repeats rows to even out the ranks
                dataloader_pin_memory=False,  # batches stay on the CPU; contexts are moved later
                remove_unused_columns=False,
                logging_nan_inf_filter=False,  # would log a NaN loss as the running average
                ddp_find_unused_parameters=False,
                report_to=self.report_to,
                disable_tqdm=True,  # the trainer draws its own bar
                use_cpu=use_cpu,
            )
        except (ValueError, ImportError) as error:
            raise ConfigError(f"training settings: {error}") from error
        # Several visible GPUs in one process would be wrapped in DataParallel, which cannot split
        # a context; one process per GPU (torchrun, accelerate launch) uses them all.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments
