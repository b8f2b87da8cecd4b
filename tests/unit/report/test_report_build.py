import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tabom.core.errors import DataError
from tabom.report.build import build_report, embed_json, render
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
    return [attrs["id"] for attrs in Page(html).all("section")]


def test_the_page_is_well_formed_and_whole(summary):
    page = Page(render(summary))
    assert page.errors == []
    assert sections(render(summary)) == [
        "results",
        "decoding",
        "trajectories",
        "collection",
        "training",
        "settings",
        "reading",
    ]
    # A link of the contents for each section, and no other.
    assert [a["href"][1:] for a in page.all("a")] == sections(render(summary))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    drawings = [a for a in page.all("svg") if a.get("class") == "drawing"]
    assert sum(a.get("role") == "img" for a in drawings) == 6 + 6  # figures, training panels
    assert sum(a.get("aria-hidden") == "true" for a in drawings) == 7 * 6  # cells of the table


def test_nothing_is_fetched(summary):
    html = render(summary)
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


def test_the_policy_allows_exactly_the_one_script(summary):
    page = Page(render(summary))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    script = page.data("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert [a.get("id") for a in page.all("script")] == ["tabom-summary", "tabom-view", None]


def test_the_embedded_numbers_are_the_summary(summary):
    page = Page(render(summary))
    assert json.loads(page.data("script", "tabom-summary")) == summary


def poison(value):
    """The same structure with every free text replaced by hostile text."""
    kept = {"key", "better", "role", "created", "base_arm", "arm", "data"}
    if isinstance(value, dict):
        return {k: v if k in kept else poison(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(summary):
    hostile = poison(summary)
    for k, arm in enumerate(hostile["arms"]):
        arm["name"] = f"{HOSTILE}{k}"
    hostile["base_arm"] = hostile["arms"][0]["name"]
    hostile["curves"]["tds"][0]["arm"] = hostile["curves"]["training"][0]["arm"] = HOSTILE + "0"
    hostile["examples"][0]["arm"] = HOSTILE + "0"
    hostile["collection"][0]["reasons"] = {HOSTILE: 3}
    hostile["versions"] = {HOSTILE: HOSTILE}
    html = render(hostile)
    page, clean_page = Page(html), Page(render(summary))
    assert page.errors == []
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in clean_page.tags}
    assert len(page.all("script")) == 3
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "alert(1)" not in page.data("script")
    assert "49" not in page.data("h1")
    assert json.loads(page.data("script", "tabom-summary")) == hostile
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
        (["examples"], {"trajectories"}),
        (["curves"], {"decoding", "training"}),
        (["curves", "collection"], {"decoding", "training", "collection"}),
        (["metrics", "arms", "base_arm"], {"results"}),
        (["created", "seconds", "command", "notes", "level", "sets", "seeds"], set()),
    ],
)
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_missing_part_leaves_its_section_out(summary, missing, lost, is_empty):
    whole = sections(render(summary))
    for key in missing:
        if is_empty and not isinstance(summary[key], (int, float)):
            summary[key] = type(summary[key])()
        else:
            del summary[key]
    html = render(summary)
    assert Page(html).errors == []
    assert sections(html) == [name for name in whole if name not in lost]
    assert "undefined" not in html.split("<script")[0]
    assert ">None<" not in html


def test_the_least_summary_makes_a_page():
    html = render({"schema": 1, "name": "nothing yet"})
    assert Page(html).errors == []
    assert sections(html) == ["reading"]
    assert "This run has no evaluated arm." in html


def test_every_optional_field_may_be_missing_on_its_own(summary):
    """One field of one nested part at a time: none may end in an error or a printed None."""

    def paths(value, at=()):
        if isinstance(value, dict):
            for key, item in value.items():
                yield (*at, key)
                yield from paths(item, (*at, key))
        elif isinstance(value, list) and value:
            yield from paths(value[0], (*at, 0))

    needed = {"schema", "name", "key", "arm", "step", "values", "points", "ratios", "tokens"}
    needed |= {"entropy", "steps", "mean", "low", "high", "base_arm", "metrics"}
    tried = 0
    for parts in (
        summary["arms"],
        summary["collection"],
        summary["examples"],
        *[summary["curves"][name] for name in ("tds", "entropy", "training")],
    ):
        del parts[2:]
    whole = json.dumps(summary)
    for path in list(paths(summary)):
        if path[-1] in needed or path[0] in ("recipe", "versions", "hardware"):
            continue
        cut = json.loads(whole)
        target = cut
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]
        html = render(cut)
        assert ">None<" not in html, path
        tried += 1
    assert tried > 40


def test_one_arm_one_seed_no_out_of_domain(summary):
    summary["arms"], summary["seeds"] = summary["arms"][:1], [0]
    summary["arms"][0]["seeds"] = summary["arms"][0]["seeds"][:1]
    summary["metrics"] = [m for m in summary["metrics"] if m["key"] != "out_of_domain"]
    del summary["arms"][0]["means"]["out_of_domain"]
    html = render(summary)
    assert "There is no other arm to compare with." in html
    assert "What the gain costs" not in html
    assert "The arms in order" not in html
    assert "No arm is marked as best" in html


def test_absent_numbers_are_shown_as_absent(summary):
    summary["arms"][1]["means"]["tds"]["mean"] = float("nan")
    summary["arms"][2]["means"] = {}
    summary["curves"]["tds"][0]["values"][3] = None
    html = render(summary)
    assert "nan" not in re.sub(r"<script.*", "", html, flags=re.S).lower().replace("dominant", "")
    assert html.count('data-value=""') == 1 + len(summary["metrics"])


def test_rows_stand_in_measured_order_and_only_a_separable_best_is_bold(summary):
    names = re.findall(r'<th scope="row" data-value="([^"]+)"', render(summary))
    assert names[0] == "Boltzmann"
    assert names[-1] == "SFT-GT"
    assert len(names) == 7
    bold = render(summary).count('class="mean best"')
    for arm in summary["arms"]:
        for cell in arm["means"].values():
            if cell["delta"] is not None:
                cell["delta_low"], cell["delta_high"] = -100.0, 100.0
    assert bold >= 1
    assert render(summary).count('class="mean best"') == 0


def test_the_same_summary_makes_the_same_bytes(summary, make_summary):
    assert render(summary) == render(make_summary())


def test_writing_makes_the_folder_and_replaces_the_old_file(summary, tmp_path):
    path = tmp_path / "a" / "report.html"
    assert build_report(summary, path=path) == path
    first = path.read_bytes()
    summary["name"] = "half a pair: \ud83d"
    build_report(summary, path=path)
    assert path.read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(DataError):
        build_report({"schema": 2}, path=path)
    assert b"half a pair: ?" in path.read_bytes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.update(schema=2), "schema is 2, this version reads 1"),
        (lambda s: s.pop("name"), "`name` is missing"),
        (lambda s: s.update(base_arm="nobody"), "base_arm 'nobody' is none of the arms"),
        (lambda s: s["arms"][1].update(name="No-SFT"), "expected one unique text each"),
        (lambda s: s["metrics"].pop(), r"has means for \['order_agreement'\]"),
        (lambda s: s["metrics"].append({"key": "tds"}), "expected one unique key each"),
        (lambda s: s["curves"]["entropy"][0]["low"].pop(), "entropy curve of 'No-SFT'"),
        (lambda s: s["curves"]["loss_ratio"]["ratios"].pop(), "5 values for 4 mask ratios"),
        (lambda s: s["examples"][0]["step"].pop(), "15 values of `step` for 16 tokens"),
        (lambda s: s["examples"][0]["field"][2].pop(), "field row 2 has 15 values for 16 tokens"),
    ],
)
def test_a_summary_that_contradicts_itself_is_refused(summary, change, text):
    change(summary)
    with pytest.raises(DataError, match=text):
        render(summary)


def example(**changes):
    tokens = ["a", "=", "bc", "<eos>", "<eos>"]
    return {"tokens": tokens, "reference": "a=bd", "is_correct": False} | changes


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


def test_viewer_groups_by_prompt_and_scales_to_the_greatest_entropy(summary):
    view = viewer(summary)
    assert [len(group["runs"]) for group in view["groups"]] == [4, 4, 4]
    indices = [run["example"] for group in view["groups"] for run in group["runs"]]
    assert sorted(indices) == list(range(12))
    greatest = max(v for e in summary["examples"] for row in e["field"] for v in row if v)
    assert view["top"] == pytest.approx(greatest)
    assert viewer({})["groups"] == []


def test_detail_metrics_have_a_table_of_their_own(summary):
    first, *_, last = summary["metrics"]
    last["is_detail"] = True
    page = render(summary)
    main, details = page.split("Every set and further numbers")
    heads = f'title="{first["help"]}"', f'title="{last["help"]}"'
    assert [h in main for h in heads] == [True, False]
    assert [h in details for h in heads] == [False, True]
