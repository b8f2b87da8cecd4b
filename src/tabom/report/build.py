"""The report: one HTML file that needs nothing else and opens by double click."""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tabom.report import figures
from tabom.report.data import check_summary, clean, number, split_metrics
from tabom.report.examples import viewer
from tabom.report.words import best_arms, cautions, count, digits_of, duration, fixed, headline


def build_report(summary: Mapping[str, Any], *, path: str | os.PathLike[str]) -> Path:
    """Write the report of one run.

    summary: see `tabom.report.data.Summary`; missing parts leave their section out.
    path: the HTML file; its folder is made, an older file is replaced at once, never half.
    Returns: the path. Raises: DataError if the summary contradicts itself.
    """
    html = render(summary)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(html, encoding="utf-8", newline="\n")
    os.replace(partial, path)
    return path


def render(summary: Mapping[str, Any]) -> str:
    """The report as text; arguments and errors as in `build_report`."""
    check_summary(summary)
    # Once, so that what is drawn, what is written and what is embedded are the same numbers.
    summary = clean(summary)
    script = _asset("report.js")
    template = _environment().get_template("report.html.j2")
    main, details = split_metrics(summary)
    digest = hashlib.sha256(script.encode()).digest()
    return template.render(
        summary=summary,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        # The browser runs this one script and nothing else, and fetches nothing.
        script_hash="sha256-" + base64.b64encode(digest).decode(),
        summary_json=embed_json(summary),
        view_json=embed_json(viewer(summary)),
        headline=headline(summary),
        facts=_facts(summary),
        notes=[*cautions(summary), *(summary.get("notes") or ())],
        metrics=main,
        rows=figures.table(summary, main) if summary.get("arms") and main else [],
        detail_metrics=details,
        detail_rows=figures.table(summary, details),
        has_best=bool(best_arms(summary)),
        drawings={
            name: Markup(getattr(figures, name)(summary))
            for name in (
                "ranking",
                "forgetting",
                "tds",
                "entropy",
                "loss_ratio",
                "collection",
                "training",
            )
        },
        reasons=figures.reasons(summary),
        styles=figures.arm_styles(summary),
        trained=list(
            dict.fromkeys(run["arm"] for run in (summary.get("curves") or {}).get("training") or ())
        ),
        seeds=_seed_rows(summary),
        recipe=_yaml(summary.get("recipe")),
        objectives=[
            {
                "name": arm["name"],
                "data": str(arm.get("data") or "").replace("_", " "),
                "objective": _yaml(arm.get("objective")).strip(),
            }
            for arm in summary.get("arms") or ()
        ],
        Markup=Markup,
        duration=duration,
        flat=_flat,
    )


def embed_json(value: Any) -> Markup:
    """JSON that can stand inside a <script> element, whatever text it holds.

    No `<` is left, so neither `</script>` nor `<!--` can end the block; U+2028 and U+2029 are
    line ends to older parsers of script.
    """
    text = json.dumps(clean(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tabom.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return files("tabom.report").joinpath("templates", name).read_text(encoding="utf-8")


def _yaml(value: Any) -> str:
    if not value:
        return ""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=88)


def _flat(value: Any) -> str:
    """A version or a piece of hardware as one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list) else str(value)


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    created = str(summary.get("created") or "")
    if created:
        facts.append(("made", created[:16].replace("T", " ")))
    if summary.get("arms"):
        facts.append(("compared", count(len(summary["arms"]), "arm")))
    if summary.get("seeds"):
        facts.append(("repeated", count(len(summary["seeds"]), "seed")))
    for role in dict.fromkeys(s.get("role", "") for s in summary.get("sets") or ()):
        sizes = [int(s.get("num_documents") or 0) for s in summary["sets"] if s.get("role") == role]
        facts.append((str(role).replace("_", " "), count(sum(sizes), "prompt")))
    if number(summary.get("seconds")):
        facts.append(("work, all stages", duration(number(summary["seconds"]))))
    return facts


def _seed_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row an arm and seed: metrics, counts, seconds, each as text."""
    rows = []
    for arm in summary.get("arms") or ():
        for seed in arm.get("seeds") or ():
            values = [
                fixed(number((seed.get("metrics") or {}).get(metric["key"])), digits_of(metric))
                for metric in summary.get("metrics") or ()
            ]
            counts, seconds = seed.get("counts") or {}, seed.get("seconds") or {}
            rows.append(
                {
                    "arm": arm["name"],
                    "seed": seed.get("seed", ""),
                    "values": values,
                    "examples": counts.get("train_examples"),
                    "train": duration(number(seconds.get("train"))),
                    "evaluate": duration(number(seconds.get("evaluate"))),
                }
            )
    return rows
