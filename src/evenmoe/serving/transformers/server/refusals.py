"""Refusals: what is wrong with a request, as OpenAI's clients understand it."""

from __future__ import annotations

from typing import Any

from evenmoe.errors import EvenMoEError

_LONGEST_VALUE = 80


class RefusalError(EvenMoEError):
    """A request that is answered with an error. param: the field that is wrong, or None."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        self.status, self.message, self.param = status, message, param
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The answer's JSON, in OpenAI's form."""
        return error_body(self.status, self.message, self.param)


def wrong(field: str, value: object, allowed: str) -> RefusalError:
    """A field whose value is not allowed; a long value is not sent back whole."""
    shown = repr(value)
    if len(shown) > _LONGEST_VALUE:
        shown = shown[: _LONGEST_VALUE - 4] + " ..."
    return RefusalError(400, f"{field} = {shown} is not allowed: {allowed}", field)


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    said = message.encode(errors="replace").decode()  # a client's half characters cannot be sent back
    return {"error": {"message": said, "type": kind, "param": param, "code": status}}
