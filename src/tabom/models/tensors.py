"""The tensors of a checkpoint's files against those of the module: exactly the same names.

transformers itself overlooks two kinds: it drops rotary tables without comparing them, and it lets
a head beside a tied embedding untie the two.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tabom.core.errors import ModelError
from tabom.models.family import Family
from tabom.models.folders import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ROTARY_TABLE = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

Shape = tuple[int, ...]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor of a safetensors file, as the header of the file says, or some rows of one.

    dtype: "BF16", ... first_row: of the tensor in the file.
    """

    name: str
    path: Path
    dtype: str
    shape: Shape
    first_row: int = 0

    def read(self) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.name)
            return tensor[self.first_row :][: self.shape[0]] if self.shape else tensor


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """A checkpoint's tensors by name, read from the headers of its files.

    Raises: `ModelError` if there are no safetensors files or one cannot be read.
    """
    promised: Any = {}  # which file holds which tensor
    if not (folder / WEIGHTS).is_file():
        promised = read_json(folder / INDEX).get("weight_map")
        if not isinstance(promised, dict):
            raise ModelError(
                f"{folder}: the weights do not load: it has neither {WEIGHTS} nor an index of "
                f"tensors ({INDEX} with a weight_map); take a checkpoint in the safetensors format "
                "(pickled weights are not read)"
            )
    found: dict[str, Stored] = {}
    # All files are opened, since an index may name tensors that its files do not hold.
    for name in sorted(set(map(str, promised.values()))) or [WEIGHTS]:
        found |= headers(folder / name)
    # The index and the files of two downloads can both be whole and still not fit.
    places = {name: tensor.path.name for name, tensor in found.items()}
    broken = sorted(name for name, file in promised.items() if places.get(name) != file)
    if broken:
        raise ModelError(
            f"{folder / INDEX} names {len(broken)} tensors that are not in their file, such as "
            f"{broken[0]} in {promised[broken[0]]}; index and files are not of one download: fetch "
            "them again"
        )
    return found


def headers(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises: `ModelError` if it cannot be read."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(
                    name=name, path=path, dtype=part.get_dtype(), shape=tuple(part.get_shape())
                )
                for name, part in slices.items()
            }
    except Exception as error:  # safetensors has its own kinds
        raise ModelError(
            f"{path.parent}: the weights do not load: {path.name}: {error}; the file is missing or "
            "cut short"
        ) from error


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of a checkpoint's tensors, read from the headers; of several, one that holds all.

    config.json may name another: it is what the published code casts to.
    """
    kinds = {tensor.dtype for tensor in stored_tensors(folder).values()}
    unknown = sorted(kinds - DTYPES.keys())
    if unknown or not kinds:
        raise ModelError(
            f"{folder}: tensors of dtype {', '.join(unknown) or 'none'}, expected some of "
            f"{', '.join(DTYPES)}; name the dtype that is wanted (--dtype)"
        )
    return reduce(torch.promote_types, (DTYPES[kind] for kind in kinds))


def shapes(tensors: Mapping[str, Stored] | Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of tensors, on disk or not, by their names."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def difference(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
    """What of some tensors is missing, too much or of another shape; "" if nothing is.

    found, wanted: shapes by name, of a file and of the module.
    """
    kinds = {
        "missing keys": sorted(wanted.keys() - found.keys()),
        "unexpected keys": sorted(found.keys() - wanted.keys()),
        "mismatched keys": [
            f"{name} ({found[name]} in the file, {wanted[name]} in the model)"
            for name in sorted(found.keys() & wanted.keys())
            if found[name] != wanted[name]
        ],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:4])}" + (", ..." if len(keys) > 4 else "")
        for kind, keys in kinds.items()
        if keys
    )


def check_tensors(lm: Any, stored: Mapping[str, Stored], *, family: Family) -> str:
    """What of a loaded module and its files does not correspond; "" if all does.

    Raises: `ModelError` for a rotary table that is not the one in use, and for a head that differs
        from the embedding it is tied to.
    """
    parts = family.parts(lm.state_dict())
    wanted = {
        name: (sum(len(part) for part in rows), *rows[0].shape[1:]) for name, rows in parts.items()
    }
    head, embedding = (family.rename(name, to_published=True) for name in (HEAD, EMBEDDING))
    found: dict[str, Stored] = {}
    twice = []
    for name, tensor in sorted(stored.items()):
        published = family.published_name(name)
        # It is no parameter: transformers computes it anew, so its values alone can be compared.
        if published not in wanted and ROTARY_TABLE.search(name):
            _require_table(lm, tensor)
            continue
        if published in found:
            twice.append(published)
        found[published] = tensor
    # A tied head may be left out of the files; if it is there it must be the embedding.
    if lm.config.tie_word_embeddings:
        if head in found and embedding in found:
            _require_equal(found[head], found[embedding])
        if head not in found:
            del wanted[head]
    problem = f"{len(twice)} keys with two names: {', '.join(twice[:4])}" if twice else ""
    return "; ".join(filter(None, (difference(shapes(found), wanted), problem)))


def fill(lm: Any, stored: Mapping[str, Stored], *, family: Family, device: torch.device) -> None:
    """Put the tensors of the files, which fit, into a module that lies on the meta device.

    Each is read once and copied to where it belongs, so that no more than one is held twice.
    """
    from safetensors import safe_open

    state = {n: torch.empty_like(t, device=device) for n, t in lm.state_dict().items()}
    parts, by_file = family.parts(state), dict[Path, list[str]]()
    for name, tensor in stored.items():
        by_file.setdefault(tensor.path, []).append(name)
    for path, names in by_file.items():
        with safe_open(path, framework="pt") as file:
            for name in names:
                rows = parts.get(family.published_name(name))
                if rows is not None:  # not a rotary table
                    read = file.get_tensor(name).split([len(part) for part in rows])
                    for part, values in zip(rows, read, strict=True):
                        part.copy_(values)
    lm.load_state_dict(state, assign=True)
    lm.tie_weights()


def _require_table(lm: Any, stored: Stored) -> None:
    """Older relatives carry the table in their files: accepted if it says what ours says."""
    name, path = stored.name, stored.path
    theirs, ours = stored.read().double(), lm.model.rotary_emb.inv_freq.double().cpu()
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


def _require_equal(head: Stored, embedding: Stored) -> None:
    if not torch.equal(head.read(), embedding.read()):
        raise ModelError(
            f"{head.path}: config.json ties the head to the embedding, and {head.name} differs "
            f"from {embedding.name}; if the head is a trained one, set tie_word_embeddings (LLaDA: "
            "weight_tying) to false"
        )
