"""The errors a user can cause. Each message says what was found, what was expected, what to do."""


class TabomError(Exception):
    """Base of every error that is the user's to mend. The CLI prints it and exits with status 2."""


class ConfigError(TabomError):
    """A recipe, a flag or an option is not what it may be.

    key: its dotted path in a recipe, from which the file that says it is found.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class DataError(TabomError):
    """A file, a row or a field of the user's data is missing or malformed."""


class ModelError(TabomError):
    """A checkpoint, an adapter, a tokenizer or an id does not fit the model contract."""


class ObjectiveError(TabomError):
    """An objective was asked for something its equations do not define."""


class StageError(TabomError):
    """A stage cannot start or go on from what its folder holds."""


class TrainingError(TabomError):
    """Training cannot go on: a loss or a gradient is not finite."""
