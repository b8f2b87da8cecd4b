"""What `tabom doctor` looks at in a loaded model, beyond the load probes.

Legend: B rows, S columns.
"""

import time
from typing import Any

import torch

from tabom.core.errors import TabomError
from tabom.decoding.config import DecodingConfig
from tabom.decoding.decoder import Decoder, DecodeRequest
from tabom.models.contract import MaskedDiffusionModel
from tabom.models.costs import forward_flops
from tabom.models.probes import ProbeResult, run_probes
from tabom.models.sizes import ModelSizes

SAMPLE = "What is 2 + 3?"
NUM_SLOTS = 4


def check(
    model: MaskedDiffusionModel, *, prompt: str | None
) -> tuple[list[ProbeResult], dict[str, Any] | None]:
    """Every check, and a sample in the chat template (None if it could not be rendered).

    prompt: the user's sample; None takes a plain question, or words of the model's own where its
        tokenizer does not know them.
    """
    results = [*run_probes(model), _tokenizer(model)]
    template = None
    if model.tokenizer is not None:
        template, result = _template(model, prompt)
        results.append(result)
    if model.lm is not model.base_lm:
        results.append(_adapter(model))
    results.append(_decoding(model))
    return results, template


def special_tokens(model: MaskedDiffusionModel) -> list[dict[str, Any]]:
    """Role, id, text and source of each special id."""
    ids, sources = model.ids, model.ids.sources
    end_of_turn = sources.get("end_of_turn", sources["eos"])
    rows = [("mask", ids.mask, sources["mask"]), ("pad", ids.pad, sources["pad"])]
    rows += [("end", t, end_of_turn if n else sources["eos"]) for n, t in enumerate(ids.eos)]
    rows += [("filler", ids.filler, sources["filler"])]
    rows += [("answer's end", ids.end, f"family {model.family.name}")]
    num_known = 0 if model.tokenizer is None else len(model.tokenizer)
    return [
        {
            "role": role,
            "id": token,
            "text": model.tokenizer.convert_ids_to_tokens(token) if token < num_known else None,
            "source": source,
        }
        for role, token, source in rows
    ]


def measure_call(
    model: MaskedDiffusionModel, sizes: ModelSizes, batch_size: int, length: int
) -> dict[str, float]:
    """The time of one model call with every row through the head, the better of two.

    Returns: batch_size, length, seconds, and the FLOP/s that it reaches.
    """
    ids_BS = torch.full((batch_size, length), model.ids.mask, device=model.device)
    times = []
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            hidden_BSD = model.hidden_states(ids_BS, None)
            float((hidden_BSD @ model.head_weight_VD.T).amax())  # reading it waits for the device
            times.append(time.perf_counter() - started)
    num, best = ids_BS.numel(), min(times)
    flops = forward_flops(sizes, num_tokens=num, context=length, num_rows=num) / best
    return {"batch_size": batch_size, "length": length, "seconds": best, "flops_per_second": flops}


def _tokenizer(model: MaskedDiffusionModel) -> ProbeResult:
    if model.tokenizer is None:
        detail = "none in the folder: prompts cannot be encoded; copy the checkpoint's files"
        return ProbeResult("tokenizer", False, detail)
    # Loading refuses a tokenizer that is larger than the embedding.
    name, num = type(model.tokenizer).__name__, len(model.tokenizer)
    detail = f"{name}, {num} tokens for {model.vocab_size} embedding rows"
    return ProbeResult("tokenizer", True, detail)


def _template(
    model: MaskedDiffusionModel, prompt: str | None
) -> tuple[dict[str, Any] | None, ProbeResult]:
    # The first error is told: the second sample only stands in for a small vocabulary.
    problem = ""
    for text in (SAMPLE, _own_words(model)) if prompt is None else (prompt,):
        try:
            ids = model.encode_prompt(text)
        except TabomError as error:  # also of a template that puts the mask token in
            problem = problem or str(error)
            continue
        rendered = str(model.tokenizer.decode(ids, skip_special_tokens=False))
        detail = f"{len(ids)} tokens for the sample prompt {text!r}"
        template = {"prompt": text, "rendered": rendered, "num_tokens": len(ids)}
        return template, ProbeResult("chat_template", True, detail)
    return None, ProbeResult("chat_template", False, problem)


def _own_words(model: MaskedDiffusionModel) -> str:
    special = {model.ids.mask, model.ids.pad, *model.ids.eos, *model.tokenizer.all_special_ids}
    ordinary = [i for i in range(len(model.tokenizer)) if i not in special]
    return str(model.tokenizer.decode(ordinary[:5]))


def _adapter(model: MaskedDiffusionModel) -> ProbeResult:
    matrices = [p for name, p in model.lm.named_parameters() if ".lora_B." in name]
    num_zero = sum(not bool(p.any()) for p in matrices)
    detail = f"{len(matrices)} adapted modules, {num_zero} of them change nothing (lora_B is 0)"
    return ProbeResult("adapter", len(matrices) > num_zero == 0, detail)


def _decoding(model: MaskedDiffusionModel) -> ProbeResult:
    """A few slots are decoded: head, ids and loop together give a whole response."""
    request = DecodeRequest(id="doctor", prompt_ids=[model.ids.filler])
    try:
        (decoded,) = Decoder(model, DecodingConfig(max_new_tokens=NUM_SLOTS)).decode([request])
    except TabomError as error:
        return ProbeResult("decoding", False, str(error))
    num, forwards = decoded.trajectory.num_revealed, decoded.trajectory.num_forwards
    detail = f"{num} of {NUM_SLOTS} slots revealed in {forwards} forwards"
    return ProbeResult("decoding", num == NUM_SLOTS, detail)
