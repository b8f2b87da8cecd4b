"""A stage: locked, refused, resumed, checked; and one of the user's own, which is one file."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from tabom.cli.main import main
from tabom.core.atomic import only_one
from tabom.core.errors import ConfigError, DataError, StageError
from tabom.core.identity import FREE
from tabom.core.manifest import read_manifest
from tabom.stages.collect import Collect
from tabom.stages.pool import run_stages
from tabom.stages.preflight import Check, preflight
from tabom.stages.recipe import load_recipe
from tabom.stages.run import run_recipe
from tabom.stages.stage import Counts, Done, Stage
from tabom.stages.study import plan_study

OWN = '''
"""Keep the ids of the longest responses of a collection."""

from dataclasses import dataclass, field
from typing import ClassVar

from tabom.core.atomic import write_json
from tabom.stages.stage import Counts, Done, Output, Stage, reads
from tabom.trajectory.store import TrajectoryStore


@dataclass(frozen=True, kw_only=True)
class Longest(Stage):
    kind: ClassVar[str] = "longest"

    trajectories: Output = field(metadata=reads("collect"))
    """What `tabom collect` wrote."""
    num: int = 3
    """How many ids are kept."""

    def work(self, report: Done) -> Counts:
        store = TrajectoryStore(self.trajectories.checked())
        longest = sorted(store, key=lambda t: (-len(t.response), t.id))[: self.num]
        write_json(self.folder / "longest.json", [t.id for t in longest])
        report(1, 1)
        return {"num_kept": len(longest)}
'''


@dataclass(frozen=True, kw_only=True)
class Write(Stage):
    """Writes a text; fails where it is told to."""

    kind: ClassVar[str] = "write"

    text: str = "x"
    fails: bool = field(default=False, metadata=FREE)

    def work(self, report: Done) -> Counts:
        (self.folder / "text").write_text(self.text)
        if self.fails:
            raise DataError("told to fail")
        return {"num_letters": len(self.text)}


@dataclass(frozen=True, kw_only=True)
class Vanish(Write):
    """Its folder is removed while it works."""

    def work(self, report: Done) -> Counts:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()
        return {}


def test_a_stage_is_done_once_and_by_its_settings(tmp_path: Path) -> None:
    stage = Write(folder=tmp_path / "a")
    assert stage.run() == {"num_letters": 1}
    assert stage.is_complete()
    assert stage.output == Write.load(stage.folder)
    free = replace(stage, fails=True)
    assert free.fingerprint == stage.fingerprint
    assert free.run() == {"num_letters": 1}  # nothing is done again
    other = replace(stage, text="longer")
    with pytest.raises(StageError, match=r"(?s)another recipe.*text: 'x' there, 'longer' here"):
        other.run()
    assert other.run(overwrite=True) == {"num_letters": 6}
    assert (stage.folder / "text").read_text() == "longer"
    with pytest.raises(StageError, match=r"'write'.*tabom collect"):
        Collect.load(stage.folder)


def test_what_fails_leaves_nothing_unless_it_resumes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="told"):
        Write(folder=tmp_path / "a", fails=True).run()
    assert not (tmp_path / "a").exists()


def test_the_lock_comes_before_anything_is_removed(tmp_path: Path) -> None:
    stage = Write(folder=tmp_path / "a")
    stage.run()
    with only_one(stage.folder):
        with pytest.raises(StageError, match="another run"):
            replace(stage, text="other").run(overwrite=True)
        with pytest.raises(StageError, match="another run"):
            stage.run()
    assert (stage.folder / "text").read_text() == "x"
    assert stage.is_complete()


def test_a_folder_that_vanishes_is_no_result(tmp_path: Path) -> None:
    stage = Vanish(folder=tmp_path / "a")
    with pytest.raises(StageError, match="removed"):
        stage.run()
    assert not stage.is_complete()


def test_a_collection_whose_folder_vanishes_is_not_finished(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    """It says so, and a rerun collects what is missing."""
    overrides = [("output_dir", str(tmp_path / "out")), "collection.batch_size=4"]
    stage = plan_study(load_recipe(str(tiny_recipe), overrides=overrides)).collect[0]

    def remove(label: str, done: int, total: int, note: str = "") -> None:
        if done == 8:
            shutil.rmtree(stage.folder)

    with pytest.raises(StageError, match="was removed or emptied"):
        stage.run(remove)
    assert not stage.is_complete()
    counts = stage.run()
    assert 0 < counts["resumed"] < 24
    assert stage.is_complete()


def test_nothing_is_left_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "photo").write_text("p")
    with pytest.raises(StageError, match="photo"):
        Write(folder=tmp_path).run()
    assert [p.name for p in tmp_path.iterdir()] == ["photo"]


def test_a_changed_file_is_found_when_it_is_read(tmp_path: Path) -> None:
    stage = Write(folder=tmp_path / "a", text="abc")
    stage.run()
    output = stage.output
    assert output.checked() == stage.folder
    (stage.folder / "text").write_text("abd")
    with pytest.raises(DataError, match="text: changed"):
        output.checked()
    with pytest.raises(StageError, match="write"):
        replace(output, fingerprint="other").checked()


def test_a_stage_of_ones_own_is_one_file(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "own_stage.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    from own_stage import Longest  # type: ignore[import-not-found]

    recipe = load_recipe(str(tiny_recipe), overrides=[("output_dir", str(tmp_path / "out"))])
    collect = plan_study(recipe).collect[0]
    longest = Longest(folder=tmp_path / "longest", trajectories=collect.output)
    assert longest.needs == (collect.folder,)
    run_stages([collect, longest], is_quiet=True)
    assert read_manifest(longest.folder).counts == {"num_kept": 3}  # type: ignore[union-attr]

    # The same from the command line, with flags made of its fields.
    flags = ["--trajectories", str(collect.folder), "--output_dir", str(tmp_path / "b"), "--quiet"]
    assert main(["own_stage:Longest", *flags, "--num", "2"]) == 0
    assert "kept: 2" in capsys.readouterr().out
    assert main(["own_stage:Longest", *flags]) == 2
    assert "num: 2 there, 3 here" in capsys.readouterr().err
    assert main(["own_stage:Nothing", *flags]) == 2
    assert "Nothing" in capsys.readouterr().err


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    def refuse(what: str) -> None:
        raise ConfigError(f"no {what}")

    @dataclass(frozen=True, kw_only=True)
    class Odd(Write):
        def checks(self):
            yield Check("a", refuse, ("tracker",))
            yield Check("b", refuse, ("optimiser",))
            yield Check("c", lambda what: refuse("tracker"), (1,))

    stages = [Odd(folder=tmp_path / name) for name in ("x", "y")]
    with pytest.raises(ConfigError, match=r"(?s)2 things.*a, c: no tracker.*b: no optim"):
        preflight(stages)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.report_to=nothing", "training: .*report_to.*nothing"),
        ("training.optim=lomo", "training: .*lomo.*lomo_optim"),
        ("model.adapter=toy-base", "model: .*adapter_config.json"),
        ("decoding={schedule: official, policy: entropy}", "decoding: .*toy"),
        ("arms.1={name: GT, objective: tabom, data: ground_truth}", "arms.GT: .*order"),
    ],
)
def test_what_can_be_known_is_told_before_the_first_stage(
    tiny_recipe: Path, tmp_path: Path, override: str, message: str
) -> None:
    out = tmp_path / "out"
    recipe = load_recipe(
        str(tiny_recipe), overrides=[("output_dir", str(out)), "evaluation.sets=[]", override]
    )
    with pytest.raises(ConfigError, match=message):
        run_recipe(recipe, command="test", is_quiet=True)
    assert not out.exists()


def test_a_share_that_there_is_not_is_refused(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    command = ["collect", "--config", str(tiny_recipe), "--output_dir", str(tmp_path / "o")]
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == 2
    assert "2/2" in capsys.readouterr().err
    recipe = load_recipe(str(tiny_recipe))
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        Collect(folder=tmp_path, model=recipe.model, prompts=recipe.prompts, rank=2, world_size=2)


def test_two_runs_into_one_folder(tiny_recipe: Path, tmp_path: Path) -> None:
    """The second is refused although it may overwrite, and the first is whole."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tabom", "collect", "--quiet", "--overwrite",
               "--config", str(tiny_recipe), "--output_dir", str(out)]  # fmt: skip
    first = subprocess.Popen([*command, "--set", "prompts.args.num=96"])
    while not (out / ".started.json").is_file():
        assert first.poll() is None
    second = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True, check=False)
    if first.poll() is None:
        assert second.returncode == 2
        assert "another run" in second.stderr
        assert first.wait() == 0
        found = read_manifest(out)
        assert found is not None
        assert found.counts["num_trajectories"] == 96


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", "~", "", " a", "a\nb"])
def test_a_name_stays_in_the_runs(tiny_recipe: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        load_recipe(str(tiny_recipe), overrides=[("name", name)])


def test_home_is_written_out(tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), overrides=[("output_dir", "~/x")])
    assert recipe.output_dir == str(Path.home() / "x")
