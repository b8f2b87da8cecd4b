import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.evaluation.comparison import Comparison, MetricKey
from tabom.evaluation.scores import Leak
from tabom.evaluation.stats import Estimate
from tabom.report.build import build_report, embed_json, render
from tabom.report.data import SCHEMA, Arm, Curves, Example, Report
from tabom.report.examples import expected_texts, is_special, viewer

VOID = {"meta", "link", "input", "br", "img", "hr", "col"}
HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> "
    "\"'&amp; \u2028\u2029 {{ 7*7 }}"
)


class Page(HTMLParser):
    """Tags with their attributes, text by element, and any tag that is not closed in its place."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.stack, self.errors, self.text = [], [], [], {}
        self.feed(html)
        self.close()
        self.errors += [f"open at the end: {self.stack}"] if self.stack else []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.stack or self.stack[-1][0] != tag:
            self.errors.append(f"</{tag}> closes {self.stack[-1:]} at {self.getpos()}")
        else:
            self.stack.pop()

    def handle_data(self, data):
        for element in self.stack[-1:]:
            self.text.setdefault(element, []).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def data(self, tag, identity=None):
        return "".join(self.text.get((tag, identity), []))


def sections(html):
    page = Page(html)
    named = [attrs["id"] for attrs in page.all("details") if "id" in attrs]
    return named + [attrs["id"] for attrs in page.all("section")]


def test_the_page_is_well_formed_and_whole(report):
    page = Page(render(report))
    assert page.errors == []
    assert sections(render(report)) == [
        "reading",
        "results",
        "decoding",
        "trajectories",
        "collection",
        "training",
        "settings",
    ]
    # A link of the contents for each section, and no other.
    assert [a["href"][1:] for a in page.all("a")] == sections(render(report))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    drawings = [a for a in page.all("svg") if a.get("class") == "drawing"]
    assert sum(a.get("role") == "img" for a in drawings) == 5 + 6  # figures, training panels


def html_tables(html):
    """Per table the number of headings and the number of cells of each row."""
    found = []
    for table in re.findall(r"<table.*?</table>", html, re.S):
        rows = re.findall(r"<tr>.*?</tr>", table, re.S)
        found.append([len(re.findall(r"<t[hd][ >]", row)) for row in rows])
    return found


def test_every_table_has_as_many_headings_as_cells(report):
    tables = html_tables(render(report))
    assert len(tables) >= 8
    for counts in tables:
        assert len(set(counts)) == 1
        assert len(counts) > 1
    seeds = next(
        t for t in re.findall(r"<table.*?</table>", render(report), re.S) if "evaluation<" in t
    )
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", seeds)
    heads = [re.sub("<.*?>", "", head) for head in heads]
    line = re.findall(r"<tr>.*?</tr>", seeds, re.S)[4]
    cells = [re.sub("<.*?>", "", c) for c in re.findall(r"<t[hd][ >].*?</t[hd]>", line)]
    row = dict(zip(heads, cells, strict=True))
    own = report.comparison.row("SFT-GT", MetricKey("tds")).by_seed[2]
    assert (row["arm"], row["seed"], row["TDS"]) == ("SFT-GT", "2", f"{own:.3f}")
    assert row["trained on"] == "1,752"


def test_reasons_of_answers_stand_beside_each_arm(make_report):
    arms = [
        Arm(name="base", reasons={"accepted": 3, "wrong": 5, "no_answer": 0}),
        Arm(name="TABOM", reasons={"accepted": 7, "truncated": 1}),
    ]
    html = render(make_report(arms=arms))
    assert 'aria-label="base: accepted 3, wrong 5"' in html
    assert 'aria-label="TABOM: accepted 7, truncated 1"' in html
    assert "Why answers were wrong" not in render(make_report(arms=[Arm(name="base")]))


def test_the_recipe_is_folded_and_the_words_come_first(report):
    html = render(report)
    assert "<details><summary>Recipe" in html
    assert html.index('id="reading"') < html.index('id="results"')


def test_nothing_is_fetched(report):
    html = render(report)
    page = Page(html)
    for _, attrs in page.tags:
        for name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
            assert attrs.get(name) is None or attrs[name].startswith(("#", "data:,")), attrs
        assert not [name for name in attrs if name.startswith("on")]
    style = page.data("style")
    assert style
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|innerHTML|eval)\b", page.data("script"))
    assert page.all("img") == []


def test_the_policy_allows_exactly_the_one_script(report):
    page = Page(render(report))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    script = page.data("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert [a.get("id") for a in page.all("script")] == ["tabom-summary", "tabom-view", None]


def test_the_embedded_numbers_are_the_report(report):
    page = Page(render(report))
    assert json.loads(page.data("script", "tabom-summary")) == json.loads(
        json.dumps(report.to_json())
    )
    view = json.loads(page.data("script", "tabom-view"))
    assert view["examples"] == json.loads(json.dumps(to_plain(report.examples)))
    assert report.to_json()["schema"] == SCHEMA


def poison(value):
    """The same structure with every free text replaced by hostile text."""
    if dataclasses.is_dataclass(value):
        known = {"base", "role", "created", "kind", "set", "pace"}
        return dataclasses.replace(
            value,
            **{
                f.name: getattr(value, f.name)
                if f.name in known
                else poison(getattr(value, f.name))
                for f in dataclasses.fields(value)
            },
        )
    if isinstance(value, dict):
        return {poison(k): poison(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [poison(item) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


def test_hostile_text_stays_text(report):
    hostile = poison(report)
    hostile.comparison.__dict__["base"] = HOSTILE + "No-SFT"
    html = render(hostile)
    page, clean_page = Page(html), Page(render(report))
    assert page.errors == []
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in clean_page.tags}
    assert len(page.all("script")) == 3
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "alert(1)" not in page.data("script")
    assert "49" not in page.data("h1")
    assert HOSTILE.split()[0] in page.data("h1")
    for block in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S):
        assert not set("<>&\u2028\u2029") & set(block)


def test_embedded_json_has_no_line_that_ends_the_block():
    text = embed_json({"a": "</script><!--\u2028\u2029&", "b": [float("nan"), 1.5, np.float32(2)]})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script><!--\u2028\u2029&", "b": [None, 1.5, 2.0]}


@pytest.mark.parametrize(
    ("missing", "lost"),
    [
        ({"examples": ()}, {"trajectories"}),
        ({"curves": Curves()}, {"decoding", "training"}),
        ({"curves": Curves(), "collection": ()}, {"decoding", "training", "collection"}),
        ({"comparison": Comparison(), "columns": (), "work": ()}, {"results"}),
        ({"created": "", "seconds": None, "command": "", "notes": (), "seeds": ()}, set()),
        ({"work": (), "arms": (), "hardware": {}, "versions": {}}, set()),
    ],
)
def test_a_missing_part_leaves_its_section_out(make_report, missing, lost):
    html = render(make_report(**missing))
    assert Page(html).errors == []
    assert sections(html) == [name for name in sections(render(make_report())) if name not in lost]
    assert "undefined" not in html.split("<script")[0]
    assert ">None<" not in html


def test_names_of_others_keep_their_underscores(make_report):
    hardware = {"platform": "x86_64", "num_cores": 2, "gpus": []}
    arms = [dataclasses.replace(arm, objective={}, data="none") for arm in make_report().arms]
    html = render(make_report(hardware=hardware, arms=arms))
    assert "x86_64" in html
    assert "num cores" in html
    assert ">not trained<" in html


def test_the_least_report_makes_a_page():
    html = render(Report(name="nothing yet"))
    assert Page(html).errors == []
    assert sections(html) == ["reading"]
    assert "This run has no evaluated arm." in html


def test_evaluation_prompts_that_were_trained_on_are_an_alarm(report):
    leak = Leak(set="chain", num_prompts=8, num_exact=8, num_near=0)
    found = dataclasses.replace(report.comparison, leaks=[("TABOM", leak), ("dInfer", leak)])
    html = render(dataclasses.replace(report, comparison=found))
    at = html.index("Not held out: 8 of 8 prompts of chain occur in what TABOM and dInfer")
    assert at < html.index('class="headline"')
    assert html.count("Not held out") == 1
    assert "Not held out" not in render(report)


def changed(report, arm, key, **changes):
    """The report with another row; None as value is a number that is no number."""
    rows = [
        dataclasses.replace(row, **changes) if (row.arm, row.key) == (arm, key) else row
        for row in report.comparison.rows
    ]
    return dataclasses.replace(report, comparison=dataclasses.replace(report.comparison, rows=rows))


def test_absent_numbers_are_shown_as_absent(report):
    nothing = Estimate(value=float("nan"))
    for key in report.columns:
        report = changed(report, "SFT-SD", key, value=nothing)
    report = changed(report, "SFT-GT", MetricKey("tds"), value=nothing)
    html = render(report)
    assert "nan" not in re.sub(r"<script.*", "", html, flags=re.S).lower().replace("dominant", "")
    assert html.split("<h2>Results")[1].split("</table>")[0].count(">–<") == 1 + len(report.columns)


def test_rows_stand_in_measured_order_and_only_a_told_best_is_bold(report):
    first = render(report).split("</table>")[0]
    names = [re.sub("<.*?>", "", th) for th in re.findall(r'<th scope="row">.*?</th>', first)]
    assert names[0] == "Boltzmann"
    assert names[-1] == "SFT-GT"
    assert len(names) == 7
    assert first.count('class="number best"') >= 1
    open_pairs = [dataclasses.replace(pair, sign=0) for pair in report.comparison.pairs]
    found = dataclasses.replace(report.comparison, pairs=open_pairs)
    html = render(dataclasses.replace(report, comparison=found))
    assert html.count('class="number best"') == 0


def test_the_same_report_makes_the_same_bytes(report, make_report):
    assert render(report) == render(make_report())


def test_writing_makes_the_folder_and_replaces_the_old_file(report, tmp_path):
    path = tmp_path / "a" / "report.html"
    assert build_report(report, path=path) == path
    first = path.read_bytes()
    build_report(dataclasses.replace(report, name="half a pair: \ud83d"), path=path)
    assert path.read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert b"half a pair: ?" in path.read_bytes()


def test_a_column_that_no_arm_has_is_refused(report):
    with pytest.raises(DataError, match="nothing"):
        dataclasses.replace(report, columns=[MetricKey("nothing")])


def example(**changes):
    tokens = ["a", "=", "bc", "<eos>", "<eos>"]
    parts = {"reference": "a=bd", "is_correct": False} | changes
    return Example(
        arm="A", set="s", prompt="p", tokens=tokens, step=range(5), entropy=[0.1] * 5, **parts
    )


def test_wrong_tokens_are_marked_only_where_slots_have_a_counterpart():
    assert expected_texts(example()) == [None, None, "bd", None, None]
    assert expected_texts(example(reference="x=bc")) == ["x", None, None, None, None]
    nothing = [None] * 5
    assert expected_texts(example(reference="a=bcd")) == nothing  # another length
    assert expected_texts(example(is_correct=True)) == nothing  # right in other words
    assert expected_texts(example(reference="")) == nothing


def test_special_tokens():
    names = ["<eos>", "<|endoftext|>", "<|mdm_mask|>", "[MASK]", "<", "a<b>", "[x]", "< a >", ""]
    assert [is_special(token) for token in names] == [True] * 4 + [False] * 5


def test_viewer_groups_by_prompt_and_scales_to_the_greatest_entropy(report):
    view = viewer(report)
    assert [len(group["runs"]) for group in view["groups"]] == [4, 4, 4]
    indices = [run["example"] for group in view["groups"] for run in group["runs"]]
    assert sorted(indices) == list(range(12))
    greatest = max(v for e in report.examples for row in e.field for v in row if v)
    assert view["top"] == pytest.approx(greatest)
    assert viewer(Report(name="x"))["groups"] == []


def test_detail_metrics_have_a_table_of_their_own(report):
    last = report.columns[-1]
    page = render(dataclasses.replace(report, columns=report.columns[:-1], details=[last]))
    main, details = page.split("Every set and further numbers")
    assert "Order agreement" not in main
    assert "Order agreement" in details.split("</table>")[0]


def test_many_prompts_and_arms_make_a_small_page(make_report, report):
    """A page holds estimates, not records: its size does not grow with the documents."""
    assert len(render(report)) < 600_000
