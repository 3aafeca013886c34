"""Why a host could not reach another, or could not move files to it."""


class TransferError(Exception):
    """The other agent can't be reached, refused, or the stream between the two broke."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        """A reason of `kubeferry.api.reasons`; where the other agent refused, its own."""
        self.retryable = retryable
        """Whether the same may go well later without anybody's help."""
