"""What `tabom doctor` looks at in a loaded model, beyond the load probes."""

from dataclasses import dataclass
from typing import Any

from tabom.models.contract import MaskedDiffusionModel
from tabom.models.probes import ProbeResult, run_probes

SAMPLE = "What is 2 + 3?"
NUM_SLOTS = 4


@dataclass(frozen=True, kw_only=True)
class Template:
    """A sample prompt in the chat template: its text, as the model sees it, and its length."""

    prompt: str
    rendered: str
    num_tokens: int


def check(
    model: MaskedDiffusionModel, *, prompt: str | None
) -> tuple[list[ProbeResult], Template | None]:
    """Every check, and the rendered template (None if it could not be rendered).

    prompt: the user's sample; None takes a plain question, or words of the model's own where its
        tokenizer does not know them.
    """
    results = run_probes(model)
    results.append(_tokenizer(model))
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
    eot = sources.get("end_of_turn", "")
    rows = [("mask", ids.mask, sources["mask"]), ("pad", ids.pad, sources["pad"])]
    for n, token in enumerate(ids.eos):
        rows.append(("end", token, sources["eos"] if n == 0 or not eot else eot))
    rows.append(("filler", ids.filler, sources["filler"]))
    return [
        {"role": role, "id": token, "text": _text(model, token), "source": source}
        for role, token, source in rows
    ]


def _text(model: MaskedDiffusionModel, token: int) -> str | None:
    if model.tokenizer is None or not 0 <= token < len(model.tokenizer):
        return None
    return str(model.tokenizer.convert_ids_to_tokens(token))


def _tokenizer(model: MaskedDiffusionModel) -> ProbeResult:
    if model.tokenizer is None:
        return ProbeResult(
            name="tokenizer",
            passed=False,
            detail="none in the folder: prompts cannot be encoded; copy the checkpoint's files",
        )
    num, rows = len(model.tokenizer), model.vocab_size
    outside = [i for i in (model.ids.pad, *model.ids.eos) if not 0 <= i < rows]
    detail = f"{type(model.tokenizer).__name__}, {num} tokens for {rows} embedding rows"
    if outside:
        detail = f"special ids {outside} are outside the {rows} embedding rows"
    return ProbeResult(name="tokenizer", passed=not outside, detail=detail)


def _template(
    model: MaskedDiffusionModel, prompt: str | None
) -> tuple[Template | None, ProbeResult]:
    from tabom.core.errors import TabomError

    reason = ""
    for text in (SAMPLE, _own_words(model)) if prompt is None else (prompt,):
        try:
            ids = model.encode_prompt(text)
        except TabomError as error:
            reason = reason or str(error)
            continue
        rendered = model.tokenizer.decode(ids, skip_special_tokens=False)
        has_mask = model.ids.mask in ids
        result = ProbeResult(
            name="chat_template",
            passed=not has_mask,
            detail=f"the prompt holds the mask token {model.ids.mask}: the template is broken"
            if has_mask
            else f"{len(ids)} tokens for the sample prompt {text!r}",
        )
        return Template(prompt=text, rendered=str(rendered), num_tokens=len(ids)), result
    return None, ProbeResult(name="chat_template", passed=False, detail=reason)


def _own_words(model: MaskedDiffusionModel) -> str:
    special = {model.ids.mask, model.ids.pad, *model.ids.eos, *model.tokenizer.all_special_ids}
    ordinary = [i for i in range(len(model.tokenizer)) if i not in special]
    return str(model.tokenizer.decode(ordinary[:5]))


def _adapter(model: MaskedDiffusionModel) -> ProbeResult:
    matrices = [p for name, p in model.lm.named_parameters() if ".lora_B." in name]
    num_zero = sum(not bool(p.any()) for p in matrices)
    return ProbeResult(
        name="adapter",
        passed=0 < len(matrices) > num_zero,
        detail=f"{len(matrices)} adapted modules"
        + (f", {num_zero} of them change nothing (lora_B is 0)" if num_zero else ""),
    )


def _decoding(model: MaskedDiffusionModel) -> ProbeResult:
    """A few slots are decoded: head, ids and loop together give a whole response."""
    from tabom.core.errors import TabomError
    from tabom.decoding.config import DecodingConfig
    from tabom.decoding.decoder import Decoder, DecodeRequest

    request = DecodeRequest(id="doctor", prompt_ids=[model.ids.filler])
    config = DecodingConfig(max_new_tokens=NUM_SLOTS)
    try:
        (decoded,) = Decoder(model, config).decode([request])
    except TabomError as error:
        return ProbeResult(name="decoding", passed=False, detail=str(error))
    num = decoded.trajectory.num_revealed
    return ProbeResult(
        name="decoding",
        passed=num == NUM_SLOTS,
        detail=f"{num} of {NUM_SLOTS} slots revealed in {decoded.trajectory.num_forwards} forwards",
    )
