"""Stateless random draws: a number is a pure function of its key.

No generator object and no global state, so a draw does not depend on batch layout, world size,
the order of work or whether the run was resumed. The arithmetic uses only `^ & >> *` on 64-bit
signed integers, so the same code runs on Python ints, numpy int64 arrays and torch int64 tensors
(on any device, without a host sync) and gives equal bits on all three.
"""

import hashlib
from typing import Any, TypeVar

Ints = TypeVar("Ints")  # int, numpy int64 array or torch int64 tensor

_MASK = 0xFFFFFFFF
_LANES = (0x9E3779B9, 0x85EBCA6B)


def _mix(x: Any) -> Any:
    # The 32-bit finaliser "lowbias32" (C. Wellons). Operands stay below 2**32, so the low 32 bits
    # of each product are right even where a signed 64-bit product wraps around.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def fold(*parts: Any) -> tuple[Any, Any]:
    """Fold non-negative integers (or broadcastable int64 arrays) into a two-lane 64-bit key."""
    lanes: list[Any] = [_LANES[0], _LANES[1]]
    for part in parts:
        low, high = part & _MASK, (part >> 32) & _MASK
        for i in (0, 1):
            lanes[i] = _mix(_mix((lanes[i] ^ low) & _MASK) + high + _LANES[i] & _MASK)
    return lanes[0], lanes[1]


def uniform(*parts: Any) -> Any:
    """A float64 in [0, 1) per key: 53 bits from the two lanes.

    parts: ints, or int64 arrays/tensors that broadcast against each other.
    """
    first, second = fold(*parts)
    bits = (first >> 5) * 67108864 + (second >> 6)
    if hasattr(bits, "double"):
        bits = bits.double()  # torch would divide two integers in float32
    return bits / 9007199254740992.0


def below(bound: Any, *parts: Any) -> Any:
    """An integer in [0, bound) per key, as floor(uniform * bound); same type family as `parts`."""
    scaled = uniform(*parts) * bound
    if isinstance(scaled, float):
        return int(scaled)
    return scaled.long() if hasattr(scaled, "long") else scaled.astype("int64")


def text_key(text: str) -> int:
    """A stable non-negative 62-bit integer for a string (an id, a stage name)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2


def content_id(*parts: str | bytes) -> str:
    """A 32-hex-digit id of the content: equal content, equal id, in any process."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]
