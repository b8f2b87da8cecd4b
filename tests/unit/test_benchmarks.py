"""The benchmarks measure what they say: equal numbers both ways, honest arithmetic, pages render.

Legend: B batch, R rows, W window.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("common", "synthetic", "usual", "random_models", "head", "ranking", "step")
NAMES = (*NAMES, "loading", "scaling", "tables", "quick")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The scripts as modules; their folder is on the path only while these tests run."""
    before = set(sys.modules)
    threads = torch.get_num_threads()
    sys.path.insert(0, str(FOLDER))
    try:
        modules: dict[str, ModuleType] = {name: __import__(name) for name in NAMES}
        yield SimpleNamespace(**modules)
    finally:
        sys.path.remove(str(FOLDER))
        torch.set_num_threads(threads)
        for name in set(sys.modules) - before:
            if (
                getattr(sys.modules[name], "__file__", None)
                and FOLDER in Path(str(sys.modules[name].__file__)).resolve().parents
            ):
                del sys.modules[name]


# ---- the harness ----


def test_paired_rotates_the_order_and_divides_by_the_repeats(bench: Any) -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = bench.common.paired(calls, rounds=3, repeat=2)
    assert order == list("aabbccbbccaaccaabb")
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio_is_taken_within_rounds(bench: Any) -> None:
    times = {"slow": [2.0, 9.0, 8.0], "fast": [1.0, 3.0, 1.0]}
    assert bench.common.ratio(times, "slow", "fast") == {"median": 3.0, "low": 2.0, "high": 8.0}


@pytest.mark.parametrize(
    ("measured", "at_most", "holds"), [(2.0, False, True), (1.9, False, False), (1.9, True, True)]
)
def test_a_claim_holds_only_on_the_right_side_of_its_bar(
    bench: Any, measured: float, at_most: bool, holds: bool
) -> None:
    assert bench.common.claim("x", measured, bar=2.0, at_most=at_most)["holds"] is holds


def test_a_claim_is_judged_by_its_median(bench: Any) -> None:
    one = bench.common.claim("x", {"median": 1.0, "low": 0.5, "high": 9.0}, bar=2.0)
    assert (one["holds"], one["high"]) == (False, 9.0)


def test_assert_close_names_what_is_off(bench: Any) -> None:
    close = bench.common.assert_close
    found = close({"a": torch.tensor([1.0, 2.5])}, {"a": torch.tensor([1.0, 2.0])}, rtol=0.3)
    assert found == {"a": {"abs": 0.5, "rel": 0.25}}
    with pytest.raises(AssertionError, match=r"a: differs by 0\.5, 0\.4 is allowed"):
        close({"a": 2.5}, {"a": 2.0}, rtol=0.2)
    with pytest.raises(AssertionError, match="differs by nan"):
        close({"a": math.nan}, {"a": 2.0}, rtol=9.0)
    with pytest.raises(AssertionError, match=r"shape \(1,\), expected \(2,\)"):
        close({"a": torch.ones(1)}, {"a": torch.ones(2)})


def test_peak_memory_sees_a_buffer_that_is_freed_again(bench: Any) -> None:
    # The full logits of the usual way, [1, 16, 200000] float32, are 12.8 MB; it holds several.
    sizes = {"batch_size": 1, "hidden_size": 4, "window": 4, "num_prompt": 8, "num_slots": 8}
    peak = bench.common.peak_memory(
        bench.head.make_call,
        warm_up={"vocab_size": 600},
        variant="usual",
        vocab_size=200_000,
        **sizes,
    )
    assert 2 * 12.8e6 < peak < 20 * 12.8e6


# ---- the usual way is the same loss ----


@pytest.mark.parametrize("window", [4, 32])
def test_every_head_gives_the_loss_and_gradient_of_float64(bench: Any, window: int) -> None:
    inputs = bench.head.make_inputs(
        batch_size=3, hidden_size=16, window=window, vocab_size=600, num_prompt=8, num_slots=32
    )
    expected = bench.head.reference(inputs)
    assert expected["hidden gradient"].dtype == torch.float64
    assert expected["hidden gradient"].abs().max() > 1e-3
    for variant in ("usual", "gathered", "ours", "tiled"):
        found = bench.head.check(variant, bench.head.bind(variant, inputs), expected)
        assert found["loss"]["rel"] < 1e-6
    wrong = {**expected, "hidden gradient": 1.001 * expected["hidden gradient"]}
    with pytest.raises(AssertionError, match="tiled: hidden gradient: differs by"):
        bench.head.check("tiled", bench.head.bind("tiled", inputs), wrong)


def test_the_usual_loss_by_hand(bench: Any) -> None:
    """One response of two slots, both targets, slot 1 revealed first; V = 2, no shift."""
    a, b = 0.7, -0.4  # logit of token 0 over token 1 in slots 0 and 1
    logits = torch.tensor([[[9.0, 0.0], [a, 0.0], [b, 0.0]]])
    batch = bench.usual.UsualBatch(
        input_ids_BS=torch.zeros(1, 3, dtype=torch.int64),
        attention_mask_BS=torch.ones(1, 3, dtype=torch.int64),
        label_BN=torch.tensor([[0, 1]]),
        window=[torch.tensor([1, 0])],
    )

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    p_a, p_b = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
    ce = (-math.log(p_a) - math.log(1 - p_b)) / 2
    hinge = max(0.0, entropy(p_b) - entropy(p_a) + 0.2)
    assert hinge > 0.2
    loss = bench.usual.full_logit_loss(logits, batch, shift=False, rank_weight=2.0, margin=0.2)
    assert float(loss) == pytest.approx(ce + 2 * hinge, abs=1e-6)
    shifted = bench.usual.full_logit_loss(logits.roll(-1, 1), batch, shift=True, rank_weight=2.0)
    assert float(shifted) == pytest.approx(float(loss), abs=1e-6)


def test_three_forms_of_the_ranking_term_agree(bench: Any) -> None:
    calls = bench.ranking.make_calls(batch_size=3, window=6)
    expected = calls["ours"]()
    assert float(expected["loss"]) > 0.1
    for name in ("loop over responses", "loop over pairs"):
        torch.testing.assert_close(calls[name](), expected)


def test_both_training_steps_give_the_same_adapter_gradients(bench: Any) -> None:
    steps = bench.step.Steps(**{**next(iter(bench.step.CASES.values())), **bench.step.TINY})
    assert not bool(steps.responses.prompt_mask_BP.all())  # the batch is padded
    calls = steps.calls(update=False)
    expected, found = calls["usual"](), calls["ours"]()
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-6, atol=1e-5)
    assert expected["gradient"].abs().max() > 1e-4
    scale = float(expected["gradient"].abs().max())
    torch.testing.assert_close(
        found["gradient"], expected["gradient"], rtol=1e-3, atol=1e-5 * scale
    )


def test_a_step_changes_the_adapters_alone(bench: Any) -> None:
    steps = bench.step.Steps(**{**next(iter(bench.step.CASES.values())), **bench.step.TINY})
    before = {name: p.detach().clone() for name, p in steps.model.named_parameters()}
    steps.calls()["ours"]()
    changed = {
        name for name, p in steps.model.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed
    assert all(".lora_" in name for name in changed)


# ---- lines and bends ----


def test_fit_finds_a_line_and_where_a_curve_bends(bench: Any) -> None:
    line = bench.scaling.fit([1, 2, 4, 8], [5.0, 7.0, 11.0, 19.0])
    assert line["slope"] == pytest.approx(2.0)
    assert line["start"] == pytest.approx(3.0)
    assert line["r2"] == pytest.approx(1.0)
    assert line["bends_at"] is None
    assert bench.scaling.fit([1, 2, 3, 4, 8], [1.0, 2.0, 3.0, 4.4, 16.0])["bends_at"] == 8


# ---- the command line, the page and the ratios ----


@pytest.mark.parametrize("name", ["head", "ranking", "loading"])
def test_a_tiny_run_writes_a_record_that_the_page_can_show(
    bench: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = getattr(bench, name)
    argv = ["--tiny", "--rounds", "1", "--no_memory", "--output", str(tmp_path)]
    payload = bench.common.run_benchmark(name, script.measure, argv=argv)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert (record["name"], record["tiny"], record["rounds"]) == (name, True, 1)
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["results"]["claims"]) == len(payload["claims"]) > 0
    shown = bench.tables.render(name, folder=tmp_path)
    assert payload["claims"][0]["name"] in shown
    assert record["command"] in shown
    assert f"wrote {name}.json" in capsys.readouterr().out


def test_rounds_below_one_are_refused(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.common.run_benchmark("x", bench.head.measure, argv=["--rounds", "0"])
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err


def test_tables_replace_what_is_between_the_markers(bench: Any, tmp_path: Path) -> None:
    page = "before\n<!-- table: ranking -->\nold numbers\n<!-- end -->\nafter\n"
    made = bench.tables.rewrite(page, folder=tmp_path)
    assert "old numbers" not in made
    assert "Not measured yet" in made
    assert made.startswith("before\n<!-- table: ranking -->\n")
    assert made.endswith("<!-- end -->\nafter\n")
    assert bench.tables.rewrite(made, folder=tmp_path) == made
    with pytest.raises(ValueError, match="no table 'heads'; there are head, "):
        bench.tables.rewrite("<!-- table: heads --><!-- end -->", folder=tmp_path)


def test_a_missed_bar_is_shown_as_missed(bench: Any) -> None:
    claims = [
        bench.common.claim("good", {"median": 25.0, "low": 19.0, "high": 31.0}, bar=20),
        bench.common.claim("bad", 1.5, bar=1, unit="ms", at_most=True),
    ]
    lines = bench.tables.claims_table({"results": {"claims": claims}}).splitlines()
    assert lines[2] == "| good | at least 20 x less time | 25.0 [19.0, 31.0] | yes |"
    assert lines[3] == "| bad | at most 1 ms | 1.50 | **no** |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"),
     (1234.4, "1,234"), (0.00001234, "1.2e-05")],
)  # fmt: skip
def test_numbers_have_three_digits(bench: Any, value: float, text: str) -> None:
    assert bench.tables.number(value) == text


def test_the_page_names_only_tables_that_there_are(bench: Any) -> None:
    page = bench.tables.PAGE.read_text(encoding="utf-8")
    assert set(bench.tables.re.findall(r"<!-- table: ([\w-]+) -->", page)) == set(
        bench.tables.TABLES
    )


def test_quick_prints_now_beside_committed(bench: Any) -> None:
    now = {"a": {"median": 2.0, "low": 1.0, "high": 3.0}, "b": {"median": 1.0, "low": 1, "high": 1}}
    text = bench.quick.report(now, {"a": {"median": 9.0, "low": 8.0, "high": 10.0}})
    assert "a  2.00 [1.00, 3.00] / 9.00 [8.00, 10.0]  <- far from the committed" in text
    assert text.endswith("b  1.00 / none")


def test_quick_runs(bench: Any) -> None:
    found = bench.quick.measure(rounds=1, is_tiny=True)
    assert len(found) == 7
    assert all(ratio["median"] > 0 for ratio in found.values())


def test_ratios_of_one_kind_leave_the_other(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "ratios.json"
    bench.tables.write_ratios({"quick": {"a": 1}}, path=path)
    bench.tables.write_ratios({"full": {"b": 2}}, path=path)
    assert json.loads(path.read_text()) == {"quick": {"a": 1}, "full": {"b": 2}}
