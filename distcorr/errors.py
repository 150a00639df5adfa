"""The error that users see, and what its exit codes mean. Imports nothing heavy: help needs it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

USAGE, MISSING, PARTIAL, UNFIT, INTERRUPTED = 2, 3, 4, 5, 130  # exit codes of the command line


class DistcorrError(Exception):
    """A failure that the user can mend; the command line prints it without a traceback.

    Attributes:
        message: the invariant that was broken and what was received instead.
        hint: what to do about it, often a command to paste; may be empty.
        exit_code: 2 usage or configuration, 3 data or weights missing or damaged, 4 partial result,
            5 a check of doctor has failed.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = USAGE) -> None:
        super().__init__(message, hint, exit_code)  # all three, so that it survives pickling
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'dog'?"`` for the closest known word, ``""`` when none comes near."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
