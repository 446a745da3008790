"""Every exception that a person meets: its message is one sentence that says what is wrong and what is allowed."""


class UsageError(ValueError):
    """What was asked for does not exist or is not allowed. The command line ends with status 2."""


class RunError(RuntimeError):
    """What was asked for could not be done. The command line ends with status 1."""


class DataError(RunError):
    """A data set cannot be had or kept."""


class NotebookError(UsageError):
    """A file is no notebook, a damaged one, or not built as a command needs it."""


class ExerciseError(RunError):
    """An exercise is not built as a copy needs it."""
