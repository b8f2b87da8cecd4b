"""What tells two loaded models apart, wherever their files lie."""

import hashlib

import torch

from tabom.models.contract import MaskedDiffusionModel

_NUM_VALUES = 256  # of each tensor


def weights_fingerprint(model: MaskedDiffusionModel) -> str:
    """16 hex digits of the names, shapes, dtypes and a fixed sample of every tensor.

    An adapter is part of it. At most 256 values of a tensor are read, evenly spread: enough to
    tell two checkpoints apart, and quick for one of 16 GB.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.lm.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        index = torch.linspace(0, max(flat.numel() - 1, 0), min(flat.numel(), _NUM_VALUES))
        sample = flat[index.long().to(flat.device)].to("cpu", torch.float64)
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:".encode())
        digest.update(sample.numpy().tobytes())
    digest.update(f"{model.family.name}:{model.ids.mask}".encode())
    return digest.hexdigest()[:16]
