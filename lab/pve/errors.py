"""How the node's commands refuse."""

from __future__ import annotations


class Refusal(Exception):
    """A command is refused or fails; the message is the real one's.

    Attributes:
        status: As the real command was seen to end: 255 for what fails in its worker, and 2 or 255 for what it
            refuses before (PVE/CLI/pct.pm, RESTEnvironment.pm). Callers must not rely on which of the two it is.
    """

    def __init__(self, message: str, status: int = 255) -> None:
        super().__init__(message)
        self.status = status

    @property
    def words(self) -> str:
        """What is printed; the real worker hands its message over as one line."""
        return str(self).replace("\n", " ") if self.status == 255 else str(self)


class ParameterError(Refusal):
    """Words of the command line can't be used; ends with how the command is called."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message, status)

    @property
    def words(self) -> str:
        """What is printed: all lines, without the last line end."""
        return str(self).rstrip("\n")
