"""Which prompts a trained model saw: found again from the folder that training left.

A trained folder's manifest names the verdicts it was trained on by their fingerprint, those name
their collection, and a collection holds its prompts. They are looked for beside the trained folder
and one level above, where `tabom run` puts them and most people do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.collect.columns import PROMPT_COLUMNS
from tabom.core.atomic import read_json
from tabom.core.errors import TabomError
from tabom.core.manifest import Manifest, read_manifest
from tabom.trajectory.store import TrajectoryStore

CARD = "tabom_manifest.json"  # goes with an adapter wherever it is copied


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """texts: the training prompts, None where they were not found. source: where, or why not."""

    texts: list[str] | None
    source: str


def training_prompts(trained: Path) -> TrainedOn:
    """The collection prompts of a trained folder.

    trained: what `tabom train` wrote, an adapter's folder, or a fully trained model's.
    """
    data, seed = _data_of(trained)
    if data is None:
        return TrainedOn(
            texts=None, source=f"{trained.name} says nothing of what it was trained on"
        )
    for folder, found in _collections(trained, data, seed):
        try:
            store = TrajectoryStore(folder)
            texts = dict.fromkeys(_text(t.prompt, t.row) for t in store)
        except TabomError as error:
            return TrainedOn(texts=None, source=f"the collection cannot be read ({error})")
        return TrainedOn(texts=list(texts), source=f"{folder.name} {found.fingerprint}")
    return TrainedOn(
        texts=None,
        source=f"the collection of {trained.name} is neither beside it nor one folder above",
    )


def _data_of(trained: Path) -> tuple[Mapping[str, Any] | None, Any]:
    """What training recorded of its data, and its seed."""
    try:
        found = read_manifest(trained)
    except TabomError:  # another tool's
        found = None
    if found is not None and found.stage == "train":
        return found.settings, (found.settings.get("training") or {}).get("seed")
    card = read_json(trained / CARD) if (trained / CARD).is_file() else {}
    if not isinstance(card, dict):
        return None, None
    return (card.get("extra") or {}).get("data"), (card.get("config") or {}).get("seed")


def _collections(
    trained: Path, data: Mapping[str, Any], seed: Any
) -> Iterator[tuple[Path, Manifest]]:
    near = list(_near(trained.resolve()))
    wanted = {f.settings.get("trajectories") for _, f in near
              if f.stage == "verify" and f.fingerprint == data.get("verdicts")}  # fmt: skip
    for folder, found in near:
        if found.stage != "collect":
            continue
        # Ground truth of the same prompts: the collection that another arm was trained on.
        is_same = data.get("prompts") is not None and (
            found.settings.get("prompts"), found.settings.get("seed")
        ) == (data["prompts"], seed)  # fmt: skip
        if found.fingerprint in wanted or is_same:
            yield folder, found


def _near(trained: Path) -> Iterator[tuple[Path, Manifest]]:
    for parent in (trained.parent, trained.parent.parent):
        for folder in sorted(p for p in parent.iterdir() if p.is_dir()):
            try:
                found = read_manifest(folder)
            except TabomError:
                continue
            if found is not None:
                yield folder, found


def _text(prompt: str, row: Mapping[str, Any]) -> str:
    """The prompt as its row has it, where a template stands around it; else as it was asked."""
    columns = (row.get(name) for name in (*PROMPT_COLUMNS, "text"))
    inside = [text for text in columns if isinstance(text, str) and text and text in prompt]
    return max(inside, key=len, default=prompt)
