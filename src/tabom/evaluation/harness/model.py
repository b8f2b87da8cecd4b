"""`tabom` as a model of lm-eval: requests in, decoded texts out."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from lm_eval.api.model import LM

from tabom._version import __version__
from tabom.core import configs
from tabom.core.errors import ConfigError
from tabom.core.identity import identity
from tabom.core.progress import Bars
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.evaluation.benchmark import Question, response_id
from tabom.evaluation.harness.options import (
    NO_LIKELIHOOD,
    SUFFIX,
    HarnessConfig,
    chat_text,
    ends_of,
    text_ids,
)
from tabom.evaluation.manifest import evaluation_manifest
from tabom.evaluation.responses import Responses
from tabom.evaluation.run import costs_of, mean_costs
from tabom.evaluation.sets import require_draws, response_text
from tabom.models.config import ModelConfig
from tabom.models.contract import MaskedDiffusionModel
from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import Kept

logger = logging.getLogger(__name__)


# A response that a task asks for, how it is decoded, and the texts that end it.
_Job = tuple[Question, DecodingConfig, tuple[str, ...]]


class TabomLM(LM):
    """A masked diffusion language model behind lm-eval's interface.

    arguments: see `HarnessConfig`. responses: what was answered, by task, document and sample.
    """

    def __init__(self, *, model: MaskedDiffusionModel | None = None, **arguments: Any) -> None:
        """model: a loaded one; None loads `pretrained`."""
        super().__init__()
        # A loaded model is known by the folder that it came from.
        if model is not None:
            arguments.setdefault("pretrained", model.name_or_path)
        self.config = HarnessConfig.of(_of_harness(arguments))
        if model is None:
            model = self._joined(self.config.model).load()
        self.model = model
        self._device = self.model.device
        self.responses: dict[tuple[str, int, int], Trajectory] = {}
        self.decodings: dict[str, DecodingConfig] = {}

    def _joined(self, model: ModelConfig) -> ModelConfig:
        """Join the processes that torchrun started, of which lm-eval gives each a share.

        Returns: the settings of the model, with the device of this process.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return model
        state = PartialState(cpu=model.device == "cpu")
        self._rank, self._world_size = state.process_index, state.num_processes
        return replace(model, device=str(state.device))

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one behind the other."""
        return gather(tensor) if self.world_size > 1 else tensor

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all processes in process `dst`, None in the others."""
        if self.world_size == 1:
            return [obj]
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, obj)
        return found if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            PartialState().wait_for_everyone()

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
        return chat_text(self.model, chat_history, add_generation_prompt)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Decode what is not on file, all of one decoding together; the texts in order."""
        # Every request is looked at before the first is decoded, so that errors come early.
        jobs = list(self._jobs(requests))
        # Several requests may ask for the same response.
        parts: dict[DecodingConfig, dict[str, Question]] = {}
        for question, decoding, _ in jobs:
            parts.setdefault(decoding, {})[question.id] = question
        bars, num_before = Bars(is_quiet=disable_tqdm), 0
        found: dict[DecodingConfig, dict[str, Kept]] = {}
        for decoding, part in parts.items():
            questions = list(part.values())
            require_draws(questions, decoding, what="a task")
            decoder = Decoder(self.model, decoding, **self._how)
            kept = Responses(self._folder(decoding))
            for group, _ in kept.missing(questions, decoder):
                for item in decoder.decode(group):
                    kept.add(item)
                    bars("decode", num_before + len(part.keys() & kept.found.keys()), len(jobs))
            num_before += len(part)
            found[decoding] = kept.found
        bars.close()
        texts = []
        for question, decoding, until in jobs:
            trajectory = found[decoding][question.id].trajectory
            place = (question.task, int(question.document), question.sample)
            self.responses[place] = trajectory
            ids, cut = trajectory.response_ids_N.tolist(), self.config.ending[0]
            texts.append(response_text(self.model, ids, until=until, cut=cut))
        for part in self.gather_object(self.responses) or ():  # the first process tells of all
            self.responses.update(part)
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Not defined: see the error."""
        raise ConfigError(NO_LIKELIHOOD.format(task=requests[0].task_name if requests else "?"))

    loglikelihood_rolling = loglikelihood

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results: how each task was decoded, and at what cost."""
        cut, limit = self.config.ending
        facts = {"setting": self.config.setting, "cut": cut, "max_prompt_tokens": limit}
        return {
            "tabom": {
                task: evaluation_manifest(self.model, decoding, facts=facts, **self._how)
                for task, decoding in self.decodings.items()
            },
            "tabom_decoding": {task: self.cost_of(task) for task in self.decodings},
        }

    def cost_of(self, task: str) -> dict[str, float]:
        """Means over the responses of a task."""
        own = [t for (of, _, _), t in self.responses.items() if of == task]
        return mean_costs([costs_of(trajectory, self.model.ids.eos) for trajectory in own])

    @property
    def _how(self) -> dict[str, Any]:
        return {"seed": self.config.seed, "batch_size": self.config.batch_size}

    def _folder(self, decoding: DecodingConfig) -> Path | None:
        """Where the responses of this model under this decoding and seed are kept."""
        if self.config.responses is None:
            return None
        # The checkpoint's files stand for the weights, as they do in the stages.
        model, seed = identity(self.config.model), self.config.seed
        name = configs.fingerprint(__version__, model, decoding, seed)
        return Path(self.config.responses) / name

    def _jobs(self, requests: Sequence[Any]) -> Iterator[_Job]:
        seen: Counter[tuple[str, int, str]] = Counter()
        for number, request in enumerate(requests):
            context, generation = request.args[0], dict(request.args[1])
            task = request.task_name or "requests"
            doc_id = number if request.doc_id is None else int(request.doc_id)
            # lm-eval asks for several samples by repeating a request.
            sample = seen[task, doc_id, context]
            if self.world_size > 1:  # who has fewer documents gets the last one again
                sample %= request.repeats
            seen[task, doc_id, context] += 1
            ids = text_ids(self.model, context, place=f"document {doc_id} of task {task!r}")
            ids = ids[-(self.config.ending[1] or len(ids)) :]
            self.decodings[task] = self.config.decoding_for(task, generation)
            # The id is the one that `tabom evaluate` gives, so that both draw the same.
            question = Question(
                id=response_id(task.removesuffix(SUFFIX), ids, sample),
                prompt_ids=ids,
                prompt=context,
                task=task,
                document=f"{doc_id:05d}",
                sample=sample,
            )
            yield question, self.decodings[task], ends_of(generation)


def _of_harness(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without what lm-eval adds on its own."""
    own = dict(arguments)
    own.pop("max_batch_size", None)
    if str(own.get("batch_size")).isdecimal():  # lm-eval's command line gives it as text
        own["batch_size"] = int(own["batch_size"])
    device = own.get("device")
    if device is not None and str(device).startswith("cuda") and not torch.cuda.is_available():
        # lm-eval's command line says cuda:0 whenever --device is left out.
        logger.warning("no CUDA device here: the model runs on the CPU (asked for: %s)", device)
        own["device"] = "cpu"
    return own
