"""`tabom` as a model of lm-eval: requests in, decoded texts out."""

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tabom._version import __version__
from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.evaluation.manifest import evaluation_manifest
from tabom.evaluation.responses import Responses
from tabom.evaluation.run import costs_of, mean_costs
from tabom.evaluation.sets import (
    Question,
    chat_text,
    encode_text,
    require_draws,
    response_id,
    response_text,
)
from tabom.evaluation.settings import Cut, ending, get_setting, options_for
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model
from tabom.trajectory.record import Trajectory

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ConfigError(
        "lm-eval is not installed, and its tasks need it: pip install 'tabom[eval]'"
    ) from error

logger = logging.getLogger(__name__)

DECODING = tuple(f.name for f in dataclasses.fields(DecodingConfig))
# Keys of a task's generation_kwargs that we understand.
_TASK_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
_SUFFIX = "_tabom"  # the task files of our benchmarks are called gsm8k_tabom and so on
_NUM_VALUES = 256  # of each tensor that a fingerprint of weights looks at


@dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """What can be given as `--model_args`, beside every decoding option."""

    pretrained: str
    """A local folder, a hub id, or "toy-base"."""
    adapter: str | None = None
    """A LoRA adapter folder."""
    dtype: str = "auto"
    """As `tabom.models.loading.load_model` takes it; so are the next three."""
    attn_implementation: str = "sdpa"
    device: str | None = None
    mask_token_id: int | None = None
    batch_size: int = 1
    """Prompts decoded together; results do not depend on it."""
    seed: int = 1000
    """Key of all draws of sampling and of the random policy."""
    setting: str | None = None
    """A published setting that fixes the decoding options of each of our benchmarks."""
    cut: Cut | None = None
    """Where a response ends, all_ends or release; null: what the setting says, else all_ends."""
    max_prompt_tokens: int | None = None
    """Keep this many tokens at the end of a longer prompt; null: what the setting says."""
    responses: str | None = None
    """A folder that responses are kept in and resumed from; null: they are kept in memory."""
    data_dir: str | None = None
    """A folder with the documents of our benchmarks (read by their task files)."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """The decoding options that were given; others have their defaults."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.ending  # noqa: B018  checks them against the setting
        if self.setting is None:
            # Whether the block divides the budget is known once a task's budget is.
            budget = {"max_new_tokens": self.decoding.get("block_length") or 1}
            configs.build(DecodingConfig, budget | self.decoding, where="model_args")
        else:
            for task in get_setting(self.setting).tasks:
                options_for(self.setting, task, given=self.decoding)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "HarnessConfig":
        """The settings of flat model arguments. Raises ConfigError for an unknown one."""
        decoding = {k: v for k, v in arguments.items() if k in DECODING}
        rest = {k: v for k, v in arguments.items() if k not in DECODING}
        known = [f.name for f in dataclasses.fields(cls) if f.name != "decoding"]
        unknown = sorted(set(rest) - set(known))
        if unknown:
            raise ConfigError(
                f"model argument {unknown[0]!r} is not known; there are {', '.join(known)}, and "
                f"for decoding {', '.join(DECODING)}"
            )
        return configs.build(cls, {**rest, "decoding": decoding}, where="model_args")

    @property
    def ending(self) -> tuple[Cut, int | None]:
        """Where responses end, and the limit of a prompt's tokens."""
        return ending(self.setting, cut=self.cut, max_prompt_tokens=self.max_prompt_tokens)

    def decoding_for(self, task: str, generation: Mapping[str, Any]) -> DecodingConfig:
        """How one request of a task is decoded.

        generation: the task's generation_kwargs. Its max_gen_toks is the budget unless
            max_new_tokens is given or fixed by the setting. Its sampling keys count only with
            `do_sample: true`: without, they are what a task writes for left-to-right models.
        Raises: ConfigError for a key that is not understood, or options that do not fit together.
        """
        unknown = sorted(set(generation) - set(_TASK_KEYS))
        if unknown:
            raise ConfigError(
                f"task {task!r} asks for generation option {unknown[0]!r}, which is not one of "
                f"{', '.join(_TASK_KEYS)}; decoding options are model arguments here"
            )
        options: dict[str, Any] = {}
        if generation.get("max_gen_toks") is not None:
            options["max_new_tokens"] = generation["max_gen_toks"]
        if generation.get("do_sample"):
            keys = ("temperature", "top_p", "top_k")
            options |= {k: generation[k] for k in keys if generation.get(k) is not None}
        if self.setting is not None:
            options |= options_for(self.setting, task.removesuffix(_SUFFIX), given=self.decoding)
        where = f"decoding of task {task}"
        return configs.build(DecodingConfig, options | self.decoding, where=where)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One response that a task asks for; several requests may ask for the same one."""

    question: Question
    place: tuple[str, int, int]  # task, document, sample
    until: tuple[str, ...]
    decoding: DecodingConfig


@register_model("tabom")
class TabomLM(LM):
    """A masked diffusion language model behind lm-eval's interface.

    arguments: see `HarnessConfig`, and every field of `DecodingConfig`.
    responses: what was answered, by task, document and sample.
    """

    def __init__(
        self,
        *,
        model: MaskedDiffusionModel | None = None,
        progress: Callable[[int, int], None] | None = None,
        **arguments: Any,
    ) -> None:
        """model: a loaded one; None loads `pretrained`. progress: called with (done, total)
        responses."""
        super().__init__()
        self._progress = progress
        if model is not None:
            arguments.setdefault("pretrained", model.name_or_path)
        self.config = HarnessConfig.of(_of_harness(arguments))
        self.model = model if model is not None else _load(self.config)
        self._device = self.model.device
        self.responses: dict[tuple[str, int, int], Trajectory] = {}
        self.decodings: dict[str, DecodingConfig] = {}

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "TabomLM":
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "TabomLM":
        # What is written in the model arguments wins: lm-eval always adds its own defaults.
        added = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**added, **arg_dict})

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of lm-eval's own cache of prompts."""
        return self.model.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        template = getattr(self.model.tokenizer, "chat_template", None)
        return template if isinstance(template, str) else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The templated text. Without a generation prompt the last message is left open."""
        return chat_text(self.model, chat_history, is_open=not add_generation_prompt)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Decode what is not on file, all of one decoding together; the texts in order."""
        jobs = list(self._jobs(requests))
        by_decoding: dict[DecodingConfig, dict[str, _Job]] = {}
        for job in jobs:
            by_decoding.setdefault(job.decoding, {})[job.question.id] = job
        total, num_done = sum(map(len, by_decoding.values())), 0
        # None: no bar where there is no terminal.
        hidden = disable_tqdm or self._progress is not None or None
        bar = tqdm(total=total, desc="decode", disable=hidden)
        found: dict[tuple[DecodingConfig, str], Trajectory] = {}
        for decoding, part in by_decoding.items():
            questions = [job.question for job in part.values()]
            require_draws(questions, decoding, what="a task")
            decoder = Decoder(
                self.model, decoding, seed=self.config.seed, batch_size=self.config.batch_size
            )
            with Responses(self._folder(decoding)) as kept:
                num_done += (known := len(part.keys() & kept.found.keys()))
                bar.update(known)
                for group in kept.missing(questions, decoder):
                    for item in decoder.decode(group):
                        kept.add(item)
                        num_done += 1
                        bar.update()
                        if self._progress is not None:
                            self._progress(num_done, total)
            found |= {(decoding, id): kept.found[id].trajectory for id in part}
        bar.close()
        texts = []
        for job in jobs:
            trajectory = found[job.decoding, job.question.id]
            self.responses[job.place] = trajectory
            ids = trajectory.response_ids_N.tolist()
            cut = self.config.ending[0]
            texts.append(response_text(self.model, ids, until=job.until, cut=cut))
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Not defined: see the error."""
        task = str(requests[0].task_name) if len(requests) else "?"
        raise ConfigError(
            f"task {task!r} asks for log-likelihoods: a masked diffusion model has no "
            "left-to-right likelihood of a text; choose a task that generates "
            "(its output_type is generate_until)"
        )

    loglikelihood_rolling = loglikelihood

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results: how each task was decoded, and at what cost."""
        return {
            "tabom": {task: self.manifest_of(task) for task in self.decodings},
            "tabom_decoding": {task: self.cost_of(task) for task in self.decodings},
        }

    def manifest_of(self, task: str) -> dict[str, Any]:
        """The evaluation manifest of a task that was answered."""
        cut, limit = self.config.ending
        return evaluation_manifest(
            self.model,
            self.decodings[task],
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            facts={"setting": self.config.setting, "cut": cut, "max_prompt_tokens": limit},
        )

    def cost_of(self, task: str) -> dict[str, float]:
        """Means over the responses of a task."""
        own = [t for (of, _, _), t in self.responses.items() if of == task]
        return mean_costs([costs_of(trajectory, self.model.ids.eos) for trajectory in own])

    def _folder(self, decoding: DecodingConfig) -> Path | None:
        """Where the responses of this model under this decoding and seed are kept."""
        if self.config.responses is None:
            return None
        weights = weights_fingerprint(self.model)
        name = configs.fingerprint(__version__, weights, decoding, self.config.seed)
        return Path(self.config.responses) / name

    def _jobs(self, requests: Sequence[Any]) -> Iterator[_Job]:
        seen: Counter[tuple[str, int, str]] = Counter()
        _, limit = self.config.ending
        for number, request in enumerate(requests):
            context, generation = request.args[0], dict(request.args[1])
            task = request.task_name or "requests"
            doc_id = number if request.doc_id is None else int(request.doc_id)
            # lm-eval asks for several samples by repeating a request.
            sample = seen[task, doc_id, context]
            seen[task, doc_id, context] += 1
            ids = encode_text(self.model, context, place=f"document {doc_id} of task {task!r}")
            ids = ids if limit is None else ids[-limit:]
            self.decodings[task] = self.config.decoding_for(task, generation)
            until = generation.get("until") or ()
            yield _Job(
                question=Question(
                    id=response_id(task.removesuffix(_SUFFIX), ids, sample),
                    prompt_ids=ids,
                    prompt=context,
                    task=task,
                    document=f"{doc_id:05d}",
                    sample=sample,
                ),
                place=(task, doc_id, sample),
                until=(until,) if isinstance(until, str) else tuple(map(str, until)),
                decoding=self.decodings[task],
            )


def weights_fingerprint(model: MaskedDiffusionModel) -> str:
    """16 hex digits of the names, shapes, dtypes and a fixed sample of every tensor.

    An adapter is part of it. At most 256 values of a tensor are read, evenly spread: enough to
    tell two checkpoints apart, and quick for one of 16 GB.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.lm.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        index = torch.linspace(0, max(flat.numel() - 1, 0), min(flat.numel(), _NUM_VALUES))
        sample = flat[index.long().to(flat.device)].to("cpu", torch.float64)
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:".encode())
        digest.update(sample.numpy().tobytes())
    digest.update(f"{model.family.name}:{model.ids.mask}".encode())
    return digest.hexdigest()[:16]


def _of_harness(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without what lm-eval adds on its own."""
    own = dict(arguments)
    own.pop("max_batch_size", None)
    if isinstance(own.get("batch_size"), str):
        try:
            own["batch_size"] = int(own["batch_size"])
        except ValueError:
            raise ConfigError(
                f"batch_size {own['batch_size']!r} is no number; the batch size is not found by "
                "trial here, give one"
            ) from None
    device = own.get("device")
    if device is not None and str(device).startswith("cuda") and not torch.cuda.is_available():
        # lm-eval's command line says cuda:0 whenever --device is left out.
        logger.warning("no CUDA device here: the model runs on the CPU (asked for: %s)", device)
        own["device"] = "cpu"
    return own


def _load(config: HarnessConfig) -> MaskedDiffusionModel:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "lm-eval was started as several processes; this model runs in one: start one process "
            "per task or per part of the documents (--samples), with a responses folder each"
        )
    return load_model(
        config.pretrained,
        adapter=config.adapter,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        device=config.device,
        mask_token_id=config.mask_token_id,
    )
