"""Figures and tables of a report as files of their own: SVG, PDF, CSV, LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

from tabom.core.atomic import replacing, write_text
from tabom.core.errors import ConfigError
from tabom.report import contents, figures
from tabom.report.data import Report
from tabom.report.tables import MINUS, Table

FORMATS = ("svg", "pdf", "csv", "tex")
_SVG = "http://www.w3.org/2000/svg"
# What the page's style sheet says of a drawing, for readers that know none.
_LOOKS: dict[str, dict[str, str]] = {
    "tick": {"fill": "ink-soft"},
    "axis": {"fill": "ink-soft"},
    "label": {"fill": "ink"},
    "value": {"fill": "ink"},
    "grid": {"stroke": "rule"},
    "frame": {"stroke": "rule-strong"},
    "reference": {"stroke": "ink-soft", "stroke-dasharray": "3 3"},
    "interval": {"stroke-width": "5", "stroke-linecap": "round", "opacity": "0.3"},
    "line": {"fill": "none", "stroke-width": "1.8", "stroke-linecap": "round"},
    "band": {"opacity": "0.1", "stroke": "none"},
    "dot": {"stroke": "paper", "stroke-width": "1.2"},
    "seed": {"fill": "none", "stroke-width": "1.1", "opacity": "0.8"},
}
_LEGEND_ROW, _CHAR = 20, 6.9
_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    MINUS: "$-$", "–": "--", "²": r"$^2$",
}  # fmt: skip


def export(report: Report, folder: Path, *, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write every figure and table of a report into a folder. Returns: the files.

    Raises: ConfigError for an unknown format, or for pdf without its package.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"unknown format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []

    def put(name: str, text: str) -> None:
        write_text(folder / name, text)
        written.append(folder / name)

    for name, drawing in drawings(report).items():
        if "svg" in formats:
            put(f"{name}.svg", drawing)
        if "pdf" in formats:
            with replacing(folder / f"{name}.pdf") as temporary:
                _write_pdf(drawing, temporary)
            written.append(folder / f"{name}.pdf")
    for name, table in tables(report).items():
        if "csv" in formats:
            put(f"{name}.csv", to_csv(table))
        if "tex" in formats:
            put(f"{name}.tex", to_latex(table))
    if "csv" in formats and report.comparison.rows:
        put("estimates.csv", contents.estimates_csv(report.comparison))
    return written


def drawings(report: Report) -> dict[str, str]:
    """Each drawing as SVG text that stands alone, in the page's light colours, by its name."""
    colours = _colours()
    styles = figures.arm_styles(report)
    found: dict[str, str] = {}
    for name, draw in figures.DRAWINGS.items():
        parts = re.findall(r"<svg.*?</svg>", draw(report), re.DOTALL)
        keys = list(figures.TRAINING)
        for i, part in enumerate(parts):
            # Small multiples are drawings of their own, called as what they show.
            title = name if len(parts) == 1 else f"{name}-{keys[i]}"
            found[title] = _standing_alone(part, colours, styles)
    return found


def tables(report: Report) -> dict[str, Table]:
    """Each table of the report that has rows, by its name."""
    found = {
        "arms": contents.arms_table(report, report.columns),
        "details": contents.arms_table(report, report.details),
        "collection": contents.collection_table(report),
    }
    for table in contents.comparison_tables(report):
        found[re.sub(r"[^a-z0-9]+", "-", table.title.lower()).strip("-")] = table
    return {name: table for name, table in found.items() if table}


def to_csv(table: Table) -> str:
    """The table's texts, with minus signs that programs read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([cell.replace(MINUS, "-") for cell in row] for row in _lines(table))
    return text.getvalue()


def to_latex(table: Table) -> str:
    """A `tabular` with booktabs' rules."""
    columns = "l" * table.num_left + "r" * (len(table.heads) - table.num_left)
    head, *rows = [[_latex(cell) for cell in row] for row in _lines(table)]
    bold = [
        [
            rf"\textbf{{{text}}}" if cell.tone == "best" else text
            for cell, text in zip(*both, strict=True)
        ]
        for both in zip(table.rows, rows, strict=True)
    ]
    body = [" & ".join(row) + r" \\" for row in bold]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _lines(table: Table) -> list[list[str]]:
    return [table.heads, *table.texts]


def _latex(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)


def _colours() -> dict[str, str]:
    """The light theme's colours by name, from the page's own style sheet."""
    sheet = (files("tabom.report") / "templates" / "report.css").read_text()
    found: dict[str, str] = {}
    for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", sheet):
        found.setdefault(name, value)  # the first, light one
    return found


def _standing_alone(
    text: str, colours: Mapping[str, str], styles: Mapping[str, tuple[str, str]]
) -> str:
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(text.replace("<svg ", f'<svg xmlns="{_SVG}" ', 1))
    names = []
    for element in root.iter():
        title = element.find(f"{{{_SVG}}}title")
        if title is not None and title.text in styles:
            names.append(str(title.text))
        for kind in element.attrib.pop("class", "").split():
            for key, value in _LOOKS.get(kind, {}).items():
                element.attrib.setdefault(key, colours.get(value, value))
        style = element.attrib.pop("style", "")
        for key, name in re.findall(r"([\w-]+):var\(--([\w-]+)\)", style):
            element.attrib[key] = colours[name]
        if element.tag.endswith("text"):
            element.attrib |= {"font-size": "12", "font-family": "Helvetica, Arial, sans-serif"}
        if not element.attrib.get("stroke-dasharray", "x"):
            del element.attrib["stroke-dasharray"]
    if names:
        _add_legend(root, names, colours, styles)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_legend(
    root: ElementTree.Element,
    names: Sequence[str],
    colours: Mapping[str, str],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    """Which line is whose, below the drawing, in as many rows as it takes."""
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    x, y = 44.0, height + 12
    for name in dict.fromkeys(names):
        colour, dash = styles[name]
        needed = 44 + _CHAR * len(name)
        if x > 44 and x + needed > width:
            x, y = 44.0, y + _LEGEND_ROW
        line = {"x1": x, "x2": x + 20, "y1": y - 4, "y2": y - 4, "stroke-width": 1.8}
        attributes = {k: f"{v:g}" for k, v in line.items()} | {"stroke": colours[colour]}
        if dash:
            attributes["stroke-dasharray"] = dash
        ElementTree.SubElement(root, f"{{{_SVG}}}line", attributes)
        label = ElementTree.SubElement(
            root,
            f"{{{_SVG}}}text",
            {"x": f"{x + 26:g}", "y": f"{y:g}", "font-size": "12", "fill": colours["ink"],
             "font-family": "Helvetica, Arial, sans-serif"},
        )  # fmt: skip
        label.text = name
        x += needed
    total = f"{y + 8:g}"
    root.attrib |= {"height": total, "viewBox": f"0 0 {width:g} {total}"}


def _write_pdf(drawing: str, path: Path) -> None:
    try:
        from reportlab.graphics import renderPDF
        from svglib.svglib import svg2rlg
    except ImportError as error:
        raise ConfigError(
            "pdf needs svglib: pip install 'tabom[figures]'; or leave it out with --format svg"
        ) from error
    made = svg2rlg(io.BytesIO(drawing.encode()))
    renderPDF.drawToFile(made, str(path))
