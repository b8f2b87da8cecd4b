"""The entries of `evaluation.sets`: what every arm is measured on."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tabom.collect.prompts import PromptSource, load_prompts, prompts_content
from tabom.core import configs, keys
from tabom.core.configs import Bound, Count, Settings
from tabom.core.errors import ConfigError
from tabom.core.hooks import load_function
from tabom.core.identity import FREE, identity, identity_of_fields
from tabom.core.plain import canonical_json
from tabom.decoding.config import DecodingConfig
from tabom.evaluation.settings import Asking, Role
from tabom.verify.config import VerifierConfig

if TYPE_CHECKING:
    from tabom.evaluation.benchmark import Benchmark
    from tabom.evaluation.sets import EvaluationSet
    from tabom.models.contract import MaskedDiffusionModel

HeldOutCheck = Literal["warn", "error", "off"]

# Fields of a set that do not go with what it asks.
_STRAY = {
    "prompts": {"setting", "limit", "chat_template", "cut", "max_prompt_tokens"},
    "benchmark": {"verifier"},
    "task": {"verifier", "setting"},
}


@dataclass(frozen=True, kw_only=True)
class SetConfig(Asking):
    """One evaluation set: held-out prompts with a verifier, a benchmark, or a task of lm-eval's."""

    name: str
    """As it appears in tables."""
    role: Role = "in_domain"
    """in_domain or out_of_domain."""
    prompts: PromptSource | None = None
    """Where the prompts come from. The seed is `evaluation.seed`, the same for every arm and seed,
    so that arms are paired."""
    verifier: VerifierConfig | None = None
    """The checker of these prompts; null: the recipe's own."""
    benchmark: str | None = None
    """Instead of prompts: a published set by its name (gsm8k, math500, humaneval, mbpp, ifeval), or
    one of yours, "package.module:NAME"."""
    task: str | None = None
    """Instead of prompts: a task of lm-eval's own that generates."""
    tokens_per_step: tuple[Count, ...] = (1,)
    """The paces measured."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Further per-response metrics: name -> "package.module:function", called with row, slots and
    step."""
    num_samples: Count = 1
    """Responses of each document, for pass@k."""
    limit: Count | None = None
    """Of a benchmark or task: the first so many documents."""
    chat_template: bool = True
    """Of a benchmark or task: put its prompts into the model's chat template."""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"evaluation.sets.{self.name}"
        if not self.name.strip() or not self.name.isprintable():
            raise ConfigError(f"evaluation.sets: {self.name!r} cannot name a set")
        kinds = [kind for kind in _STRAY if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ConfigError(
                f"{where}: expected one of {', '.join(_STRAY)}, got {' and '.join(kinds) or 'none'}"
            )
        # A field that would change nothing is more likely a mistake than meant.
        for own in fields(self):
            if own.name in _STRAY[kinds[0]] and getattr(self, own.name) != own.default:
                raise ConfigError(f"{where}: {own.name} does not go with {kinds[0]}; drop it")
        paces = self.tokens_per_step
        if not paces or len(set(paces)) < len(paces):
            raise ConfigError(
                f"{where}.tokens_per_step: expected one or more different numbers, got "
                f"{list(paces)}"
            )

    def published(self, include_path: str | None = None) -> "Benchmark":
        """The benchmark of a set that is one, or its task of lm-eval's, which is slow to open."""
        if self.task is not None:
            from tabom.evaluation.harness.task import open_task

            return open_task(self.task, include_path)
        from tabom.evaluation.benchmarks import get_benchmark

        return get_benchmark(str(self.benchmark))

    def decodings(
        self, base: DecodingConfig, *, own: "Benchmark | None" = None
    ) -> list[DecodingConfig]:
        """The decoding settings of this set at each pace: its own on top of the recipe's.

        A benchmark has a budget, which its setting or the set's decoding may change; with a setting
        the recipe's own decoding counts for nothing.
        own: the benchmark or task where it is open; a task's options are not known without.
        """
        if own is None and self.benchmark is not None:
            own = self.published()
        options: dict[str, Any] = {} if self.setting else dict(configs.to_plain(base))
        merged = self.decoding_over(
            {**options, **(own.decoding if own else {})},
            task=own.name if own else "",
            where=f"evaluation.sets.{self.name}.decoding",
        )
        return [replace(merged, tokens_per_step=pace) for pace in self.tokens_per_step]

    def source(self, data_dir: str | None) -> PromptSource:
        """Where the documents' own texts come from, for planning; only lm-eval knows a task's."""
        if self.prompts is not None:
            return self.prompts
        if self.task is not None:
            return PromptSource(dataset_name=self.task, limit=self.limit)
        own = self.published()
        # A plan fetches nothing: the number of documents is known, their lengths are assumed.
        if data_dir is None:
            return PromptSource(dataset_name=own.hub, limit=self.limit or own.num_documents)
        path = str(Path(data_dir) / f"{own.name}.jsonl")
        return PromptSource(path=path, prompt_column=next(iter(own.columns)), limit=self.limit)

    def questions(self, *, seed: int, data_dir: str | None) -> list[str]:
        """The documents' own texts, without what is put around them: for the held-out check.

        seed, data_dir: of the evaluation. A task's documents are known to lm-eval alone.
        """
        if self.prompts is not None:
            # Without the template: an instruction around every prompt would be shared by all.
            source = replace(self.prompts, template=None)
            return [prompt.text for prompt in load_prompts(source, seed=seed)]
        if self.benchmark is not None:
            own = self.published()
            return [own.question(row) for row in own.documents(data_dir)[: self.limit]]
        return []


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """What every arm is measured on."""

    sets: tuple[SetConfig, ...] = ()
    """The evaluation sets."""
    batch_size: Count = field(default=32, metadata=FREE)
    """Prompts decoded together."""
    seed: int = 1000
    """Of the prompt draws and of sampling."""
    num_fields: Annotated[int, Bound(">=", 0)] = 64
    """Responses whose entropies at every step are kept, for TDS and the viewer (the first ones of
    each set)."""
    held_out_check: HeldOutCheck = field(default="warn", metadata=FREE)
    """What to do where an evaluation prompt occurs in the training prompts: warn (in the report),
    error or off."""
    data_dir: str | None = field(default=None, metadata=FREE)
    """A folder with the documents of benchmarks (gsm8k.jsonl, ...); null: the hub or its cache."""
    include_path: str | None = field(default=None, metadata=FREE)
    """A folder of further task files for lm-eval."""
    unsafe_exec: bool = False
    """Run the programs of benchmarks and tasks without a sandbox."""

    def decisive(self) -> dict[str, Any]:
        """What decides the result: for a benchmark also its documents, wherever they lie."""
        documents: dict[str, Any] = {}
        for one in self.sets:
            if one.benchmark is not None:
                # A file is known by its content, so that `data_dir` itself decides nothing.
                documents[one.name] = one.published().identity(self.data_dir)
            elif one.task is not None:
                from tabom.evaluation.harness import VERSION

                documents[one.name] = {"task": one.task, "lm_eval": VERSION}
        return {**identity_of_fields(self), **({"documents": documents} if documents else {})}


def check_sets(
    evaluation: EvaluationConfig, *, decoding: DecodingConfig, verifier: VerifierConfig
) -> None:
    """Raise ConfigError for a set that nobody judges, or whose decoding does not fit together.

    decoding, verifier: the recipe's own.
    """
    known: set[str] = set()
    for one in evaluation.sets:
        if one.name in known:
            raise ConfigError(f"evaluation.sets: {one.name} occurs more than once")
        known.add(one.name)
        if one.prompts is not None and (one.verifier or verifier).type == "accept_all":
            raise ConfigError(
                f"evaluation.sets.{one.name}: verifier accept_all judges nothing, so every "
                f"response would count as right; give evaluation.sets.{one.name}.verifier"
            )
        one.decodings(decoding)


def check_published(one: SetConfig, evaluation: EvaluationConfig) -> None:
    """A benchmark or task is there with what judges it. Local documents alone are read."""
    own = one.published(evaluation.include_path)
    # A task's documents may have to be fetched, and a check fetches nothing.
    is_local = one.task is None and evaluation.data_dir is not None
    rows = own.documents(evaluation.data_dir) if is_local else []
    own.judges(rows, unsafe_exec=evaluation.unsafe_exec)


def bind(
    one: SetConfig,
    model: "MaskedDiffusionModel",
    *,
    evaluation: EvaluationConfig,
    decoding: DecodingConfig,
    verifier: VerifierConfig,
) -> "EvaluationSet":
    """A set with its judges, ready to be decoded by a model.

    decoding, verifier: the recipe's own.
    Raises: what reading the documents and opening the judges raise.
    """
    from tabom.evaluation.sets import EvaluationSet

    seed, data_dir = evaluation.seed, evaluation.data_dir
    own = None if one.prompts is not None else one.published(evaluation.include_path)
    known: dict[str, Any] = {
        "name": one.name,
        "role": one.role,
        "decodings": one.decodings(decoding, own=own),
        "metrics": {name: load_function(path) for name, path in one.metrics.items()},
    }
    if own is None:
        parts = _asked_prompts(one, model, seed, one.verifier or verifier)
        return EvaluationSet(texts=one.questions(seed=seed, data_dir=None), **parts, **known)
    rows = own.documents(data_dir)[: one.limit]
    cut, limit = one.ending
    asked: dict[str, Any] = {
        "num_samples": one.num_samples,
        "chat_template": one.chat_template,
        "max_prompt_tokens": limit,
    }
    # What was asked, wherever it came from: a name on the hub may move.
    content = keys.content_id(*(canonical_json(row) for row in rows))
    return EvaluationSet(
        judges=own.judges(rows, unsafe_exec=evaluation.unsafe_exec),
        questions=list(own.questions(rows, model, **asked)),
        texts=[own.question(row) for row in rows],
        benchmark=own,
        cut=cut,
        facts={
            "data": {**own.identity(data_dir), "documents": content},
            "setting": one.setting,
            "cut": cut,
            "unsafe_exec": evaluation.unsafe_exec,
            "num_documents": len(rows),
            **asked,
        },
        **known,
    )


def _asked_prompts(
    one: SetConfig, model: "MaskedDiffusionModel", seed: int, verifier: VerifierConfig
) -> dict[str, Any]:
    from tabom.collect.config import CollectionConfig
    from tabom.collect.worker import make_requests
    from tabom.evaluation.benchmark import Question
    from tabom.verify.checkers import build_checker

    assert one.prompts is not None
    prompts = load_prompts(one.prompts, seed=seed)
    requests, _ = make_requests(model, prompts, CollectionConfig(num_samples=one.num_samples))
    questions = [
        Question(
            **vars(request),
            document=requests[i - i % one.num_samples].id,  # of its first sample
            sample=i % one.num_samples,
        )
        for i, request in enumerate(requests)
    ]
    return {
        "questions": questions,
        "judges": {"accuracy": build_checker(verifier)},
        "facts": {
            "data": {**identity(one.prompts), "documents": prompts_content(prompts)},
            "verifier": verifier,
            "num_samples": one.num_samples,
        },
    }
