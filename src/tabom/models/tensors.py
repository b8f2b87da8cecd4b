"""The tensors of a checkpoint's files against those of the module: exactly the same names.

transformers itself overlooks two kinds: it drops rotary tables without comparing them, and it lets
a head beside a tied embedding untie the two.
"""

import json
import logging
import re
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.models.family import Family

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ROTARY_TABLE = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

logger = logging.getLogger(__name__)


def tensor_files(folder: Path) -> dict[str, Path]:
    """The names of a checkpoint's tensors, each with its file, read from the files' headers.

    Raises: `ModelError` if there are no safetensors files or one cannot be read.
    """
    from safetensors import safe_open

    paths, promised = [folder / WEIGHTS], dict[str, str]()
    if not paths[0].is_file():
        index = folder / INDEX
        if not index.is_file():
            raise ModelError(
                f"{folder}: the weights do not load: it has neither {WEIGHTS} nor {INDEX}; take a "
                "checkpoint in the safetensors format (pickled weights are not read)"
            )
        try:
            promised = {
                str(k): str(v) for k, v in json.loads(index.read_bytes())["weight_map"].items()
            }
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{index} is no index of tensors: {error!r}") from error
        paths = [folder / name for name in sorted(set(promised.values()))]
    found: dict[str, Path] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except Exception as error:  # safetensors has its own kinds
            raise ModelError(
                f"{folder}: the weights do not load: {path.name}: {error}; the file is missing or "
                "cut short"
            ) from error
    broken = sorted(key for key, file in promised.items() if found.get(key) != folder / file)
    if broken:
        raise ModelError(
            f"{folder / INDEX} names {len(broken)} tensors that are not in their file, such as "
            f"{broken[0]} in {promised[broken[0]]}; index and files are not of one download: fetch "
            "them again"
        )
    return found


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of a checkpoint's tensors, read from the headers; of several, one that holds all.

    config.json may name another: it is what the published code casts to.
    """
    from safetensors import safe_open

    kinds: set[str] = set()
    for path in set(tensor_files(folder).values()):
        with safe_open(path, framework="pt") as file:
            kinds |= {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    unknown = sorted(kinds - STORED.keys())
    if unknown or not kinds:
        raise ModelError(
            f"{folder}: tensors of dtype {', '.join(unknown) or 'none'}, expected some of "
            f"{', '.join(STORED)}; name the dtype that is wanted (--dtype)"
        )
    return reduce(torch.promote_types, (STORED[kind] for kind in kinds))


def check_tensors(lm: Any, files: dict[str, Path], *, family: Family) -> dict[str, list[str]]:
    """What of a loaded module and its files does not correspond, by kind; empty if all does.

    lm: the loaded module. files: as `tensor_files` gives them.
    Raises: `ModelError` for a rotary table that is not the one in use, and for a head that differs
        from the embedding it is tied to.
    """
    of_module = set(lm.state_dict())
    ours = {name: family.rename(name) for name in files}
    is_tied = bool(lm.config.tie_word_embeddings)
    stray = []
    for name in sorted(ours.keys()):
        if ours[name] in of_module:
            continue
        if ROTARY_TABLE.search(name):
            _require_table(lm, name, files[name])
        else:
            stray.append(name)
    published = {mine: name for name, mine in ours.items()}
    if is_tied and HEAD in published and EMBEDDING in published:
        _require_equal(published[HEAD], published[EMBEDDING], files)
    optional = {HEAD} if is_tied else set()
    counts = Counter(ours.values())
    found = {
        "missing keys": sorted(of_module - counts.keys() - optional),
        "unexpected keys": stray,
        "keys with two names": sorted(name for name, n in counts.items() if n > 1),
    }
    return {kind: keys for kind, keys in found.items() if keys}


def _require_table(lm: Any, name: str, path: Path) -> None:
    """Older relatives carry the table in their files: accepted if it says what ours says."""
    theirs, ours = _read(name, path).double(), lm.model.rotary_emb.inv_freq.double().cpu()
    if theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-5, atol=0):
        logger.info("%s: %s equals the rotary table in use", path, name)
        return
    raise ModelError(
        f"{path}: {name} is not the rotary table that config.json gives (it starts "
        f"{[float(f'{v:.4g}') for v in theirs.flatten()[:3]]}, expected "
        f"{[float(f'{v:.4g}') for v in ours[:3]]}; {tuple(theirs.shape)} values, expected "
        f"{tuple(ours.shape)}): a garbage or rounded table, or another rope_theta in config.json. "
        "It is no weight: if rope_theta is right, remove it from the file"
    )


def _require_equal(head: str, embedding: str, files: dict[str, Path]) -> None:
    if not torch.equal(_read(head, files[head]), _read(embedding, files[embedding])):
        raise ModelError(
            f"{files[head]}: config.json ties the head to the embedding, and {head} differs from "
            f"{embedding}; if the head is a trained one, set tie_word_embeddings (LLaDA: "
            "weight_tying) to false"
        )


def _read(name: str, path: Path) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor
