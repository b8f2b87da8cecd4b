"""`tabom` as a model of lm-eval: requests in, decoded texts out."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tabom._version import __version__
from tabom.core import configs, keys
from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.evaluation.harness.identity import weights_fingerprint
from tabom.evaluation.harness.options import HarnessConfig
from tabom.evaluation.harness.responses import ResponseFile, StoredResponse
from tabom.evaluation.harness.text import as_list, response_text
from tabom.evaluation.manifest import evaluation_manifest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ConfigError(
        "lm-eval is not installed, and its tasks need it: pip install 'tabom[eval]'"
    ) from error

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One response that a task asks for."""

    request: DecodeRequest
    task: str
    doc_id: int
    sample: int
    dropped: int
    decoding: DecodingConfig
    fingerprint: str


@register_model("tabom")
class TabomLM(LM):
    """A masked diffusion language model behind lm-eval's interface.

    arguments: see `HarnessConfig`, and every field of `DecodingConfig`.
    """

    def __init__(
        self,
        *,
        model: MaskedDiffusionModel | None = None,
        progress: Callable[[int, int], None] | None = None,
        **arguments: Any,
    ) -> None:
        """model: a loaded one; None loads `pretrained`. progress: called with (done, total)
        responses instead of a bar."""
        super().__init__()
        self._progress = progress
        if model is not None:
            arguments.setdefault("pretrained", model.name_or_path)
        self.config = HarnessConfig.of(_of_harness(arguments))
        self.model = model if model is not None else _load(self.config)
        self.tokenizer = self.model.tokenizer
        self._device = self.model.device
        self._weights = weights_fingerprint(self.model)
        self.responses: dict[tuple[str, int, int], StoredResponse] = {}
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

    # -- prompts ---------------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of lm-eval's own cache of prompts."""
        return self.model.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        template = getattr(self.tokenizer, "chat_template", None)
        return template if isinstance(template, str) else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The templated text. Without a generation prompt the last message is left open."""
        if not self.chat_template():
            raise ConfigError(
                f"{self.model.name_or_path} has no chat template; leave --apply_chat_template "
                "out, or take an instruct checkpoint"
            )
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    # -- requests --------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Decode each request, those on file left out; the texts come in request order."""
        jobs = list(self._jobs(requests))
        with ResponseFile(self.config.responses) as stored:
            todo: dict[DecodingConfig, dict[str, _Job]] = {}
            for job in jobs:
                if stored.get(job.request.id, job.fingerprint) is None:
                    todo.setdefault(job.decoding, {})[job.request.id] = job
            bar = tqdm(
                total=len(jobs),
                initial=len(jobs) - sum(len(part) for part in todo.values()),
                desc="decode",
                # None: no bar where there is no terminal.
                disable=self.config.quiet or disable_tqdm or self._progress is not None or None,
            )
            with bar:
                for decoding, part in todo.items():
                    self._decode(part, decoding, stored, bar)
            found = [stored.get(job.request.id, job.fingerprint) for job in jobs]
        texts = []
        for request, job, response in zip(requests, jobs, found, strict=True):
            assert response is not None
            self.responses[job.task, job.doc_id, job.sample] = response
            until = as_list(request.args[1].get("until"))
            texts.append(
                response_text(
                    self.model, response.response_ids, until=until, cut=self.config.effective_cut
                )
            )
        return texts

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Not defined: see the error."""
        raise ConfigError(_NO_LIKELIHOOD.format(task=_task_of(requests)))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Not defined: see the error."""
        raise ConfigError(_NO_LIKELIHOOD.format(task=_task_of(requests)))

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results: how each task was decoded, and at what cost."""
        return {
            "tabom": {task: self.manifest_of(task) for task in self.decodings},
            "tabom_decoding": {task: self.cost_of(task) for task in self.decodings},
        }

    def manifest_of(self, task: str) -> dict[str, Any]:
        """The evaluation manifest of a task that was answered."""
        return evaluation_manifest(
            self.model,
            self.decodings[task],
            batch_size=self.batch_size_for(self.decodings[task]),
            seed=self.config.seed,
            extra={
                "setting": self.config.setting,
                "cut": self.config.effective_cut,
                "max_prompt_tokens": self.config.prompt_limit,
            },
        )

    def batch_size_for(self, decoding: DecodingConfig) -> int:
        """The official functions draw from one stream for a batch: one response at a time, then
        a result depends neither on the batch nor on where an evaluation was cut off."""
        draws = decoding.temperature > 0 or decoding.policy in ("random", "origin")
        draws = draws or bool(decoding.alg_temp)
        return 1 if decoding.is_official and draws else self.config.batch_size

    def cost_of(self, task: str) -> dict[str, float]:
        """Means over the responses of a task."""
        own = [r for r in self.responses.values() if r.task == task]
        names = ("num_forwards", "tokens_per_forward", "length")
        means = {n: float(np.mean([getattr(r, n) for r in own])) for n in names}
        ended = [r.end_step for r in own if r.end_step >= 0]
        means["end_step"] = float(np.mean(ended)) if ended else -1.0
        return {"num_responses": len(own), "num_ended": len(ended), **means}

    def _jobs(self, requests: Sequence[Any]) -> Iterator[_Job]:
        seen: Counter[tuple[str, int, str]] = Counter()
        for number, request in enumerate(requests):
            context, generation = request.args[0], dict(request.args[1])
            task = request.task_name or "requests"
            doc_id = number if request.doc_id is None else int(request.doc_id)
            # lm-eval asks for several samples by repeating a request.
            sample = seen[task, doc_id, context]
            seen[task, doc_id, context] += 1
            ids = self._encode(context, task=task, doc_id=doc_id)
            limit = self.config.prompt_limit
            dropped = 0 if limit is None else max(0, len(ids) - limit)
            ids = ids[dropped:]
            decoding = self.config.decoding_for(task, generation)
            self.decodings[task] = decoding
            yield _Job(
                request=DecodeRequest(
                    id=keys.content_id(
                        task, np.asarray(ids, dtype=np.int64).tobytes(), str(sample)
                    ),
                    prompt_ids=ids,
                    prompt=context,
                    task=task,
                ),
                task=task,
                doc_id=doc_id,
                sample=sample,
                dropped=dropped,
                decoding=decoding,
                fingerprint=configs.fingerprint(
                    __version__, self._weights, decoding, self.config.seed
                ),
            )

    def _encode(self, context: str, *, task: str, doc_id: int) -> list[int]:
        try:
            return [int(i) for i in self.tokenizer.encode(context, add_special_tokens=False)]
        except Exception as error:  # the tokenizers library raises no narrower kind
            raise DataError(
                f"the tokenizer of {self.model.name_or_path} cannot read the prompt of document "
                f"{doc_id} of task {task!r} ({error}); the toy world's knows its own characters "
                "alone"
            ) from error

    def _decode(
        self, part: Mapping[str, _Job], decoding: DecodingConfig, stored: ResponseFile, bar: Any
    ) -> None:
        if not decoding.draws_tokens and any(job.sample > 0 for job in part.values()):
            raise ConfigError(
                "several samples of one document would all be the same where no token is drawn; "
                "give a temperature above 0 without greedy_tokens, or ask for one sample"
            )
        jobs = sorted(part.values(), key=lambda job: (len(job.request.prompt_ids), job.request.id))
        decoder = Decoder(
            self.model,
            decoding,
            seed=self.config.seed,
            batch_size=self.batch_size_for(decoding),
            fingerprint=jobs[0].fingerprint,
        )
        # An official function draws from one stream a call. A call for each batch makes its
        # responses independent of what was decoded before.
        size = decoder.batch_size if decoding.is_official else len(jobs)
        num_done, finished = 0, list[StoredResponse]()
        for start in range(0, len(jobs), size):
            for item in decoder.decode(job.request for job in jobs[start : start + size]):
                job = part[item.trajectory.id]
                finished.append(
                    StoredResponse.of(
                        item,
                        task=job.task,
                        doc_id=job.doc_id,
                        sample=job.sample,
                        dropped_prompt_tokens=job.dropped,
                        end_ids=self.model.ids.eos,
                    )
                )
                if item.num_following:
                    continue
                stored.add(finished)
                bar.update(len(finished))
                num_done, finished = num_done + len(finished), []
                if self._progress is not None:
                    self._progress(num_done, len(jobs))


_NO_LIKELIHOOD = (
    "task {task!r} asks for log-likelihoods: a masked diffusion model has no left-to-right "
    "likelihood of a text; choose a task that generates (its output_type is generate_until)"
)


def _task_of(requests: Sequence[Any]) -> str:
    return str(requests[0].task_name) if len(requests) else "?"


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
            "per task or per part of the documents (--samples), with a responses file each"
        )
    return load_model(
        config.pretrained,
        adapter=config.adapter,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
        device=config.device,
        mask_token_id=config.mask_token_id,
    )
