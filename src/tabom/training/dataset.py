"""Responses to train on, and how they become a batch. No random numbers here.

Legend: B batch, P prompt (left-padded), N response slots.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tabom.core import keys
from tabom.core.errors import ConfigError, DataError
from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.batch import TrajectoryBatch
from tabom.training.config import TrainingConfig
from tabom.training.rows import Rows, from_trajectories
from tabom.trajectory.record import FloatArray, IntArray, Trajectory
from tabom.trajectory.schema import to_arrow

Prompt = str | list[dict[str, str]]
_TOGETHER = 1024  # trajectories that become columns at one time


@dataclass(frozen=True, kw_only=True, eq=False)
class ResponseExample:
    """One response to train on.

    id: unique name; the key of its draws. prompt_ids, response_ids_N: int32.
    slot_N: bool, slots that take part (revealed by the decoder, or given by the data).
    length: slots up to and including the first end token (N if there is none).
    step_N, order_N, entropy_N: of the trajectory; None for ground truth.
    advantage: how much better than the prompt's other responses it was judged; None: not compared,
        all are right. hint_ids: int32, the prompt that a privileged reference reads.
    """

    id: str
    prompt_ids: IntArray
    response_ids_N: IntArray
    slot_N: np.ndarray
    length: int
    step_N: IntArray | None = None
    order_N: IntArray | None = None
    entropy_N: FloatArray | None = None
    advantage: float | None = None
    hint_ids: IntArray | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids_N)


class ResponseDataset(Dataset[ResponseExample]):
    """Responses, and how many rows were left out for which reason.

    Map-style, deterministic: what is drawn at random is drawn later, by key. The responses lie in
    Arrow columns, perhaps of a mapped file; one is an object while it is asked for.
    held_out: further responses, for the held-out loss alone.
    num_tokens: int32, of prompt and slots, one for each response.
    """

    def __init__(
        self,
        examples: "Rows | Iterable[ResponseExample]",
        *,
        rows: np.ndarray | None = None,
        advantages: np.ndarray | None = None,
        dropped: Mapping[str, int] | None = None,
        held_out: "ResponseDataset | Iterable[ResponseExample] | None" = None,
    ) -> None:
        """rows: of `examples`, increasing; None: all. advantages: float64, in place of its own."""
        self._all = examples if isinstance(examples, Rows) else Rows.of(examples)
        self._rows = np.arange(len(self._all)) if rows is None else rows
        self._advantages = self._all.advantage if advantages is None else advantages
        self.dropped = dict(dropped or {})
        if held_out is not None and not isinstance(held_out, ResponseDataset):
            held_out = ResponseDataset(held_out)
        self.held_out = held_out if held_out is not None and len(held_out) else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ResponseExample:
        row = int(self._rows[index])
        cells = self._all[row]
        advantage = float(self._advantages[row])
        return ResponseExample(
            id=cells["id"],
            prompt_ids=cells["prompt_ids"],
            response_ids_N=cells["response_ids"],
            slot_N=cells["slot"].view(bool),
            length=cells["length"],
            step_N=cells["step"],
            order_N=cells["order"],
            entropy_N=cells["entropy"],
            advantage=None if np.isnan(advantage) else advantage,
            hint_ids=cells["hint_ids"],
        )

    def __iter__(self) -> Iterator[ResponseExample]:
        return (self[i] for i in range(len(self)))

    @property
    def prompt_tokens(self) -> np.ndarray:
        """int32, of each prompt."""
        return self._all.prompt_tokens[self._rows]

    @property
    def num_tokens(self) -> np.ndarray:
        """int32, of each prompt with its slots."""
        total: np.ndarray = self.prompt_tokens + self._all.num_slots[self._rows]
        return total

    def questions(self) -> Iterator[pa.Array]:
        """What was asked, in parts."""
        return self._all.questions(self._rows)

    @property
    def fingerprint(self) -> str:
        """Of all that is trained on, in its order."""
        chosen = self._rows.tobytes(), self._advantages[self._rows].tobytes()
        return keys.content_id(self._all.fingerprint, *chosen)

    def chosen(
        self, keep: np.ndarray, why: str = "", *, advantages: np.ndarray | None = None
    ) -> "ResponseDataset":
        """Some of the responses. keep: bool, one each. why: the others are counted under it."""
        dropped = Counter(self.dropped)
        if why and not keep.all():
            dropped[why] += int((~keep).sum())
        return ResponseDataset(
            self._all,
            rows=self._rows[keep],
            advantages=self._advantages if advantages is None else advantages,
            dropped=dropped,
            held_out=self.held_out,
        )

    def revealed(self) -> "ResponseDataset":
        """All but those in which nothing was revealed, which are counted."""
        return self.chosen(self._all.num_revealed[self._rows] > 0, "no slot was revealed")

    def in_groups(self) -> "ResponseDataset":
        """The same with each advantage relative to the prompt's other responses.

        It is the verdict (1 where it was above 0, else 0) less its mean over the responses of the
        prompt; prompts whose responses are judged alike are left out.
        Raises: DataError if nothing is left.
        """
        is_right = self._all.advantage[self._rows] > 0
        _, group = np.unique(self._all.prompt_key[self._rows], return_inverse=True)
        mean = (np.bincount(group, weights=is_right) / np.bincount(group))[group]
        keep = (mean > 0) & (mean < 1)
        if not keep.any():
            raise DataError(
                "no prompt has both a right and a wrong response, so none is better than the "
                "others; collect with num_samples above 1 and a temperature"
            )
        advantages = self._advantages.copy()
        advantages[self._rows] = is_right - mean
        return self.chosen(keep, advantages=advantages)

    def prepared(self, config: TrainingConfig) -> "ResponseDataset":
        """What `config` trains on: without longer responses, and with some prompts held out.

        Raises: DataError if nothing is left to train on, if canvases differ in size, or if only
            some responses have an order.
        """
        longest = config.max_length or sys.maxsize
        kept = self.chosen(self.num_tokens <= longest, f"longer than max_length {longest}")
        if not len(kept):
            reasons = (
                ", ".join(f"{n} {why}" for why, n in kept.dropped.items()) or "none were given"
            )
            raise DataError(
                f"nothing to train on: 0 responses are left ({reasons}); collect more prompts, "
                f"check what the verifier refused, or raise max_new_tokens / max_length"
            )
        if kept.held_out is None and (config.eval_size or config.eval_fraction):
            is_held = held_out_prompts(kept._all.prompt_key[kept._rows], config)
            held_out, kept = kept.chosen(is_held), kept.chosen(~is_held)
            kept.held_out = held_out
        # Batches stack canvases, and an objective that needs an order needs it of every response.
        parts = [kept] if kept.held_out is None else [kept, kept.held_out]
        for what, of in (
            ("number of response slots", lambda d: d._all.num_slots),
            ("presence of a decoding order", lambda d: d._all.has_order),
            ("presence of an advantage", lambda d: ~np.isnan(d._advantages)),
            ("presence of a hint", lambda d: d._all.has_hint),
        ):
            values = {v for d in parts for v in np.unique(of(d)[d._rows]).tolist()}
            if len(values) > 1:
                raise DataError(
                    f"training data differ in the {what}: {sorted(values)}; train on one kind at "
                    f"a time (collect with one max_new_tokens; do not mix ground truth and "
                    f"trajectories)"
                )
        return kept


def examples_from_trajectories(
    trajectories: Iterable[Trajectory],
    *,
    end_ids: Sequence[int],
    advantages: Mapping[str, float] | None = None,
) -> ResponseDataset:
    """Examples with the decoder's order.

    end_ids: every id that ends a response (`model.ids.eos`).
    advantages: of every trajectory by its id, where they are compared.
    Returns: the examples; a trajectory in which nothing was revealed is dropped and counted.
    """
    batches, left = [], iter(trajectories)
    while part := list(islice(left, _TOGETHER)):
        worth = np.array([advantages[t.id] for t in part]) if advantages else None
        batches.append(from_trajectories(to_arrow(part), end_ids=end_ids, advantages=worth))
    return ResponseDataset(Rows(batches)).revealed()


def hint_ids(
    trajectory: Mapping[str, Any], *, template: str, model: MaskedDiffusionModel
) -> IntArray:
    """The prompt of a privileged teacher.

    trajectory: its id, prompt, reference and row. template: with {prompt} and {answer}, the data's
        own answer, else the reference.
    Raises: DataError for a trajectory without an answer; ConfigError for a bad template.
    """
    if "{answer}" not in template or "{prompt}" not in template:
        raise ConfigError(f"hint {template!r} must hold {{prompt}} and {{answer}}")
    answer = str(trajectory["row"].get("ground_truth") or trajectory["reference"])
    if not answer:
        raise DataError(
            f"trajectory {trajectory['id']!r} has no reference answer, which the teacher of this "
            "objective reads; set prompts.reference_column, or the option hint to false"
        )
    text = template.replace("{prompt}", trajectory["prompt"]).replace("{answer}", answer)
    return np.asarray(model.encode_prompt(text), dtype=np.int32)


def examples_from_text(
    rows: Iterable[tuple[Prompt, str]], *, model: MaskedDiffusionModel, max_new_tokens: int
) -> ResponseDataset:
    """Examples from ground-truth answers: text, the end token, then filler to N slots.

    rows: (prompt, answer text). max_new_tokens: N.
    Returns: the examples; an empty answer, and one that does not fit into N slots with its end
        token, are dropped and counted.
    """
    examples, dropped = [], Counter[str]()
    for prompt, text in rows:
        try:
            answer = model.encode_text(text)
        except Exception as error:  # tokenizers raise bare Exceptions
            raise DataError(
                f"the answer {text[:60]!a} does not go through the tokenizer of "
                f"{model.name_or_path} ({type(error).__name__}: {error})"
            ) from error
        # The closing token takes a slot too, and an answer without it would teach no ending.
        length = len(answer) + 1
        if not answer:
            dropped["empty answer"] += 1
            continue
        if length > max_new_tokens:
            dropped[f"answer longer than max_new_tokens {max_new_tokens}"] += 1
            continue
        prompt_ids = np.asarray(model.encode_prompt(prompt), dtype=np.int32)
        response_ids_N = np.full(max_new_tokens, model.ids.filler, dtype=np.int32)
        response_ids_N[:length] = [*answer, model.ids.end]
        examples.append(
            ResponseExample(
                # An id made of the content gives the same contexts in whatever order the rows come.
                id=keys.content_id(prompt_ids.tobytes(), response_ids_N.tobytes()),
                prompt_ids=prompt_ids,
                response_ids_N=response_ids_N,
                slot_N=np.ones(max_new_tokens, dtype=bool),
                length=length,
            )
        )
    return ResponseDataset(examples, dropped=dropped)


def held_out_prompts(prompt_key: np.ndarray, config: TrainingConfig) -> np.ndarray:
    """bool, which responses are held out: whole prompts, so no answer to one is seen in training.

    prompt_key: int64, of each response's prompt.
    """
    known = np.unique(prompt_key)
    # The rank of a prompt depends on itself and the seed alone, not on the order of the rows.
    ranked = known[np.lexsort((known, keys.uniform(config.seed, known)))]
    number = config.eval_size or round(config.eval_fraction * len(ranked))
    if number >= len(ranked):
        raise DataError(
            f"cannot hold out {number} prompts of {len(ranked)}: nothing is left to train on; "
            f"lower eval_size or eval_fraction"
        )
    return np.isin(prompt_key, ranked[:number])


def collate(examples: Sequence[ResponseExample], *, pad_id: int, mask_id: int) -> TrajectoryBatch:
    """Left-pad the prompts and stack everything else, on the CPU."""
    prompt_ids_BP, prompt_mask_BP = _left_padded([e.prompt_ids for e in examples], pad_id)
    hints = [e.hint_ids for e in examples if e.hint_ids is not None]
    hint_ids_BQ, hint_mask_BQ = _left_padded(hints, pad_id) if hints else (None, None)
    advantages = [e.advantage for e in examples if e.advantage is not None]

    def stack(name: str, dtype: Any) -> Tensor:
        return torch.from_numpy(np.stack([getattr(e, name) for e in examples]).astype(dtype))

    has_order = examples[0].order_N is not None
    has_entropy = examples[0].entropy_N is not None
    return TrajectoryBatch(
        prompt_ids_BP=prompt_ids_BP,
        prompt_mask_BP=prompt_mask_BP,
        response_ids_BN=stack("response_ids_N", np.int64),
        key_B=torch.tensor([keys.text_key(e.id) for e in examples]),
        slot_BN=stack("slot_N", bool),
        length_B=torch.tensor([e.length for e in examples]),
        mask_id=mask_id,
        order_BN=stack("order_N", np.int64) if has_order else None,
        step_BN=stack("step_N", np.int64) if has_order else None,
        entropy_BN=stack("entropy_N", np.float32) if has_entropy else None,
        advantage_B=torch.tensor(advantages, dtype=torch.float32) if advantages else None,
        hint_ids_BQ=hint_ids_BQ,
        hint_mask_BQ=hint_mask_BQ,
    )


def _left_padded(prompts: Sequence[IntArray], pad_id: int) -> tuple[Tensor, Tensor]:
    """int64 ids and mask (1 for real tokens) of prompts, padded on the left."""
    longest = max(map(len, prompts))
    ids_BP = np.full((len(prompts), longest), pad_id, dtype=np.int64)
    mask_BP = np.zeros_like(ids_BP)
    for i, ids in enumerate(prompts):
        ids_BP[i, longest - len(ids) :] = ids
        mask_BP[i, longest - len(ids) :] = 1
    return torch.from_numpy(ids_BP), torch.from_numpy(mask_BP)
