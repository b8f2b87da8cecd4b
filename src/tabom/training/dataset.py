"""Responses to train on, and how they become a batch. No random numbers here.

Legend: B batch, P prompt (left-padded), N response slots.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tabom.core import keys
from tabom.core.errors import ConfigError, DataError
from tabom.models.contract import MaskedDiffusionModel
from tabom.objectives.batch import TrajectoryBatch
from tabom.training.config import TrainingConfig
from tabom.trajectory.record import FloatArray, IntArray, Trajectory

Prompt = str | list[dict[str, str]]


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

    Map-style, deterministic: what is drawn at random is drawn later, by key.
    held_out: further responses, for the held-out loss alone.
    """

    def __init__(
        self,
        examples: Iterable[ResponseExample],
        *,
        dropped: Mapping[str, int] | None = None,
        held_out: Iterable[ResponseExample] = (),
    ) -> None:
        self.examples, self.held_out = list(examples), list(held_out)
        self.dropped = dict(dropped or {})

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ResponseExample:
        return self.examples[index]

    @property
    def fingerprint(self) -> str:
        """Of the ids and tokens in their order."""
        parts: list[str | bytes] = []
        for e in self.examples:
            parts += [e.id, e.prompt_ids.tobytes(), e.response_ids_N.tobytes()]
        return keys.content_id(*parts)

    def hinted(
        self, trajectories: Iterable[Trajectory], *, template: str, model: MaskedDiffusionModel
    ) -> "ResponseDataset":
        """The same with the prompt of a privileged teacher.

        trajectories: those of the examples, and perhaps others. template: with {prompt} and
        {answer}, the data's own answer, else the reference.
        Raises: DataError for a trajectory without an answer; ConfigError for a bad template.
        """
        if "{answer}" not in template or "{prompt}" not in template:
            raise ConfigError(f"hint {template!r} must hold {{prompt}} and {{answer}}")
        wanted = {e.id for e in self.examples}
        hints: dict[str, IntArray] = {}
        for t in trajectories:
            if t.id not in wanted:
                continue
            answer = str(t.row.get("ground_truth") or t.reference)
            if not answer:
                raise DataError(
                    f"trajectory {t.id!r} has no reference answer, which the teacher of this "
                    "objective reads; set prompts.reference_column, or the option hint to false"
                )
            text = template.replace("{prompt}", t.prompt).replace("{answer}", answer)
            hints[t.id] = np.asarray(model.encode_prompt(text), dtype=np.int32)
        examples = [replace(e, hint_ids=hints[e.id]) for e in self.examples]
        return ResponseDataset(examples, dropped=self.dropped, held_out=self.held_out)

    def prepared(self, config: TrainingConfig) -> "ResponseDataset":
        """What `config` trains on: without longer responses, and with some prompts held out.

        Raises: DataError if nothing is left to train on, if canvases differ in size, or if only
            some responses have an order.
        """
        kept = [e for e in self.examples if e.num_tokens <= (config.max_length or sys.maxsize)]
        dropped = dict(self.dropped)
        if len(kept) < len(self):
            dropped[f"longer than max_length {config.max_length}"] = len(self) - len(kept)
        if not kept:
            reasons = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "none were given"
            raise DataError(
                f"nothing to train on: 0 responses are left ({reasons}); collect more prompts, "
                f"check what the verifier refused, or raise max_new_tokens / max_length"
            )
        held_out = self.held_out
        if not held_out and (config.eval_size or config.eval_fraction):
            kept, held_out = split_held_out(kept, config)
        # Batches stack canvases, and an objective that needs an order needs it of every response.
        for what, values in (
            ("number of response slots", {len(e.response_ids_N) for e in (*kept, *held_out)}),
            ("presence of a decoding order", {e.order_N is not None for e in (*kept, *held_out)}),
            ("presence of an advantage", {e.advantage is not None for e in (*kept, *held_out)}),
            ("presence of a hint", {e.hint_ids is not None for e in (*kept, *held_out)}),
        ):
            if len(values) > 1:
                raise DataError(
                    f"training data differ in the {what}: {sorted(values)}; train on one kind at "
                    f"a time (collect with one max_new_tokens; do not mix ground truth and "
                    f"trajectories)"
                )
        return ResponseDataset(kept, dropped=dropped, held_out=held_out)


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
    examples, dropped = [], Counter[str]()
    for trajectory in trajectories:
        if trajectory.num_revealed == 0:
            dropped["no slot was revealed"] += 1
            continue
        # The first end token counts as part of the response: the model has to learn to end.
        ends = np.flatnonzero(np.isin(trajectory.response_ids_N, list(end_ids)))
        examples.append(
            ResponseExample(
                id=trajectory.id,
                prompt_ids=trajectory.prompt_ids,
                response_ids_N=trajectory.response_ids_N,
                slot_N=trajectory.step_N >= 0,
                length=int(ends[0]) + 1 if len(ends) else trajectory.num_slots,
                step_N=trajectory.step_N,
                order_N=trajectory.order_N,
                entropy_N=trajectory.entropy_N,
                advantage=advantages[trajectory.id] if advantages else None,
            )
        )
    return ResponseDataset(examples, dropped=dropped)


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


def split_held_out(
    examples: Sequence[ResponseExample], config: TrainingConfig
) -> tuple[list[ResponseExample], list[ResponseExample]]:
    """(train, held out): whole prompts are held out, so no answer to one is seen in training."""
    prompt_of = [keys.text_key(e.prompt_ids.tobytes().hex()) for e in examples]
    # The rank of a prompt depends on itself and the seed alone, not on the order of the rows.
    ranked = sorted(set(prompt_of), key=lambda k: (keys.uniform(config.seed, k), k))
    number = config.eval_size or round(config.eval_fraction * len(ranked))
    if number >= len(ranked):
        raise DataError(
            f"cannot hold out {number} prompts of {len(ranked)}: nothing is left to train on; "
            f"lower eval_size or eval_fraction"
        )
    held = set(ranked[:number])
    train = [e for e, k in zip(examples, prompt_of, strict=True) if k not in held]
    return train, [e for e, k in zip(examples, prompt_of, strict=True) if k in held]


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
