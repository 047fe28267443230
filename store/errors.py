"""What can go wrong between an answer and its table."""


class StoreError(Exception):
    """Anything below."""


class NotDurable(StoreError):
    """The entries cannot be written so that they outlive this process; nothing of them was kept.

    Args:
        reason: One word, as in the metric: `full`, `bounds`, `broken`, `refused`, `closed`.
        message: For people: what is wrong, and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
