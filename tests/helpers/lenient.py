"""A judge for tests of everything but judging: a random model answers nothing right."""


def accept(*, response: str, row: dict[str, object]) -> tuple[str, str]:
    return "accepted", ""
