"""Errors that users meet, and failures that are recorded.

`UserError` is what a person can mend: the command line prints message and hint without a traceback and exits 2.
`EpisodeFailure` is a failure of ours during one episode: recorded with its origin, never scored.
Anything else is a defect of keepstate and keeps its traceback.
"""

from keepstate.vocabulary import Origin

EXIT_PARTIAL = 1
"""The command finished its work, but something in the input was left out or a check failed."""
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend.

    Args:
        message: What is wrong, with the value found and what is allowed.
        hint: The next command to type or the change to make.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class EpisodeFailure(Exception):
    """A failure of ours in one episode, attributed to exactly one origin."""

    def __init__(self, origin: Origin, message: str) -> None:
        super().__init__(message)
        self.origin = origin
        self.message = message
