"""Numbers as people say them, and text that cannot steer a terminal."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

JOINERS = "\u200d\ufe0f"  # they make one emoji of two characters and take no room
# In the manifest of a stage, but not told at its end.
_UNTOLD = {
    "prompts", "decode_seconds", "num_calls", "num_tokens", "num_responses", "num_verdicts",
    "loss_ce", "kendall_tau", "mfu",
}  # fmt: skip


def number(value: float) -> str:
    """Three digits and a prefix: 7.62 G."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    if value >= 1e4:
        return f"{value / 1e3:.3g} k"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def parameters(value: float) -> str:
    """A count of parameters as people say it: 7.62 B parameters."""
    return number(value).replace(" G", " B") + " parameters"


def gib(value: float) -> str:
    """Bytes in GiB, three digits of small ones."""
    scaled = value / 2**30
    return f"{scaled:.1f}" if scaled >= 10 else f"{scaled:.3g}" if scaled >= 0.001 else "< 0.001"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: "6.8 s", "42 s", "5 min 12 s", "3 h 20 min"; None: nothing."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.1:
        return "< 0.1 s"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    # Rounded before it is split, so that 59.7 s is "1 min 0 s" and never "60 s".
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def told(counts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a stage counted, in words: ("accepted", "226"); nothing that was counted says nothing.

    The unit at the end of a name decides how its number is said: `_seconds`, `_bytes`.
    """
    parts = []
    for name, value in counts.items():
        if name in _UNTOLD or (isinstance(value, int) and not value):
            continue
        # Names in manifests are long, so that they are clear there; here a line has to hold them.
        words = name.removeprefix("num_").replace("_", " ")
        if name.endswith("seconds"):
            text, words = duration(value), words.removesuffix("seconds").strip() or "took"
        elif name.endswith("bytes"):
            text, words = f"{gib(value)} GiB", words.removesuffix("bytes").strip()
        elif not isinstance(value, (int, float)):
            text = str(value)
        elif isinstance(value, int) or abs(value) >= 1000:
            text = f"{value:,.0f}"
        else:
            text = f"{value:.3g}"
        parts.append((words, text))
    return parts


def safe(text: str) -> str:
    """The text without control characters but newline and tab: a model must not steer a terminal.

    Direction marks and other invisible ones go as well; emoji joiners stay.
    """
    return "".join(c if c.isprintable() or c in "\n\t" or c in JOINERS else "\ufffd" for c in text)


def without_flags(arguments: Iterable[str], *names: str) -> Iterator[str]:
    """The words of a command without some flags and their values."""
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.removeprefix("--").replace("-", "_").partition("=")
        if word.startswith("--") and name in names:
            if not equals:
                next(words, None)
        else:
            yield word
