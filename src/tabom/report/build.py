"""The report: one HTML file that needs nothing else and opens by double click."""

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tabom.core.atomic import write_text
from tabom.core.place import Place, place
from tabom.core.plain import to_plain
from tabom.report import contents, figures, words
from tabom.report.data import Report
from tabom.report.examples import viewer


def build_report(report: Report, *, path: Place) -> Path:
    """Write the report's page; an older file is replaced at once, never half. Returns: the path."""
    write_text(path, render(report))
    return place(path)


def render(report: Report) -> str:
    """The report as HTML."""
    recipe, script = to_plain(report.recipe), asset("report.js")
    digest = hashlib.sha256(script.encode()).digest()
    return filled(
        "report.html.j2",
        report=report,
        comparison=report.comparison,
        style=Markup(asset("report.css")),
        script=Markup(script),
        # The browser runs this one script and nothing else, and fetches nothing.
        script_hash="sha256-" + base64.b64encode(digest).decode(),
        summary_json=embed_json(report.to_json()),
        view_json=embed_json({**viewer(report), "examples": report.examples}),
        alarms=words.alarms(report),
        headline=words.headline(report),
        facts=words.facts(report),
        notes=[*words.cautions(report), *report.notes],
        arms=contents.arms_table(report, report.columns),
        details=contents.arms_table(report, report.details),
        tables=contents.comparison_tables(report),
        drawings={name: Markup(draw(report)) for name, draw in figures.DRAWINGS.items()},
        verdicts=figures.verdicts(report),
        styles=figures.arm_styles(report),
        collected=contents.collection_table(report),
        settings=contents.settings_tables(report),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True) if recipe else "",
        glossary=[words.metric_of(key) for key in report.columns],
    )


def filled(template: str, **values: Any) -> str:
    """A page's template with its values, every text escaped."""
    environment = Environment(
        loader=PackageLoader("tabom.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template(template).render(**values)
    # What a model made of half a character cannot be written as UTF-8.
    return html.encode("utf-8", "replace").decode()


def embed_json(value: Any) -> Markup:
    """JSON that can stand inside a <script> element, whatever text it holds.

    No `<` is left, so neither `</script>` nor `<!--` can end the block; U+2028 and U+2029 are
    line ends to older parsers of script.
    """
    text = json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def asset(name: str) -> str:
    """A style sheet or script of the pages."""
    return files("tabom.report").joinpath("templates", name).read_text(encoding="utf-8")
