"""Figures and tables as files of their own."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tabom.core.errors import ConfigError
from tabom.report.data import Report
from tabom.report.export import drawings, export, tables, to_csv, to_latex
from tabom.report.tables import Cell, Table


def test_every_drawing_stands_alone(report: Report) -> None:
    """Valid SVG without a class, a variable or a style sheet; lines have a legend."""
    found = drawings(report)
    assert {"ranking", "forgetting", "tds", "entropy", "loss_ratio", "training-loss"} <= set(found)
    for name, text in found.items():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "class=" not in text
        assert "var(" not in text
        assert "style=" not in text
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', text))
        assert all(c == "none" or re.fullmatch(r"#[0-9a-f]{3,6}", c) for c in colours), colours
        height = float(root.attrib["height"])
        assert root.attrib["viewBox"].split()[3] == f"{height:g}"
        if name in ("tds", "training-loss"):
            texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
            assert "TABOM" in texts
            assert all(float(e.attrib["y"]) <= height for e in root.iter() if "y" in e.attrib)


def test_files_of_every_kind(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("svglib")
    paths = export(report, tmp_path)
    names = {path.name for path in paths}
    assert names == {path.name for path in tmp_path.iterdir()}
    for drawing in drawings(report):
        assert (tmp_path / f"{drawing}.pdf").read_bytes().startswith(b"%PDF")
        assert f"{drawing}.svg" in names
    assert {"arms.csv", "arms.tex", "estimates.csv"} <= names


def test_some_formats_alone_and_unknown_ones(report: Report, tmp_path: Path) -> None:
    paths = export(report, tmp_path, formats=["csv"])
    assert {path.suffix for path in paths} == {".csv"}
    with pytest.raises(ConfigError, match="'png'"):
        export(report, tmp_path, formats=["png"])


def test_csv_says_what_the_table_says(report: Report) -> None:
    table = tables(report)["arms"]
    rows = list(csv.reader(to_csv(table).splitlines()))
    assert rows[0] == table.heads
    assert [row[0] for row in rows[1:]] == [row[0].text for row in table.rows]
    assert "\N{MINUS SIGN}" not in to_csv(table)


def test_latex_escapes_and_marks_the_best() -> None:
    table = Table(["arm & co", "in %"], [[r"a_b\c", Cell("1\N{MINUS SIGN}2", "best")]])
    text = to_latex(table)
    assert r"\begin{tabular}{lr}" in text
    assert r"arm \& co & in \% \\" in text
    assert r"a\_b\textbackslash{}c & \textbf{1$-$2} \\" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    export(report, tmp_path, formats=["tex"])
    body = "".join(rf"\input{{{p.name}}}" for p in sorted(tmp_path.glob("*.tex")))
    (tmp_path / "all.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + body + r"\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
