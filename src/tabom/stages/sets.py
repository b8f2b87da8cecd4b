"""The entries of `evaluation.sets`: what every arm is measured on."""

from dataclasses import MISSING, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
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
from tabom.evaluation.settings import Cut, Role, ending, options_for
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
class SetConfig(Settings):
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
    decoding: dict[str, Any] = field(default_factory=dict)
    """Fields of `decoding` that differ for this set."""
    tokens_per_step: tuple[Count, ...] = (1,)
    """The paces measured."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Further per-response metrics: name -> "package.module:function", called with row, slots and
    step."""
    num_samples: Count = 1
    """Responses of each document, for pass@k."""
    setting: str | None = None
    """Of a benchmark: a published setting that fixes budget and decoding (dream_paper,
    dream_release, llada_paper, llada_release)."""
    limit: Count | None = None
    """Of a benchmark or task: the first so many documents."""
    chat_template: bool = True
    """Of a benchmark or task: put its prompts into the model's chat template."""
    cut: Cut | None = None
    """Of a benchmark or task: where a response ends, all_ends (at the first end token of any kind)
    or release (at end-of-text alone); null: what the setting says, else all_ends."""
    max_prompt_tokens: Count | None = None
    """Of a benchmark or task: keep this many tokens at the end of a longer prompt; null: what the
    setting says."""

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
        for own in fields(self):
            default = {} if own.default is MISSING else own.default
            if own.name in _STRAY[kinds[0]] and getattr(self, own.name) != default:
                raise ConfigError(f"{where}: {own.name} does not go with {kinds[0]}; drop it")
        paces = self.tokens_per_step
        if not paces or len(set(paces)) < len(paces):
            raise ConfigError(
                f"{where}.tokens_per_step: expected one or more different numbers, got "
                f"{list(paces)}"
            )
        ending(self.setting, cut=self.cut, max_prompt_tokens=self.max_prompt_tokens)

    def published(self, include_path: str | None = None) -> "Benchmark":
        """The benchmark of a set that is one, or its task of lm-eval's, which is slow to open."""
        if self.task is not None:
            from tabom.evaluation.harness.task import open_task

            return open_task(self.task, include_path)
        from tabom.evaluation.benchmarks import get_benchmark

        return get_benchmark(str(self.benchmark))

    def decoding_at(
        self, tokens_per_step: int, *, base: DecodingConfig, own: "Benchmark | None" = None
    ) -> DecodingConfig:
        """The decoding settings of this set at one pace: its own on top of the recipe's.

        A benchmark has a budget, which its setting or the set's decoding may change; with a setting
        the recipe's own decoding counts for nothing.
        own: the benchmark or task where it is open; a task's options are not known without.
        """
        if own is None and self.benchmark is not None:
            own = self.published()
        merged: dict[str, Any] = {} if self.setting else dict(configs.to_plain(base))
        if own is not None:
            merged |= own.decoding
            if self.setting is not None:
                merged |= options_for(self.setting, own.name, given=self.decoding)
        where = f"evaluation.sets.{self.name}.decoding"
        decoding = configs.build(DecodingConfig, merged | self.decoding, where=where)
        return replace(decoding, tokens_per_step=tokens_per_step)

    def source(self, data_dir: str | None) -> PromptSource:
        """Where the documents' own texts come from, for planning; only lm-eval knows a task's."""
        if self.prompts is not None:
            return self.prompts
        if self.task is not None:
            return PromptSource(dataset_name=self.task, limit=self.limit)
        own = self.published()
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
                documents[one.name] = one.published().identity(self.data_dir)
            elif one.task is not None:
                documents[one.name] = {"task": one.task, "lm_eval": _lm_eval()}
        return {**identity_of_fields(self), **({"documents": documents} if documents else {})}


def require_judged(one: SetConfig, verifier: VerifierConfig) -> None:
    """Raise ConfigError for a set of prompts that nobody judges. verifier: the recipe's own."""
    if one.prompts is not None and (one.verifier or verifier).type == "accept_all":
        raise ConfigError(
            f"evaluation.sets.{one.name}: verifier accept_all judges nothing, so every response "
            f"would count as right; give evaluation.sets.{one.name}.verifier"
        )


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

    own = None if one.prompts is not None else one.published(evaluation.include_path)
    if own is not None:
        parts = _benchmark(one, own, model, evaluation)
    else:
        parts = _prompts(one, model, evaluation.seed, one.verifier or verifier)
    return EvaluationSet(
        name=one.name,
        role=one.role,
        decodings=[one.decoding_at(pace, base=decoding, own=own) for pace in one.tokens_per_step],
        metrics={name: load_function(path) for name, path in one.metrics.items()},
        **parts,
    )


def _prompts(
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


def _benchmark(
    one: SetConfig,
    benchmark: "Benchmark",
    model: "MaskedDiffusionModel",
    evaluation: EvaluationConfig,
) -> dict[str, Any]:
    from tabom.evaluation.benchmark import AskOptions

    rows = benchmark.documents(evaluation.data_dir)[: one.limit]
    judges = benchmark.judges(rows, unsafe_exec=evaluation.unsafe_exec)
    cut, limit = ending(one.setting, cut=one.cut, max_prompt_tokens=one.max_prompt_tokens)
    options = AskOptions(
        num_samples=one.num_samples, chat_template=one.chat_template, max_prompt_tokens=limit
    )
    # What was asked, wherever it came from: a name on the hub may move.
    content = keys.content_id(*(canonical_json(row) for row in rows))
    return {
        "questions": list(benchmark.questions(rows, model, options)),
        "judges": judges,
        "benchmark": benchmark,
        "until": benchmark.until,
        "cut": cut,
        "facts": {
            "data": {**benchmark.identity(evaluation.data_dir), "documents": content},
            "setting": one.setting,
            "cut": cut,
            "max_prompt_tokens": limit,
            "chat_template": one.chat_template,
            "unsafe_exec": evaluation.unsafe_exec,
            "num_samples": one.num_samples,
            "num_documents": len(rows),
        },
    }


def check_task(task: str, include_path: str | None) -> None:
    """Raise ConfigError for a task that lm-eval does not know."""
    from tabom.evaluation.harness.task import open_task

    open_task(task, include_path)


def check_benchmark(name: str, data_dir: str | None, unsafe_exec: bool) -> None:
    """Its local documents are whole, and what judges them is here. Nothing is fetched."""
    from tabom.evaluation.benchmarks import get_benchmark

    benchmark = get_benchmark(name)
    rows = [] if data_dir is None else benchmark.documents(data_dir)
    benchmark.judges(rows, unsafe_exec=unsafe_exec)


def _lm_eval() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise ConfigError(
            "a task of lm-eval's needs lm-eval, which is not installed: pip install 'tabom[eval]'"
        ) from error
