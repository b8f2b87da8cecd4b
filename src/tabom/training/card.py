"""The model card: what was trained, on what, how, and with which versions."""

from collections.abc import Mapping
from typing import Any

import yaml

_TASK = "text-generation"


def model_card(record: Mapping[str, Any], *, license: str | None = None) -> str:
    """README.md in the Hub's form, from the content of `tabom_manifest.json`."""
    is_adapter = record["kind"] == "adapter"
    header: dict[str, Any] = {
        "base_model": record["base_model"],
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": _TASK,
        "tags": ["tabom", "masked-diffusion", "diffusion-language-model"],
    }
    if is_adapter:
        header["tags"].append("lora")
    if license is not None:
        header["license"] = license
    result, config = record["result"], record["config"]
    what = "LoRA adapter for" if is_adapter else "full fine-tuning of"
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {str(record['base_model']).rstrip('/').rpartition('/')[2]}, post-trained with tabom",
        "",
        f"A {what} the masked diffusion language model `{record['base_model']}`.",
        "",
        "## Objective",
        "",
        *_table(_as_mapping(record["identity"]["objective"])),
        "## Data",
        "",
        *_table(
            {
                "responses trained on": result["num_examples"],
                "responses held out": result["num_eval_examples"],
                **{f"left out: {why}": n for why, n in result["dropped"].items()},
                "fingerprint": record["identity"]["data"],
            }
        ),
        "## Training",
        "",
        *_table(
            {
                "steps": result["steps"],
                "seconds": result["seconds"],
                **result["speed"],
                **config,
            }
        ),
        "## Last logged metrics",
        "",
        *_table(result["metrics"]),
    ]
    for title, content in record["extra"].items():
        lines += [f"## {title}", "", *_table(_as_mapping(content))]
    lines += ["## Versions", "", *_table(record["versions"])]
    if is_adapter:
        base = record["base_model"]
        lines += [
            "## Use",
            "",
            "```bash",
            f'tabom generate {base} --adapter ADAPTER --prompt "..."',
            "```",
            "",
            "From Python, it is an adapter of PEFT's:",
            "",
            "```python",
            "from peft import PeftModel",
            "from tabom import load_model",
            "",
            f'model = load_model("{base}")',
            'model.lm = PeftModel.from_pretrained(model.lm, "ADAPTER")',
            "```",
            "",
            "Its names are those of transformers (`model.layers.0.self_attn.q_proj`). "
            "For code that names them otherwise, as published LLaDA does, `tabom merge --official` "
            "writes it anew.",
            "",
        ]
    return "\n".join(lines)


def _as_mapping(content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {"": content}


def _table(rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return ["None.", ""]
    body = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return ["| | |", "|---|---|", *body, ""]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
