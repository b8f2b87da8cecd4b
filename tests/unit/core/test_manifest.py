import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tabom.core import manifest as m
from tabom.core.errors import DataError, StageError

SETTINGS = {"decoding": {"policy": "entropy", "steps": 8}, "arms": [{"name": "a"}], "seeds": [1, 2]}
RUN = m.Mark(stage="collect", fingerprint="f1", settings=SETTINGS)


def finished(folder: Path) -> m.Manifest:
    m.begin(folder, RUN)
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("hello")
    (folder / ".hidden").write_text("x")
    return m.write_manifest(folder, RUN, counts={"num_x": 1}, seconds=1.23456)


def test_life_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert m.check_manifest(folder, RUN) is None
    assert m.read_manifest(folder) is None
    assert m.begin(folder, RUN) is None
    assert m.check_manifest(folder, RUN) is None
    (folder / "half").write_text("x")
    assert m.begin(folder, RUN) is None  # resumes its own partial
    (folder / "half").unlink()
    written = finished(folder)
    assert written.files == {
        "sub/a.txt": m.FileFacts(sha256=hashlib.sha256(b"hello").hexdigest(), bytes=5)
    }
    assert m.read_manifest(folder) == written
    assert not (folder / m.STARTED).exists()
    assert m.check_manifest(folder, RUN) == written
    assert m.begin(folder, RUN) == written
    assert written.seconds == 1.235
    assert written.created.endswith("+00:00")
    assert {"python", "tabom", "torch"} <= set(written.versions)


@pytest.mark.parametrize("done", [False, True])
def test_another_recipe_is_refused_with_both_values(tmp_path: Path, done: bool) -> None:
    if done:
        finished(tmp_path)
    else:
        m.begin(tmp_path, RUN)
    other = {
        "decoding": {"policy": "random", "steps": 8, "k": 2},
        "arms": [{"name": "b"}],
        "seeds": [1],
    }
    with pytest.raises(StageError) as caught:
        m.begin(tmp_path, replace(RUN, fingerprint="f2", settings=other))
    text = str(caught.value)
    assert "another recipe" in text
    assert ("results" if done else "an unfinished run") in text
    assert "  decoding.policy: 'entropy' there, 'random' here\n" in text
    assert "  decoding.k: absent there, 2 here\n" in text
    assert "  arms.0.name: 'a' there, 'b' here\n" in text
    assert "  seeds: [1, 2] there, [1] here\n" in text
    assert "steps" not in text
    assert "--output_dir" in text
    assert "--overwrite" in text


def test_equal_settings_with_another_fingerprint_say_so(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(StageError, match="no setting differs: the model, the data or the code"):
        m.check_manifest(tmp_path, replace(RUN, fingerprint="f2"))


def test_many_differences_are_cut(tmp_path: Path) -> None:
    m.begin(tmp_path, replace(RUN, settings={str(i): i for i in range(30)}))
    with pytest.raises(StageError, match=r"\.\.\. and 22 more"):
        m.check_manifest(tmp_path, replace(RUN, fingerprint="f2", settings={}))


def test_another_stage_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(StageError, match="of stage 'collect', expected 'train'"):
        m.check_manifest(tmp_path, replace(RUN, stage="train"))


def test_a_folder_that_is_not_ours_is_neither_marked_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(StageError, match=r"not made by tabom \(it holds thesis\.tex\)"):
        m.begin(tmp_path, RUN)
    with pytest.raises(StageError, match="nothing in it is deleted"):
        m.reset(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StageError, match="is a file"):
        m.begin(tmp_path / "thesis.tex", RUN)
    with pytest.raises(StageError, match="is a file"):
        m.reset(tmp_path / "thesis.tex")


def test_reset_empties_ours_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    folder = tmp_path / "run"
    finished(folder)
    (folder / "link").symlink_to(outside)
    m.reset(folder)
    assert list(folder.iterdir()) == []
    assert (outside / "keep").exists()
    m.reset(folder)
    m.reset(tmp_path / "missing")
    assert m.begin(folder, replace(RUN, stage="train", fingerprint="f2", settings={})) is None


def test_a_reset_that_is_cut_short_leaves_our_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(m.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        m.reset(tmp_path)
    monkeypatch.undo()
    m.reset(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_changed_file_is_named_where_it_is_read(tmp_path: Path, damage: str) -> None:
    found = finished(tmp_path)
    path = tmp_path / "sub" / "a.txt"
    m.check_file(path, found.files["sub/a.txt"])
    path.write_text("hellO") if damage == "change" else path.unlink()
    with pytest.raises(DataError, match=r"sub/a\.txt: (changed|missing)"):
        m.check_file(path, found.files["sub/a.txt"])
    m.check_folder(tmp_path)  # what lies deeper is checked by whoever opens it


def test_only_what_we_wrote_is_checked(tmp_path: Path) -> None:
    m.check_folder(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")  # another tool's
    m.check_folder(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        m.check_folder(tmp_path)
    with pytest.raises(DataError, match=r"nope\.bin: missing"):
        m.write_manifest(tmp_path, RUN, counts={}, seconds=0, files=["nope.bin"])


@pytest.mark.parametrize("content", ["[]", '{"stage": "x"}', "{"])
def test_a_broken_manifest_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / m.MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        m.read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", [1]),
        ("files", {"sub/a.txt": "x"}),
        ("files", {"sub/a.txt": {"sha256": "0"}}),
        ("counts", None),
        ("settings", [1]),
    ],
)
def test_a_manifest_with_an_odd_field_names_file_and_field(
    tmp_path: Path, field: str, value: object
) -> None:
    finished(tmp_path)
    path = tmp_path / m.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DataError, match=rf"manifest\.json: .*{field}"):
        m.read_manifest(tmp_path)


def test_a_broken_start_mark_names_the_file(tmp_path: Path) -> None:
    (tmp_path / m.STARTED).write_text(json.dumps([1]))
    with pytest.raises(DataError, match=r"\.started\.json"):
        m.check_manifest(tmp_path, RUN)


def test_flatten() -> None:
    nested = {"a": {"b": 1, "c": []}, "d": [{"e": 2}, 3], "f": [1, 2], "g": {}}
    assert m.flatten(nested) == {
        "a.b": 1, "a.c": [], "d.0.e": 2, "d.1": 3, "f": [1, 2], "g": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ('"num_kept": 3', '"num_kept": 8'),
        ("sha256", "sha257"),
        ('"created": "20', '"created": "21'),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(
    tmp_path: Path, there: str, instead: str
) -> None:
    (tmp_path / "a.txt").write_text("a")
    m.write_manifest(tmp_path, RUN, counts={"num_kept": 3}, seconds=0)
    assert m.read_manifest(tmp_path) is not None
    path = tmp_path / m.MANIFEST
    text = path.read_text()
    assert there in text
    path.write_text(text.replace(there, instead, 1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        m.read_manifest(tmp_path)


def test_sealed_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    m.write_sealed(path, {"a": [1, 1e22, float("nan")], "b": "é"})
    assert m.read_sealed(path) == {"a": [1, 1e22, None], "b": "é"}
    path.write_text(path.read_text().replace("é", "e"))
    with pytest.raises(DataError, match=r"x\.json: changed"):
        m.read_sealed(path)
    path.write_text('{"a": 1}')  # of a time before seals
    assert m.read_sealed(path) == {"a": 1}
    path.write_text("[]")
    with pytest.raises(DataError, match=r"x\.json"):
        m.read_sealed(path)
