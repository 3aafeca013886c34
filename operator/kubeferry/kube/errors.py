# ruff: noqa: N818 - they bear the names of the API server's reasons
"""What a request to the API server can end with. Messages say which verb, which object, and what the server said."""

from kubeferry.api import reasons


class KubeError(Exception):
    """A request failed."""

    reason = "RequestFailed"


class NotConfigured(KubeError):
    """It is not known which API server to ask, or as whom."""

    reason = "NotConfigured"


class NotFound(KubeError):
    """No such object, or no such kind."""

    reason = "NotFound"


class Conflict(KubeError):
    """The object is no longer the one that was read: its resourceVersion or its uid differs."""

    reason = "Conflict"


class AlreadyExists(KubeError):
    """An object of that name is there."""

    reason = "AlreadyExists"


class Forbidden(KubeError):
    """Who asks is not known (401), or may not do this (403)."""

    reason = reasons.FORBIDDEN


class Invalid(KubeError):
    """The request breaks a rule of the API; the same request will never go well."""

    reason = reasons.INVALID


class Unavailable(KubeError):
    """No answer, or none now: the same request may go well later. Whether a write was carried out is not known."""

    reason = "Unavailable"


class Unreadable(KubeError):
    """The server holds what our models refuse."""

    reason = reasons.UNREADABLE
