"""`tabom view`: what a filter leaves, the pages of a run and of a collection, in a browser too."""

import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tabom.cli.view import make_server
from tabom.core.errors import StageError
from tabom.report.browse import PAGE, Answer, Item, Library, Query
from tabom.stages.browse import open_library
from tabom.stages.recipe import load_recipe
from tabom.stages.run import run_recipe
from tabom.trajectory.record import Trajectory


def _trajectory(name: str, response: str) -> Trajectory:
    return Trajectory(
        id=name, prompt="p", prompt_ids=[1], response=response, response_ids_N=[5, 6, 7],
        step_N=[1, 0, 2], entropy_N=np.array([0.5, 0.1, 0.2]), confidence_N=np.ones(3),
        num_forwards=3,
    )  # fmt: skip


def _answer(arm: str, reason: str, *, response: str = "said", length: int = 3) -> Answer:
    return Answer(
        arm=arm, response=response, reason=reason, is_right=reason == "accepted", length=length,
        num_forwards=length, load=lambda: _trajectory(arm, response),
    )  # fmt: skip


@pytest.fixture
def library() -> Library:
    items = []
    for i in range(120):
        base = "accepted" if i % 3 == 0 else "wrong"
        arm = "accepted" if i % 2 == 0 else "no_answer"
        items.append(
            Item(
                id=f"q{i}", set="a" if i < 100 else "b", prompt=f"<b>prompt</b> {i}",
                reference="gold", difficulty=float(i % 4),
                answers={
                    "base": _answer("base", base, length=i + 1),
                    "arm": _answer("arm", arm, response=f"Answer {i}"),
                },
            )
        )  # fmt: skip
    return Library("sample", items)


def test_filters(library: Library) -> None:
    def ids(**given: str) -> set[int]:
        return set(library.found(Query.of(given)))

    assert len(ids()) == 120
    assert ids(flip="base>arm") == {i for i in range(120) if i % 3 and i % 2 == 0}
    assert ids(flip="arm>base") == {i for i in range(120) if i % 3 == 0 and i % 2}
    assert ids(reason="no_answer") == {i for i in range(120) if i % 2}
    assert ids(reason="wrong", arm="arm") == set()
    assert ids(text="ANSWER 7") == {7} | set(range(70, 80))
    assert ids(set="b", difficulty="2") == {i for i in range(100, 120) if i % 4 == 2}
    assert ids(arm="base", low="5", high="7") == {4, 5, 6}
    assert ids(low="x", page="-3") == ids()
    order = library.found(Query.of({"sort": "length"}))
    assert order[:3] == [119, 118, 117]


def test_the_list_is_cut_into_pages_and_escapes(library: Library) -> None:
    page = library.list_page(Query(page=1))
    assert f"/item/{PAGE}" in page
    assert "/item/0?" not in page
    assert "<b>prompt</b>" not in page
    assert "&lt;b&gt;prompt" in page
    assert 'rel="prev"' in page
    assert 'rel="next"' in page
    last = library.list_page(Query(page=99))
    assert "/item/119" in last
    assert 'rel="next"' not in last
    assert "0 of 120 prompts" in library.list_page(Query(text="nowhere"))


def test_an_item_shows_all_arms_and_its_neighbours_in_the_query(library: Library) -> None:
    query = Query(reason="no_answer")
    page = library.item_page(3, query)
    assert page.count('class="player"') == 2
    assert re.search(r"/item/1\?reason=no_answer", page)
    assert re.search(r"/item/5\?reason=no_answer", page)
    assert 'data-step="2"' in page
    with pytest.raises(IndexError):
        library.item_page(120, query)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study on the toy base."""
    root = tmp_path_factory.mktemp("view") / "run"
    recipe = load_recipe(
        "toy-quick",
        overrides=[
            ("output_dir", str(root)), ("prompts.args.num", 96), ("training.max_steps", 1),
            ("training.per_device_train_batch_size", 8),
            ("evaluation.sets.chain.prompts.args.num", 12),
            ("evaluation.sets.chain.metrics.difficulty", "tabom.toyworld.diagnostics:difficulty"),
            ("arms", [{"name": "No-SFT"}, {"name": "SFT-SD", "objective": "nelbo"}]),
        ],
    )  # fmt: skip
    run_recipe(recipe, command="test", is_quiet=True)
    return root


@pytest.fixture(scope="module")
def served(finished: Path) -> Iterator[str]:
    server = make_server(open_library(finished), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        return str(answer.read().decode())


def test_a_run_is_served(served: str) -> None:
    page = _get(served + "/")
    assert "No-SFT" in page
    assert "SFT-SD" in page
    assert "difficulty" in page
    hard = _get(served + "/?difficulty=9&set=chain")
    place = re.search(r"/item/(\d+)", hard)
    assert place
    item = _get(f"{served}/item/{place[1]}?difficulty=9")
    assert item.count('class="player"') == 2
    assert item.count("data-step=") == 2 * 16
    for path in ("/nowhere", "/item/99999", "/item/x", "/item/"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(served + path)


def test_a_collection_with_its_verdicts(finished: Path) -> None:
    seed = finished / "seed-0"
    library = open_library(
        seed / "collect", verdicts=seed / "verify", model_name_or_path="toy-base"
    )
    assert len(library.items) == 96
    assert set(library.reasons) <= {"accepted", "wrong", "no_answer", "truncated"}
    assert "accepted" in library.reasons
    page = library.item_page(0, Query())
    assert re.search(r">=</span>", page)  # the toy's answers have an equals sign: a text, no id
    plain = open_library(seed / "collect")
    assert plain.reasons == [""]
    assert len(open_library(finished / "base" / "evaluate").items) > 12
    with pytest.raises(StageError, match="nothing to look through"):
        open_library(seed / "verify")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_the_player_runs_in_a_browser(served: str) -> None:
    """The script runs under the page's own policy and tells how far it is."""
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
         "--dump-dom", f"{served}/item/0"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count("after 16 of 16 calls") == 2
    assert 'class="now"' in done.stdout


def test_the_command_says_where_it_listens(finished: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tabom", "view", str(finished), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://127.0.0.1:\d+)/", line)
        assert found
        assert "SFT-SD" in _get(found[1] + "/")
    finally:
        process.terminate()
        process.communicate(timeout=20)
