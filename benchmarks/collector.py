"""The collector's loop against the usual way: equal tokens and steps, less time and memory.

    python benchmarks/collector.py [--rounds 3] [--only "steps A,memory"] [--tiny]

Whole runs at the full vocabulary take minutes, so one step is timed at three states of the schedule
(all slots masked, half, one; filled slots are random, and so are the weights) and integrated over
the run by the trapezoid rule. The next state is asserted equal at every state, and whole runs are
asserted equal end to end on a smaller network at the same vocabulary. Opponent: usual_decoding.py.

Legend: B batch, S prompt + response, P prompt, N response slots, R rows, V vocabulary.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import torch
from torch import Tensor

import usual_decoding as usual
from collector_batches import early_ends, padding, scaling
from common import RESULTS, SEED, Call, load, paired, peak_memory, ratio, run_benchmark, say
from decoding_steps import body, canvas_of, integrate, our_step, state
from random_models import SMALL_BODY, build_model
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.decoding.sampling import kept_tokens
from tabom.models.compiled import compile_layers
from tabom.models.contract import MaskedDiffusionModel
from tabom.vocabulary.softmax import RunningSoftmax
from tabom.vocabulary.tiles import LOWEST

# Body 25.0M weights, head 2.1M: Dream-7B's ratio of 12 to 1.
DREAM_RATIO = {**SMALL_BODY, "intermediate_size": 1376, "num_layers": 20, "vocab_size": 8192}
NUCLEUS = {"temperature": 0.1, "top_p": 0.9}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. block_length: LLaDA's function; None: Dream's."""

    family: str
    model: Mapping[str, Any]
    bar: float = 0.0
    title: str = ""
    batch_size: int = 8
    num_prompt: int = 64
    num_slots: int = 128
    block_length: int | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    is_compiled: bool = False  # ours alone, by `collection.torch_compile`; compiling is not timed

    @property
    def config(self) -> DecodingConfig:
        return DecodingConfig(
            policy="entropy" if self.block_length is None else "confidence",
            max_new_tokens=self.num_slots,
            block_length=self.block_length,
            greedy_tokens=self.decoding.get("temperature", 0) > 0,
            **self.decoding,
        )

    def tiny(self) -> "Case":
        model = {**self.model, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 512}
        block = None if self.block_length is None else 4
        return replace(
            self, model={**model, "num_layers": 2}, batch_size=2, num_prompt=4, num_slots=8,
            block_length=block,
        )  # fmt: skip


CASES = {
    "A": Case(title="V=152064, small body", family="dream", model=SMALL_BODY, bar=2.5),
    "B": Case(
        title="Dream's ratio of head to body, 1:12",
        family="dream",
        model=DREAM_RATIO,
        bar=1.15,
        num_slots=64,
    ),
    "B compiled": Case(
        title="Dream's ratio, 1:12, our layers compiled",
        family="dream",
        model=DREAM_RATIO,
        bar=1.15,
        num_slots=64,
        is_compiled=True,
    ),
    "LLaDA": Case(
        title="V=126464, blocks of 32",
        family="llada",
        model={**SMALL_BODY, "vocab_size": 126464, "num_kv_heads": 4},
        bar=5.0,
        block_length=32,
    ),
    "top-p": Case(
        title="A at temperature 0.1, top-p 0.9",
        family="dream",
        model=SMALL_BODY,
        bar=3.0,
        decoding=NUCLEUS,
    ),
}


# ---- one step of either way ----


def state_of(model: MaskedDiffusionModel, case: Case, num_masked: int) -> Tensor:
    """The ids `[B, S]` of a case with so many slots (of the first block) masked."""
    return state(
        model,
        batch_size=case.batch_size,
        num_prompt=case.num_prompt,
        num_slots=case.num_slots,
        num_masked=num_masked,
        block_length=case.block_length,
        seed=SEED,
    )


def our_call(model: MaskedDiffusionModel, ids_BS: Tensor, case: Case) -> Callable[[], Tensor]:
    """One step of the product on these ids."""
    canvas = canvas_of(model, ids_BS, num_slots=case.num_slots)
    return lambda: our_step(model, canvas, case.config)


def usual_step(model: MaskedDiffusionModel, ids_BS: Tensor, case: Case) -> Tensor:
    """The ids after one call of the usual loop that reveals one slot a row."""
    with torch.inference_mode():
        if case.block_length is None:
            return usual.dream_step(model, ids_BS, None, count=1, **case.decoding)
        end = case.num_prompt + case.block_length
        return usual.llada_step(model, ids_BS, None, counts=[1] * len(ids_BS), block_end=end)


def measure_steps(case: Case, *, rounds: int) -> dict[str, Any]:
    """Ratios of whole runs, integrated from three states; the next state is asserted equal."""
    model = ours_model = build_model(case.family, **case.model)
    if case.is_compiled:
        ours_model = build_model(case.family, **case.model)
        compile_layers(ours_model)
    length = case.block_length or case.num_slots
    points = (length, length // 2, 1)
    seconds: dict[int, dict[str, list[float]]] = {}
    for num_masked in points:
        ids_BS = state_of(model, case, num_masked)
        call = our_call(ours_model, ids_BS, case)
        ours, theirs = call(), usual_step(model, ids_BS, case)
        if not torch.equal(ours, theirs) or torch.equal(ours, ids_BS):
            raise AssertionError(f"with {num_masked} masked the next states differ")
        calls: dict[str, Call] = {
            "usual": lambda ids=ids_BS: usual_step(model, ids, case),
            "ours": call,
            "body": lambda ids=ids_BS: body(model, ids),
        }
        seconds[num_masked] = paired(calls, rounds=rounds)
    blocks = case.num_slots // length
    runs = {
        name: [blocks * integrate({n: seconds[n][name][i] for n in points}) for i in range(rounds)]
        for name in ("usual", "ours", "body")
    }
    found = ratio(runs, "usual", "ours")
    return {
        "ratio": found,
        "bar": case.bar,
        "is_met": found["median"] >= case.bar,
        "bound, the layers alone": ratio(runs, "usual", "body"),
        "seconds of a run": {name: statistics.median(values) for name, values in runs.items()},
        "seconds of a step by masked slots": {
            str(n): {name: statistics.median(values) for name, values in at.items()}
            for n, at in seconds.items()
        },
    }


# ---- equality of whole runs, and of kept sets ----


def whole_runs(*, is_tiny: bool) -> dict[str, str]:
    """Tokens and steps of whole runs, ours against the usual loop, at the full vocabulary."""
    small = {**SMALL_BODY, "hidden_size": 64, "intermediate_size": 128, "num_layers": 2}
    num_slots, done = 16, {}
    for family, block_length in (("dream", None), ("llada", 8)):
        vocab_size = 512 if is_tiny else {"dream": 152064, "llada": 126464}[family]
        model = build_model(family, **{**small, "vocab_size": vocab_size, "num_kv_heads": 4})
        case = Case(
            family=family, model={}, batch_size=3, num_prompt=12, num_slots=num_slots,
            block_length=block_length,
        )  # fmt: skip
        ids_BS = state_of(model, case, block_length or num_slots)
        prompts = ids_BS[:, : case.num_prompt].tolist()
        requests = [DecodeRequest(id=str(b), prompt_ids=p) for b, p in enumerate(prompts)]
        official = replace(
            case.config,
            schedule="official",
            policy="entropy" if family == "dream" else "low_confidence",
        )
        for config in (case.config, official):
            schedule = "official" if config.is_official else "uniform"
            if family == "dream":
                run = usual.dream(model, ids_BS, None, num_slots=num_slots, schedule=schedule)
            else:
                run = usual.llada(model, ids_BS, None, num_slots=num_slots, block_length=8)
            ours = [
                d.trajectory
                for d in Decoder(model, config, batch_size=len(prompts)).in_order(requests)
            ]
            if [t.response_ids_N.tolist() for t in ours] != run.response_ids_BN.tolist() or [
                t.step_N.tolist() for t in ours
            ] != run.step_BN.tolist():
                raise AssertionError(f"{family}, {schedule} schedule: the runs differ")
            done[f"{family}, {schedule} schedule"] = (
                f"equal tokens and steps: {len(prompts)} rows of {num_slots} slots, V={vocab_size}"
            )
    return done


def kept_by_us(logits_RV: Tensor) -> Tensor:
    """Which tokens our nucleus keeps, bool `[R, V]`."""
    config = DecodingConfig(temperature=1.0, top_p=NUCLEUS["top_p"])
    kept_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
    softmax = RunningSoftmax.of_logits(logits_RV)
    for row_M, id_MK, value_MK in kept_tokens(logits_RV.clone(), softmax, config):
        m, k = (value_MK > LOWEST).nonzero(as_tuple=True)
        kept_RV[row_M[m], id_MK[m, k]] = True
    return kept_RV


def kept_sets(*, is_tiny: bool) -> dict[str, dict[str, int]]:
    """The nucleus at T=0.1, top_p=0.9: ours against a full sort, on rows from peaked to flat."""
    vocab_size, num_rows, found = (512 if is_tiny else 152064), 32, {}
    generator = torch.Generator().manual_seed(SEED)
    for name, deviation in (("peaked", 3.2), ("middling", 0.3), ("flat", 0.05)):
        logits_RV = deviation * torch.randn(num_rows, vocab_size, generator=generator)
        logits_RV = logits_RV / NUCLEUS["temperature"]
        theirs_RV = usual.keep_top_p(logits_RV, NUCLEUS["top_p"]) > LOWEST
        ours_RV = kept_by_us(logits_RV)
        exact_RV = usual.keep_top_p(logits_RV.double(), NUCLEUS["top_p"]) > LOWEST
        differing_R = (ours_RV != theirs_RV).sum(dim=1)
        found[name] = {
            "rows": num_rows,
            "rows with an equal kept set": int((differing_R == 0).sum()),
            "most tokens that differ in a row": int(differing_R.max()),
            "rows equal to a float64 sort, ours": int((ours_RV == exact_RV).all(1).sum()),
            "rows equal to a float64 sort, usual": int((theirs_RV == exact_RV).all(1).sum()),
            "tokens kept, median": int(theirs_RV.sum(dim=1).median()),
        }
    if found["peaked"]["rows with an equal kept set"] != num_rows:
        raise AssertionError(f"kept sets differ: {found['peaked']}")
    return found


# ---- memory ----


def make_step(*, way: str, model: dict[str, Any], batch_size: int, num_slots: int) -> Call:
    """The first step of a run (all slots masked), for `peak_memory`."""
    case = Case(family="dream", model=model, batch_size=batch_size, num_slots=num_slots)
    network = build_model("dream", **model)
    ids_BS = state_of(network, case, num_slots)
    calls: dict[str, Callable[[], Tensor]] = {
        "usual": lambda: usual_step(network, ids_BS, case),
        "ours": our_call(network, ids_BS, case),
        "body": lambda: body(network, ids_BS),
    }
    return calls[way]


def memory(*, is_tiny: bool) -> dict[str, Any]:
    """Peak extra memory of one step, a process a figure."""
    width = 32 if is_tiny else 64
    model = {**SMALL_BODY, "hidden_size": width, "intermediate_size": 2 * width, "num_layers": 2}
    shapes = [(8, 128), (8, 256), (32, 128), (32, 256)]
    if is_tiny:
        model["vocab_size"], shapes = 4096, [(2, 8), (4, 8)]
    mib, rows = 2**20, []
    for batch_size, num_slots in shapes:
        row: dict[str, Any] = {"batch": batch_size, "slots": num_slots}
        ways = ["body", "ours"]
        if (batch_size, num_slots) == shapes[0]:  # larger ones do not fit this machine
            ways.append("usual")
        for way in ways:
            bytes_used = peak_memory(
                make_step,
                warm_up={"batch_size": 1, "num_slots": 4},
                way=way,
                model=model,
                batch_size=batch_size,
                num_slots=num_slots,
            )
            row[f"{way} MiB"] = bytes_used / mib
        row["ours over the layers alone MiB"] = row["ours MiB"] - row["body MiB"]
        say(f"  memory {row}")
        rows.append(row)
    return {"vocabulary": model["vocab_size"], "steps": rows}


# ---- all of it ----


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The sections asked for; with --only, the others stay as they were saved."""
    only = args.only.split(",") if args.only else list(SECTIONS)
    unknown = sorted(set(only) - set(SECTIONS))
    if unknown:
        raise SystemExit(f"--only {','.join(unknown)}: take some of {', '.join(SECTIONS)}")
    payload = {}
    if args.only and not args.tiny:
        payload = (load("collector", folder=args.output or RESULTS) or {}).get("results", {})
    for name in only:
        say(f"{name} ...")
        found = SECTIONS[name](args)
        payload[name] = {"date": date.today().isoformat(), "rounds": args.rounds, **found}
    return payload


def _steps(case: Case) -> Callable[[argparse.Namespace], dict[str, Any]]:
    def section(args: argparse.Namespace) -> dict[str, Any]:
        found = measure_steps(case.tiny() if args.tiny else case, rounds=args.rounds)
        say(f"  {case.title}: {found['ratio']} (bar {case.bar})")
        return {"title": case.title, **found}

    return section


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "equal runs": lambda args: whole_runs(is_tiny=args.tiny),
    "kept sets": lambda args: kept_sets(is_tiny=args.tiny),
    "padding": lambda args: padding(num_prompts=400 if args.tiny else 18_000),
    "scaling": lambda args: scaling(rounds=args.rounds, is_tiny=args.tiny),
    "early ends": lambda args: early_ends(rounds=args.rounds, is_tiny=args.tiny),
    "memory": lambda args: memory(is_tiny=args.tiny),
    **{f"steps {name}": _steps(case) for name, case in CASES.items()},
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help=f"sections, of {', '.join(SECTIONS)}")


if __name__ == "__main__":
    run_benchmark("collector", measure, rounds=3, add_arguments=_add_arguments)
