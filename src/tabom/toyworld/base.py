"""Pretrain the toy base: a bidirectional Llama of 170 thousand weights, on one CPU thread.

Shapes: B examples, P prompt tokens (left-padded), N response slots, S = P + N, V vocabulary.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tabom.core.progress import Bars
from tabom.toyworld.alphabet import NUM_SLOTS
from tabom.toyworld.curriculum import LESSONS, Lesson, draw_pair
from tabom.toyworld.tasks import digest
from tabom.toyworld.tokenizer import ASSISTANT, EOS, USER, build_tokenizer

WIDTH = 64
NUM_WARMUP_STEPS = 50


def build_config(
    tokenizer: PreTrainedTokenizerFast, *, num_layers: int = 3, width: int = WIDTH
) -> LlamaConfig:
    """A plain Llama configuration, made bidirectional, with `tabom_family: toy`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 172 // WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=width // 16,
        num_key_value_heads=width // 16,
        max_position_embeddings=64,
        # Sequences have 41 tokens at most: a small theta spends more dimensions on such distances.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    config.is_causal = False
    config.mask_token_id = tokenizer.mask_token_id
    config.tabom_family = "toy"
    return config


def build_model(config: LlamaConfig, *, seed: int) -> LlamaForCausalLM:
    """A fresh net; its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            # Quiet output projections: the residual stream starts as the tokens themselves, else
            # attention cannot match them and the look-up takes far longer to be found.
            scale = {"embed_tokens": 1.0, "lm_head": 0.02}.get(name.split(".")[-2])
            if scale is None:
                quiet = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = (0.2 if quiet else 1.0) * weight.shape[1] ** -0.5
            torch.nn.init.normal_(weight, std=scale, generator=generator)
    return model


def encode(
    tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    """Token ids of rendered prompts and responses.

    Returns:
        `input_ids` [B, S] (prompts left-padded, EOS fills the response), `attention_mask` and
        `position_ids` [B, S].
    """
    texts = [f"{USER}{prompt}{ASSISTANT}" for prompt, _ in pairs]
    prompts = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    responses = [response + EOS * (NUM_SLOTS - len(response)) for _, response in pairs]
    slots = tokenizer(responses, add_special_tokens=False, return_tensors="pt")
    mask = torch.cat([prompts["attention_mask"], slots["attention_mask"]], dim=1)
    return {
        "input_ids": torch.cat([prompts["input_ids"], slots["input_ids"]], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 1),
    }


def nelbo(
    model: LlamaForCausalLM, batch: dict[str, torch.Tensor], *, generator: torch.Generator
) -> torch.Tensor:
    """Eq. 1 of the paper: k ~ U{1..N} slots masked at random, mean loss over them, then over B."""
    target_BN = batch["input_ids"][:, -NUM_SLOTS:]
    num_rows = len(target_BN)
    num_masked_B1 = torch.randint(1, NUM_SLOTS + 1, (num_rows, 1), generator=generator)
    rank_BN = torch.rand(num_rows, NUM_SLOTS, generator=generator).argsort(1).argsort(1)
    is_masked_BN = (rank_BN < num_masked_B1).to(target_BN.device)
    num_masked_B1 = num_masked_B1.to(target_BN.device)
    visible_BN = target_BN.masked_fill(is_masked_BN, model.config.mask_token_id)
    logits_BNV = model(
        input_ids=torch.cat([batch["input_ids"][:, :-NUM_SLOTS], visible_BN], dim=1),
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        logits_to_keep=NUM_SLOTS,
    ).logits
    ce_BN = cross_entropy(logits_BNV.transpose(1, 2), target_BN, reduction="none")
    return ((ce_BN * is_masked_BN).sum(1) / num_masked_B1[:, 0]).mean()


def rate(step: int, *, lesson: Lesson) -> float:
    """Learning rate: linear warm-up, then a cosine down to `lesson.final_rate`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / lesson.num_steps)))
    share = lesson.final_rate + (1 - lesson.final_rate) * cosine
    return lesson.learning_rate * share * min(1.0, (step + 1) / NUM_WARMUP_STEPS)


def train_lesson(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lesson: Lesson, *, seed: int
) -> None:
    """Run one lesson in place."""
    generator = torch.Generator().manual_seed(digest(f"{seed}/{lesson.name}") >> 1)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    bars = Bars()
    for step in range(lesson.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, lesson=lesson)
        pairs = [
            draw_pair(lesson, seed=seed, step=step, row=row) for row in range(lesson.batch_size)
        ]
        batch = {k: v.to(model.device) for k, v in encode(tokenizer, pairs).items()}
        loss = nelbo(model, batch, generator=generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss {loss.item()} at step {step} of lesson {lesson.name}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            bars(f"pretrain, {lesson.name}", step, lesson.num_steps, f"loss {loss.item():.3f}")
    bars.close()


def pretrain(
    output_dir: str | Path,
    *,
    seed: int = 0,
    lessons: Sequence[Lesson] = LESSONS,
    num_layers: int = 3,
    width: int = WIDTH,
    device: str = "cpu",
    options: str = "",
) -> Path:
    """Make a base checkpoint: configuration, weights, tokenizer, and how it was made.

    On one machine the result is a function of `seed` and `lessons`: one thread, keyed draws.

    Args:
        output_dir: folder to write; made if missing.
        seed: initial weights, data and masks.
        lessons: the curriculum.
        num_layers, width: of the net. device: where it is trained.
        options: the flags that made other lessons of it, for the record.

    Returns:
        `output_dir`.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(build_config(tokenizer, num_layers=num_layers, width=width), seed=seed)
    model = model.to(device)
    seconds = {}
    with one_thread():
        for lesson in lessons:
            start = time.process_time()
            train_lesson(model, tokenizer, lesson, seed=seed)
            seconds[lesson.name] = round(time.process_time() - start, 1)
    model.cpu().eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "command": f"tabom toyworld pretrain --seed {seed}{options}",
        "seed": seed,
        "num_parameters": sum(weight.numel() for weight in model.parameters()),
        "cpu_seconds": seconds,
        "lessons": [asdict(lesson) for lesson in lessons],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (folder / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: at this size more are slower, and sums keep one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
