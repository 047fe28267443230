"""What can go wrong.

ProgramError
├── Stopped        we were asked to
└── CommandFailed  a program that we called ended with an error
"""


class ProgramError(Exception):
    """A program could not be had; the message says why, and what to do about it."""


class Stopped(ProgramError):
    """It was asked to stop; nothing half is left behind."""

    def __init__(self) -> None:
        super().__init__("stopped: it was asked to")


class CommandFailed(ProgramError):
    """A program that we called ended with an error.

    Args:
        code: Its exit status.
        last_words: The end of its output.
    """

    def __init__(self, code: int, last_words: str) -> None:
        super().__init__(f"exit status {code}:\n{last_words}")
        self.last_words = last_words
