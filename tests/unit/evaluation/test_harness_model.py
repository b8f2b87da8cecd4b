"""The lm-eval model: arguments, cuts, batches, resuming, settings."""

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tabom.core.errors import ConfigError, DataError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder
from tabom.evaluation.harness.model import TabomLM
from tabom.evaluation.harness.options import DECODING, HarnessConfig
from tabom.evaluation.run import costs_of
from tabom.evaluation.sets import response_text
from tabom.evaluation.settings import SETTINGS, options_for
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.loading import load_model


@pytest.fixture(scope="module")
def loaded(tiny_dream: Path) -> MaskedDiffusionModel:
    return load_model(tiny_dream)


def instances(
    texts: list[str], *, task: str = "t", until: Any = (), repeats: int = 1, **kwargs: Any
) -> list[Any]:
    from lm_eval.api.instance import Instance

    made = []
    for i, text in enumerate(texts):
        one = Instance(
            request_type="generate_until",
            doc={},
            arguments=(text, {"until": list(until), **kwargs}),
            idx=0,
            metadata=(task, i, repeats),
        )
        made += [one] * repeats
    return made


def texts_of(num: int) -> list[str]:
    return ["x" * (1 + 7 * i % 23) + f"{i}?" for i in range(num)]


def content(lm: TabomLM) -> dict[tuple[str, int, int], Any]:
    """The tokens, steps and model calls of every response."""
    return {
        place: (tuple(t.response_ids_N.tolist()), tuple(t.step_N.tolist()), t.num_forwards)
        for place, t in lm.responses.items()
    }


def make(loaded: MaskedDiffusionModel, **arguments: Any) -> TabomLM:
    return TabomLM(model=loaded, **{"max_new_tokens": 12, **arguments})


# -- arguments ------------------------------------------------------------------------------------


def test_it_is_registered_lazily_and_by_import() -> None:
    from lm_eval.api.registry import get_model

    from tabom.evaluation import harness

    assert get_model(harness.NAME) is TabomLM
    assert f"{TabomLM.__module__}:{TabomLM.__name__}" == harness.TARGET


def test_every_decoding_option_is_a_model_argument(tiny_dream: Path) -> None:
    for name in DECODING:
        value = getattr(DecodingConfig(), name)
        config = HarnessConfig.of({"pretrained": "m", name: value})
        assert config.decoding == {name: value}
    lm = TabomLM.create_from_arg_string(
        f"pretrained={tiny_dream},policy=margin,max_new_tokens=6,tokens_per_step=3,top_p=0.5,"
        "temperature=1.5,batch_size=3,dtype=float32",
        {"batch_size": "1", "max_batch_size": None, "device": "cpu"},
    )
    decoding = lm.config.decoding_for("t", {})
    assert decoding == DecodingConfig(
        policy="margin", max_new_tokens=6, tokens_per_step=3, top_p=0.5, temperature=1.5
    )
    assert lm.config.batch_size == 3  # what the model arguments say wins
    lm.generate_until(instances(["a", "bb"]))
    assert lm.get_model_info()["tabom"]["t"]["decoding"]["policy"] == "margin"
    assert lm.get_model_info()["tabom_decoding"]["t"]["tokens_per_forward"] == 3.0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pretrained": "m", "max_new_token": 3}, "did you mean 'max_new_tokens'"),
        ({}, "model_name_or_path"),
        ({"pretrained": "m", "policy": "best"}, "policy"),
        ({"pretrained": "m", "batch_size": 0}, "must be at least 1, got 0"),
        ({"pretrained": "m", "cut": "never"}, "cut"),
        ({"pretrained": "m", "setting": "dream_papr"}, "did you mean 'dream_paper'"),
        ({"pretrained": "m", "setting": "dream_paper", "temperature": 0.5}, "taken whole"),
        ({"pretrained": "m", "setting": "dream_release", "cut": "all_ends"}, "taken whole"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        HarnessConfig.of(arguments)


def test_wrong_batch_size_and_likelihoods(loaded: MaskedDiffusionModel) -> None:
    with pytest.raises(ConfigError, match=r"batch_size.*'auto'"):
        make(loaded, batch_size="auto")
    lm = make(loaded)
    for method in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(ConfigError, match="'mmlu' asks for log-likelihoods"):
            method(instances(["a"], task="mmlu"))


def test_a_block_may_wait_for_the_budget_of_its_task() -> None:
    config = HarnessConfig.of({"pretrained": "m", "block_length": 512})
    assert config.decoding_for("t", {"max_gen_toks": 1024}).block_length == 512
    with pytest.raises(ConfigError, match=r"decoding of task t: .*does not divide"):
        config.decoding_for("t", {"max_gen_toks": 300})


# -- budgets and settings -------------------------------------------------------------------------


def test_the_budget_is_the_arguments_then_the_settings_then_the_tasks() -> None:
    task = {"max_gen_toks": 99, "until": ["Q:"], "do_sample": False, "temperature": 0.7}
    plain = HarnessConfig.of({"pretrained": "m"})
    assert plain.decoding_for("gsm8k_tabom", {}).max_new_tokens == 256
    assert plain.decoding_for("gsm8k_tabom", task) == DecodingConfig(max_new_tokens=99)
    given = HarnessConfig.of({"pretrained": "m", "max_new_tokens": 7})
    assert given.decoding_for("gsm8k_tabom", task).max_new_tokens == 7
    sampled = plain.decoding_for("t", {**task, "do_sample": True, "top_p": 0.5})
    assert (sampled.temperature, sampled.top_p) == (0.7, 0.5)
    with pytest.raises(ConfigError, match="'num_beams'"):
        plain.decoding_for("t", {"num_beams": 4})


def test_paper_and_release_differ_where_they_do() -> None:
    def budget(setting: str, task: str) -> tuple[int, int | None]:
        config = HarnessConfig.of({"pretrained": "m", "setting": setting})
        decoding = config.decoding_for(f"{task}_tabom", {"max_gen_toks": 5})
        return decoding.max_new_tokens, decoding.block_length

    assert budget("dream_paper", "mbpp") == (1024, None)
    assert budget("dream_release", "mbpp") == (512, None)
    assert budget("llada_paper", "gsm8k") == (512, 8)
    assert budget("llada_release", "gsm8k") == (256, 8)
    for setting in SETTINGS:
        assert budget(setting, "math500")[0] == 512
    for setting, is_drawn in (("dream_paper", True), ("dream_release", False)):
        config = HarnessConfig.of({"pretrained": "m", "setting": setting})
        decoding = config.decoding_for("gsm8k_tabom", {})
        assert (decoding.temperature, decoding.top_p) == (0.1, 0.9)
        assert decoding.draws_tokens is is_drawn
    release = HarnessConfig.of({"pretrained": "m", "setting": "llada_release"})
    assert release.decoding_for("mbpp_tabom", {}).confidence_eos_eot_inf
    assert release.decoding_for("humaneval_tabom", {}).logits_eos_inf
    assert release.ending[0] == "release"
    assert HarnessConfig.of({"pretrained": "m", "setting": "dream_release"}).ending[1] == 1024
    with pytest.raises(ConfigError, match="says nothing about task 'ifeval'"):
        options_for("dream_paper", "ifeval")
    with pytest.raises(ConfigError, match="says nothing about task 'arc'"):
        options_for("dream_paper", "arc")


def test_two_tokens_a_step_go_with_a_setting() -> None:
    config = HarnessConfig.of({"pretrained": "m", "setting": "dream_paper", "tokens_per_step": 2})
    assert config.decoding_for("gsm8k_tabom", {}).tokens_per_step == 2


# -- cutting --------------------------------------------------------------------------------------


def test_cut_at_the_earliest_end(loaded: MaskedDiffusionModel) -> None:
    def cut_at(text: str, until: list[str]) -> str:
        ids = loaded.tokenizer.encode(text)
        return response_text(loaded, ids, until=until, cut="all_ends")

    assert cut_at("one Q: two STOP", ["STOP", "Q:"]) == "one "
    assert cut_at("one STOP two Q:", ["Q:", "STOP"]) == "one "
    assert cut_at("Q: x", ["Q:"]) == ""
    assert cut_at("abc", ["", "d"]) == "abc"


def test_ends_of_ours_and_of_the_release(loaded: MaskedDiffusionModel) -> None:
    encode = loaded.tokenizer.encode
    end, turn, mask = (loaded.tokenizer.get_vocab()[t] for t in
                       ("<|endoftext|>", "<|im_end|>", "<|mask|>"))  # fmt: skip
    ids = [*encode("a #b"), mask, *encode("c"), turn, *encode("d # e"), end, *encode("f")]
    assert response_text(loaded, ids, until=[], cut="all_ends") == "a #bc"
    assert response_text(loaded, ids, until=["#"], cut="all_ends") == "a "
    # The release keeps end-of-turn and mask as text, unless `until` names them.
    whole = "a #b<|mask|>c<|im_end|>d # e"
    assert response_text(loaded, ids, until=[], cut="release") == whole
    assert response_text(loaded, ids, until=["<|im_end|>"], cut="release") == "a #b<|mask|>c"


# -- chat templates -------------------------------------------------------------------------------


def test_chat_template(loaded: MaskedDiffusionModel, random_toy: Path) -> None:
    lm = make(loaded)
    text = lm.apply_chat_template([{"role": "user", "content": "hi"}])
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.tokenizer.encode(text, add_special_tokens=False) == loaded.encode_prompt("hi")
    opened = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "```python\n"}]
    text = lm.apply_chat_template(opened, add_generation_prompt=False)
    assert text.endswith("<|im_start|>assistant\n```python\n")
    assert lm.tokenizer_name == loaded.name_or_path.replace("/", "__")
    template = loaded.tokenizer.chat_template
    loaded.tokenizer.chat_template = None
    try:
        with pytest.raises(ConfigError, match="has no chat template"):
            lm.apply_chat_template(opened)
    finally:
        loaded.tokenizer.chat_template = template


def test_long_prompts_keep_their_end(loaded: MaskedDiffusionModel) -> None:
    lm = make(loaded, max_prompt_tokens=5)
    lm.generate_until(instances(["abcdefgh", "abc"]))
    long, short = lm.responses["t", 0, 0], lm.responses["t", 1, 0]
    assert len(long.prompt_ids) == 5
    assert len(short.prompt_ids) == 3
    other = make(loaded)
    other.generate_until(instances(["defgh"]))
    assert content(other)["t", 0, 0] == content(lm)["t", 0, 0]


def test_a_prompt_that_the_tokenizer_cannot_read(random_toy: Path) -> None:
    lm = TabomLM(model=load_model(random_toy))
    with pytest.raises(DataError, match="cannot read the prompt of document 0 of task 't'"):
        lm.generate_until(instances(["Ünwritable"]))


# -- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "tokens_per_step": 5}])
def test_batch_eight_equals_batch_one(
    loaded: MaskedDiffusionModel, options: dict[str, Any]
) -> None:
    requests = instances(texts_of(11))
    one, eight = make(loaded, **options), make(loaded, batch_size=8, **options)
    assert one.generate_until(requests) == eight.generate_until(requests)
    assert content(one) == content(eight)
    assert len({ids for ids, _, _ in content(one).values()}) > 6  # not all alike


def test_statistics_of_a_document(loaded: MaskedDiffusionModel) -> None:
    lm = make(loaded, tokens_per_step=5)
    lm.generate_until(instances(texts_of(6)))
    for stored in lm.responses.values():
        step, costs = stored.step_N, costs_of(stored, loaded.ids.eos)
        assert costs["num_forwards"] == 3
        assert costs["tokens_per_forward"] == 4.0
        assert np.bincount(step).tolist() == [5, 5, 2]
        ends = [i for i, t in enumerate(stored.response_ids_N.tolist()) if t in loaded.ids.eos]
        assert costs["length"] == (ends[0] + 1 if ends else 12)
        assert costs["end_step"] == (step[ends[0]] if ends else -1)
    assert lm.cost_of("t")["tokens_per_forward"] == 4.0


def test_samples_differ_and_need_a_temperature(loaded: MaskedDiffusionModel) -> None:
    requests = instances(["ab", "cd"], repeats=3)
    with pytest.raises(ConfigError, match="would all be the same"):
        make(loaded).generate_until(requests)
    lm = make(loaded, temperature=1.0)
    texts = lm.generate_until(requests)
    assert len(texts) == 6
    assert len({content(lm)["t", 0, s] for s in range(3)}) == 3
    again = make(loaded, temperature=1.0, batch_size=4)
    assert again.generate_until(requests) == texts
    other = make(loaded, temperature=1.0, seed=1)
    assert other.generate_until(requests) != texts


def test_requests_of_two_tasks_have_their_own_budgets(loaded: MaskedDiffusionModel) -> None:
    lm = TabomLM(model=loaded)
    requests = instances(["a", "b"], task="short", max_gen_toks=4)
    requests += instances(["a"], task="long", max_gen_toks=9)
    lm.generate_until([requests[2], requests[0], requests[1]])
    assert {k: r.num_slots for k, r in lm.responses.items()} == {
        ("long", 0, 0): 9,
        ("short", 0, 0): 4,
        ("short", 1, 0): 4,
    }


# -- resuming -------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def counted_decode(monkeypatch: pytest.MonkeyPatch, *, stop_after: int | None = None) -> list[str]:
    given: list[str] = []
    real = Decoder.decode

    def decode(self: Decoder, *arguments: Any, **options: Any) -> Iterator[Any]:
        for item in real(self, *arguments, **options):
            if len(given) == stop_after:
                raise KilledError
            given.append(item.trajectory.id)
            yield item

    monkeypatch.setattr(Decoder, "decode", decode)
    return given


def test_a_killed_evaluation_resumes(
    loaded: MaskedDiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = instances(texts_of(10))
    whole = make(loaded)
    expected = whole.generate_until(requests)
    folder = tmp_path / "out" / "responses"
    with monkeypatch.context() as patch:
        given = counted_decode(patch, stop_after=6)
        with pytest.raises(KilledError):
            make(loaded, batch_size=2, responses=str(folder)).generate_until(requests)
        assert len(given) == 6
    torn = sorted(folder.glob("*/partial/*.arrow"))[-1]
    torn.write_bytes(torn.read_bytes()[:-9])  # what a broken disk left of it
    given = counted_decode(monkeypatch)
    resumed = make(loaded, batch_size=3, responses=str(folder))
    assert resumed.generate_until(requests) == expected
    assert 4 < len(given) < 10
    assert content(resumed) == content(whole)
    # Another decoding, seed or dtype shares nothing with it.
    for options in ({"tokens_per_step": 2}, {"seed": 2}, {"dtype": "bfloat16"}):
        del given[:]
        make(loaded, responses=str(folder), **options).generate_until(requests)
        assert len(given) == 10
    assert len(list(folder.iterdir())) == 4


def test_threshold_decoding_refills(
    model: MaskedDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows end at different steps: others come in for them, so that there are fewer calls."""
    options = {"schedule": "threshold", "threshold": 0.3, "policy": "confidence", "batch_size": 8}
    requests = instances(["".join(p) for p in permutations("abcde", 4)][:64], max_gen_toks=24)
    calls = [0]
    real = MaskedDiffusionModel.asked_hidden

    def asked(self: MaskedDiffusionModel, *arguments: Any, **more: Any) -> Any:
        calls[0] += 1
        return real(self, *arguments, **more)

    monkeypatch.setattr(MaskedDiffusionModel, "asked_hidden", asked)
    together = TabomLM(model=model, **options)
    together.generate_until(requests)
    refilled, calls[0] = calls[0], 0
    apart = TabomLM(model=model, **options)
    for start in range(0, len(requests), 8):
        apart.generate_until(requests[start : start + 8])
    assert content(together) == content(apart)
    assert refilled < 0.8 * calls[0]


def test_official_draws_do_not_depend_on_the_batch(loaded: MaskedDiffusionModel) -> None:
    options = {"schedule": "official", "policy": "entropy", "temperature": 0.5}
    requests = instances(texts_of(5))
    one, four = make(loaded, **options), make(loaded, batch_size=4, **options)
    assert one.generate_until(requests) == four.generate_until(requests)
