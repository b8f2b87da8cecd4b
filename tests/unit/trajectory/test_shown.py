"""How trajectories and stores show themselves, and single rows of a store."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tabom.trajectory.record import Trajectory
from tabom.trajectory.store import TrajectoryStore, TrajectoryWriter, finish


def make(i: int) -> Trajectory:
    return Trajectory(
        id=f"t{i}", prompt="<b>why</b> & how", prompt_ids=[1], response="x" * 60,
        response_ids_N=[5, 6, 9], step_N=[1, 0, -1], entropy_N=[0.5, 0.25, np.nan],
        confidence_N=[0.5, 0.9, np.nan], num_forwards=2,
    )  # fmt: skip


def test_a_trajectory_says_itself_in_a_line() -> None:
    text = repr(make(1))
    assert "'t1'" in text
    assert "2 of 3 slots in 2 calls" in text
    assert len(text) < 120
    assert "array" not in text


def test_a_notebook_shows_each_slot_and_no_markup_of_the_text() -> None:
    html = make(1)._repr_html_()
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)

    Reader().feed(html)
    assert seen.count("td") == 3
    assert "<b>why</b>" not in html
    assert "&lt;b&gt;why&lt;/b&gt; &amp; how" in html
    assert "entropy 0.250 nats" in html


def test_a_store_gives_single_rows(tmp_path: Path) -> None:
    writer = TrajectoryWriter(tmp_path)
    for start in (0, 3, 6):
        writer.append([make(i) for i in range(start, start + 3)])
    finish(tmp_path, fingerprint="abc", settings={}, seconds=0.0)
    store = TrajectoryStore(tmp_path)
    everything = [t.id for t in store]
    assert [store[i].id for i in range(9)] == everything
    assert store[-1].id == everything[-1]
    assert "9 trajectories" in repr(store)
    assert "'abc'" in repr(store)
    for index in (9, -10):
        with pytest.raises(IndexError):
            store[index]
