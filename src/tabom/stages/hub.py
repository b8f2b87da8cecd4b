"""Adapters, models and collections on the Hugging Face hub: what would go, sending it, getting it.

Nothing of this machine travels: the base is named by its id on the hub, and files that tell of
local folders stay behind.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tabom.core.atomic import read_json
from tabom.core.errors import ConfigError, StageError
from tabom.core.manifest import read_manifest
from tabom.stages.verify import VERDICTS, verdicts_file
from tabom.training.card import model_card
from tabom.trajectory.verdicts import read_verdicts

ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl")
RECORD = "tabom_manifest.json"
PAPER = "2605.11854"


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes to the hub. repo_type: "model" or "dataset". files: name there -> file here."""

    repo_type: str
    kind: str
    files: dict[str, Path]

    @property
    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())


@contextmanager
def prepared(
    folder: Path,
    *,
    base_model: str | None = None,
    license: str | None = None,
    results: Sequence[str] = (),
    verdicts: Path | None = None,
) -> Iterator[Publication]:
    """The publication of a folder, with its card, while the context lasts.

    folder: of `tabom train` (an adapter, or a whole model), `tabom merge` or `tabom collect`.
    base_model: the base's id on the hub; needed where it was trained from a local folder.
    license: for the card. results: folders of `tabom evaluate`, whose numbers the card shows.
    verdicts: what `tabom verify` wrote of a collection.
    Raises: StageError for a folder that holds none of these, ConfigError for a base without an id.
    """
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        found = read_manifest(folder)
        if found is not None and found.stage == "collect":
            files = {
                p.relative_to(folder).as_posix(): p for p in sorted(folder.glob("data/*.parquet"))
            }
            text = data_card(folder, found.counts, license=license, verdicts=verdicts)
            if verdicts is not None:
                files[VERDICTS] = verdicts_file(verdicts)
            yield _with_card("dataset", "collection", files, text, made)
        elif (folder / ADAPTER[1]).is_file():
            config = read_json(folder / ADAPTER[1])
            base = _hub_id(base_model, config.get("base_model_name_or_path"))
            config["base_model_name_or_path"] = base
            (made / ADAPTER[1]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            files = {n: folder / n for n in ADAPTER if (folder / n).is_file()}
            files[ADAPTER[1]] = made / ADAPTER[1]
            text = _card(folder, base=base, license=license, results=results)
            yield _with_card("model", "adapter", files, text, made)
        elif (folder / "config.json").is_file():
            left_out = {"README.md", RECORD, "manifest.json", "trained_on.parquet"}
            files = {
                p.name: p
                for p in sorted(folder.iterdir())
                if p.is_file() and p.name not in left_out and not p.name.startswith(".")
            }
            base = _hub_id(base_model, _record(folder).get("base_model"))
            text = _card(folder, base=base, license=license, results=results)
            yield _with_card("model", "model", files, text, made)
        else:
            raise StageError(
                f"{folder}: nothing to publish; give the folder of `tabom train`, `tabom merge` or "
                "`tabom collect`"
            )


def _with_card(
    repo_type: str, kind: str, files: dict[str, Path], text: str, made: Path
) -> Publication:
    (made / "README.md").write_text(text)
    return Publication(
        repo_type=repo_type, kind=kind, files={"README.md": made / "README.md", **files}
    )


def push(
    publication: Publication, repo_id: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Send a publication in one commit; the repository is made if it is not there.

    private: of a repository that is made. endpoint: of the hub; None: as huggingface_hub has it.
    Returns: the address of the repository.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint)
    repo_type = publication.repo_type
    url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
        for name, path in publication.files.items()
    ]
    api.create_commit(
        repo_id, operations, repo_type=repo_type, commit_message=f"tabom {publication.kind}"
    )
    return str(url)


def pull(
    repo_id: str,
    folder: Path,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Get a repository into a folder that is not there yet. Raises: ConfigError if it is."""
    from huggingface_hub import snapshot_download

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    snapshot_download(
        repo_id, repo_type=repo_type, revision=revision, local_dir=folder, endpoint=endpoint
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder


def data_card(
    folder: Path, counts: dict[str, Any], *, license: str | None, verdicts: Path | None
) -> str:
    """The README of a collection: what a row holds, how it is opened, what was judged."""
    header: dict[str, Any] = {
        "configs": [{"config_name": "default", "data_files": "data/*.parquet"}],
        "tags": ["tabom", "masked-diffusion", "decoding-trajectories"],
        **({"license": license} if license else {}),
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        "",
        "# Decoding trajectories of a masked diffusion language model",
        "",
        "One row a response: `prompt`, `prompt_ids`, `response`, `response_ids`, and for every "
        "slot `step` (the model call that revealed it, -1 never), `entropy` and `confidence` at "
        "reveal.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'rows = load_dataset("REPO", split="train")',
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| trajectories | {counts['num_trajectories']} |",
    ]
    if verdicts is not None:
        found = read_verdicts(verdicts_file(verdicts)).values()
        reasons = Counter(verdict.reason for verdict in found)
        lines += [f"| {reason} | {number} |" for reason, number in reasons.most_common()]
        lines += ["", f"`{VERDICTS}` has the verdict of each by its `id`."]
    return "\n".join([*lines, "", *_about(), ""])


def _card(folder: Path, *, base: str, license: str | None, results: Sequence[str]) -> str:
    record = _record(folder)
    text = "" if not record else model_card({**record, "base_model": base}, license=license)
    if not text:
        header = {"base_model": base, **({"license": license} if license else {})}
        text = f"---\n{yaml.safe_dump(header)}---\n\n# Made with tabom from {base}\n"
    return "\n".join([text.rstrip(), "", *_results(results), *_about(), ""])


def _results(folders: Sequence[str]) -> list[str]:
    if not folders:
        return []
    from tabom.report.words import fixed
    from tabom.stages.runs import compare_folders

    lines = ["## Results", "", "| set | pace | right, % | 95% interval |", "|---|---|---|---|"]
    for row in compare_folders(list(folders)).rows:
        if row.key.kind == "set":
            low, high = (fixed(100 * end, 1) for end in (row.value.low, row.value.high))
            shown = f"{low} to {high}" if row.value.has_interval else ""
            pace = row.key.pace or "1"
            lines.append(f"| {row.key.set} | {pace} | {100 * row.value.value:.1f} | {shown} |")
    return [*lines, ""]


def _about() -> list[str]:
    return [
        "Made with [tabom](https://pypi.org/project/tabom/), software for "
        f"[TABOM](https://arxiv.org/abs/{PAPER}). Please cite the paper:",
        "",
        f"    arXiv:{PAPER}",
    ]


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    return dict(read_json(path)) if path.is_file() else {}


def _hub_id(given: str | None, known: Any) -> str:
    """The base's id on the hub. A path is none: nobody else has it."""
    name = given or str(known or "")
    is_id = name.count("/") == 1 and not name.startswith((".", "/", "~")) and "\\" not in name
    if not is_id or Path(name).exists():
        raise ConfigError(
            f"the base {name!r} is no id on the hub; name it with --base_model, such as "
            "Dream-org/Dream-v0-Instruct-7B"
        )
    return name
