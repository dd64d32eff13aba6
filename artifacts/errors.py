"""What can go wrong in the store: every error is a StoreError, can be pickled, and has a remedy.

A missing and a corrupt object are told apart for the reader of the message; to a caller both mean
the same thing, that the stage has to run again.
"""


class StoreError(Exception):
    """The store cannot do what was asked; the message names the value and the remedy."""


class MissingObject(StoreError):
    """No object of this digest is in the store."""

    def __init__(self, digest: str, root: str) -> None:
        super().__init__(digest, root)
        self.digest = digest
        self.root = root

    def __str__(self) -> str:
        return f"object {self.digest} is not in {self.root}: run the stage that makes it again"


class CorruptObject(StoreError):
    """The bytes stored under a digest are not the bytes that the digest names."""

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(digest, reason)
        self.digest = digest
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"object {self.digest} is corrupt ({self.reason}) and was taken out of use: "
            "run the stage that makes it again"
        )
