"""What a request to the API server ends with when it doesn't end well. Pure."""

from __future__ import annotations

MAX_MESSAGE = 500
"""Characters of what a server says that go into logs and the status."""

_AWAY = (401, 429)
"""What says no to everything. Who is not known gets nothing, and need not ask more often than who gets no answer."""


class ApiError(Exception):
    """A request failed.

    `status` is the HTTP status; 0 if there was no answer, none in time, or none of an API server. `reason` is the API's
    own word where it gave one ("NotFound", "Conflict", "Expired", "AlreadyExists", …), `message` is for people, bounded
    and in one line. `retry_after_s` is how long the server wants to be left alone.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(status, reason, message, retry_after_s)
        self.status = status
        self.reason = one_line(reason, 100)
        self.message = one_line(message)
        self.retry_after_s = retry_after_s

    @property
    def away(self) -> bool:
        """Whether the API server answers nothing for now, as opposed to: it has answered, and says no to this."""
        return self.status == 0 or self.status >= 500 or self.status in _AWAY

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}" if self.status else f"{self.reason}: {self.message}"


def one_line(text: str, most: int = MAX_MESSAGE) -> str:
    """Return a text without line ends and control characters, cut to `most` characters."""
    line = " ".join(text[: 2 * most].split())
    printable = "".join(character if character.isprintable() else "?" for character in line)
    return printable if len(printable) <= most else printable[: most - 1] + "…"
