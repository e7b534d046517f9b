"""What a program that reads the mount sees of our errors: the one table from exception to errno."""

from __future__ import annotations

import errno

from runicornfs import errors

ERRNOS: dict[type[errors.RunicornFSError], int] = {
    errors.RunicornFSError: errno.EIO,
    errors.InvalidInput: errno.EINVAL,
    errors.NotFound: errno.ENOENT,
    errors.AmbiguousName: errno.EINVAL,
    errors.Conflict: errno.EBUSY,
    errors.MalformedRecord: errno.EIO,
    errors.UnsafePath: errno.EIO,
    errors.Refused: errno.EIO,
    errors.MountUnavailable: errno.EIO,
    errors.NoSpace: errno.ENOSPC,
    errors.Interrupted: errno.EINTR,
    errors.ServerError: errno.EIO,
    errors.Unreachable: errno.ENETUNREACH,
    errors.ConnectionLost: errno.ENETUNREACH,
    errors.OwnerGone: errno.ENETUNREACH,
    errors.TimedOut: errno.ETIMEDOUT,
    errors.OutcomeUnknown: errno.EIO,
    errors.AuthenticationFailed: errno.ENETUNREACH,
    errors.HostKeyUnknown: errno.ENETUNREACH,
    errors.HostKeyChanged: errno.ENETUNREACH,
    errors.AccessDenied: errno.EACCES,
    errors.MissingOnServer: errno.ENOENT,
    errors.StaleFile: errno.ESTALE,
    errors.ContentMismatch: errno.EIO,
    errors.ProtocolError: errno.EIO,
    errors.StoreUnusable: errno.EIO,
}


def errno_of(error: BaseException) -> int:
    """The errno of an exception: our own by the table, an OSError by itself, anything else EIO."""
    if isinstance(error, errors.RunicornFSError):
        return ERRNOS[type(error)]
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.EIO
