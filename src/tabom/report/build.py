"""The report: one HTML file that needs nothing else and opens by double click."""

import base64
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tabom.core.atomic import write_text
from tabom.evaluation.comparison import MetricKey
from tabom.report import figures
from tabom.report.contents import collection_table, detail_tables, pair_table, settings_tables
from tabom.report.data import Report, clean
from tabom.report.examples import viewer
from tabom.report.tables import Table
from tabom.report.words import (
    alarms,
    best_arm,
    cautions,
    count,
    duration,
    format_of,
    headline,
    metric_of,
)


def build_report(report: Report, *, path: str | os.PathLike[str]) -> Path:
    """Write the report's page; an older file is replaced at once, never half. Returns: the path."""
    write_text(path, render(report))
    return Path(path)


def render(report: Report) -> str:
    """The report as HTML."""
    script, comparison = _asset("report.js"), report.comparison
    digest = hashlib.sha256(script.encode()).digest()
    # What the page shows must be writable as UTF-8, whatever a model made of it.
    return _environment().get_template("report.html.j2").render(
        report=report,
        comparison=comparison,
        style=Markup(_asset("report.css")),
        script=Markup(script),
        # The browser runs this one script and nothing else, and fetches nothing.
        script_hash="sha256-" + base64.b64encode(digest).decode(),
        summary_json=embed_json(report.to_json()),
        view_json=embed_json({**viewer(report), "examples": report.examples}),
        alarms=alarms(report),
        headline=headline(report),
        facts=_facts(report),
        notes=[*cautions(report), *report.notes],
        heads=_heads(report, report.columns),
        rows=figures.table(report, report.columns),
        detail_heads=_heads(report, report.details),
        detail_rows=figures.table(report, report.details),
        has_best=comparison is not None
        and any(best_arm(comparison, key) for key in (*report.columns, *report.details)),
        tables=[t for t in (pair_table(report), *_details(report)) if t],
        drawings={name: Markup(draw(report)) for name, draw in figures.DRAWINGS.items()},
        reasons=figures.reasons(report),
        styles=figures.arm_styles(report),
        trained=list(dict.fromkeys(log.arm for log in report.curves.training)),
        collected=collection_table(report),
        settings=settings_tables(report),
        recipe=_yaml(report.recipe),
        glossary=[metric_of(key) for key in report.columns],
        Markup=Markup,
    ).encode("utf-8", "replace").decode()  # fmt: skip


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
    return yaml.safe_dump(clean(value), sort_keys=False, allow_unicode=True, width=88)


def _facts(report: Report) -> list[tuple[str, str]]:
    facts = [("made", report.created[:16].replace("T", " "))] if report.created else []
    if report.comparison is not None:
        facts.append(("compared", count(len(report.comparison.arms), "arm")))
    if report.seeds:
        facts.append(("repeated", count(len(report.seeds), "seed")))
    sets = report.comparison.sets if report.comparison else []
    for role in dict.fromkeys(s.role for s in sets):
        total = sum(s.num_documents for s in sets if s.role == role)
        facts.append((role.replace("_", " "), count(total, "prompt")))
    if report.seconds:
        facts.append(("work, all stages", duration(report.seconds)))
    return facts


def _heads(report: Report, keys: Sequence[MetricKey]) -> list[dict[str, Any]]:
    """Label, help, unit and better side of each column."""
    if report.comparison is None:
        return []
    heads = [(metric_of(key), format_of(report.comparison, key)) for key in keys]
    return [
        {"label": m.label, "help": m.help, "better": m.better, "unit": form.unit}
        for m, form in heads
    ]


def _details(report: Report) -> list[Table]:
    return [] if report.comparison is None else detail_tables(report.comparison)
