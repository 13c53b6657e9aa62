"""Every failure a caller can meet. Each class owns one stable code; the edge owns the status.

`message` is one sentence for a person that says what to do. `facts` are for the renderer: `field`
names the part of the request at fault, others become members of the answer or headers.
Each code is explained in docs/errors.md.
"""

from __future__ import annotations


class SoundkeepError(Exception):
    """Base of all errors that are the caller's to know about."""

    code = "internal"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class NotSignedIn(SoundkeepError):
    """No credentials came with the request (RFC 6750 §3: no error code is told)."""

    code = "not_signed_in"


class BadToken(SoundkeepError):
    """The bearer token is malformed, forged, expired or revoked."""

    code = "invalid_token"


class NotAllowed(SoundkeepError):
    """The caller is known and lacks a right."""

    code = "insufficient_scope"


class BadLink(SoundkeepError):
    """A presigned link that was not given out here as it is, or not to this network address."""

    code = "invalid_link"


class NotProvisioned(SoundkeepError):
    """A real region in which the caller's customer keeps nothing."""

    code = "region_not_provisioned"


class NotFound(SoundkeepError):
    """There is no such thing, or it is not the caller's: the two look the same."""

    code = "not_found"


class Gone(SoundkeepError):
    """It was here and was deleted, or its time is over."""

    code = "gone"


class BadInput(SoundkeepError):
    """A parameter, header or body that cannot be used as it is."""

    code = "bad_input"


class BadFilter(SoundkeepError):
    """A filter that cannot be understood; `at` is the position of the trouble."""

    code = "bad_filter"


class Incomplete(SoundkeepError):
    """The body ended before it was whole; nothing of it was kept."""

    code = "incomplete_body"


class ChecksumMismatch(SoundkeepError):
    """The bytes of a resumable upload are not those that were declared; they were not kept."""

    code = "checksum_mismatch"


class Busy(SoundkeepError):
    """Somebody else is at it right now."""

    code = "busy"


class WrongMediaType(SoundkeepError):
    """A body of a media type that is not understood here."""

    code = "wrong_media_type"


class TooLarge(SoundkeepError):
    """The body, or a part of it, is larger than the limit."""

    code = "too_large"


class KeyReused(SoundkeepError):
    """An Idempotency-Key that belongs to another request."""

    code = "idempotency_key_reused"


class Conflict(SoundkeepError):
    """Something with this name or address exists already, or is still in use."""

    code = "conflict"


class IllegalMove(SoundkeepError):
    """The object's state does not allow it."""

    code = "illegal_state"


class PreconditionFailed(SoundkeepError):
    """The bytes are not in the version that the client's condition names (RFC 9110 §13.1)."""

    code = "precondition_failed"


class RangeNotSatisfiable(SoundkeepError):
    """No range lies within the bytes, or too many came; `content_range` tells how many bytes."""

    code = "range_not_satisfiable"


class TooMany(SoundkeepError):
    """Too many failures from here; `retry_after` seconds must pass."""

    code = "too_many_requests"


class StorageFull(SoundkeepError):
    """The disk or quota is full; nothing was kept."""

    code = "storage_full"


class Unavailable(SoundkeepError):
    """A part we depend on does not answer."""

    code = "unavailable"


class TooSlow(SoundkeepError):
    """A search that would take longer than it may; it was stopped."""

    code = "too_slow"


class InsecureTransport(SoundkeepError):
    """Plain HTTP from another machine."""

    code = "insecure_transport"


class BadSettings(SoundkeepError):
    """The configuration cannot be used; refused at start."""

    code = "bad_settings"


class Tampered(SoundkeepError):
    """Stored data that does not agree with its own checks: a migration or an audit chain."""

    code = "tampered"


class OAuthError(SoundkeepError):
    """Base of the token endpoint's errors; `code` is the `error` of RFC 6749 §5.2."""

    code = "invalid_request"


class InvalidRequest(OAuthError):
    """A parameter is missing, repeated or malformed."""

    code = "invalid_request"


class InvalidClient(OAuthError):
    """Unknown key, wrong secret, or no usable client authentication."""

    code = "invalid_client"


class UnauthorizedClient(OAuthError):
    """The key is right and its owner no longer has the rights it needs."""

    code = "unauthorized_client"


class UnsupportedGrantType(OAuthError):
    """Anything but `client_credentials`."""

    code = "unsupported_grant_type"


class InvalidScope(OAuthError):
    """A scope that this server does not know."""

    code = "invalid_scope"
