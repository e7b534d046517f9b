"""Every way in which runicornfs says no: one hierarchy, raised by all parts.

The message is one sentence that says what happened and, where a person can do something about it, what. Two tables turn
a class into what a caller of another kind understands: `runicornfs.mount.errnos` (for programs that read the mount) and
`api.problems` (for clients of the control API). A test walks all subclasses, so a new error without a mapping fails.
"""

from __future__ import annotations


class RunicornFSError(Exception):
    """Base of all errors of this package. `code` is the stable word that scripts may compare."""

    code = "error"
    is_temporary = False  # trying the same thing again, with nothing else changed, may work


class InvalidInput(RunicornFSError):
    """What a person or a client asked for is malformed: a source, an option, a name."""

    code = "invalid_input"


class NotFound(RunicornFSError):
    """No such artifact, version, file or task."""

    code = "not_found"


class AmbiguousName(RunicornFSError):
    """The name stands under several types, which `types` lists; naming one settles it."""

    code = "ambiguous_type"

    def __init__(self, message: str, types: list[str]) -> None:
        super().__init__(message)
        self.types = types


class Conflict(RunicornFSError):
    """What was asked for does not go together with what is there or under way now."""

    code = "conflict"


class MalformedRecord(RunicornFSError):
    """A JSON document of the store cannot be read as what it should be. It costs itself, never the sync."""

    code = "malformed_record"


class UnsafePath(MalformedRecord):
    """A name or a path of the store could leave its place: it climbs, is absolute, or is no file name."""

    code = "unsafe_path"


class Refused(RunicornFSError):
    """The operating system or another program stands in the way here: a taken port, a mount point in use."""

    code = "refused"


class MountUnavailable(Refused):
    """This machine or account cannot mount with FUSE."""

    code = "mount_unavailable"


class NoSpace(RunicornFSError):
    """The disk is full or the cache's limit is reached, and nothing can be evicted."""

    code = "no_space"


class Interrupted(RunicornFSError):
    """The program that asked has been killed or has given up."""

    code = "interrupted"


class ServerError(RunicornFSError):
    """Base of what goes wrong between us and the server."""

    code = "server_error"


class Unreachable(ServerError):
    """The server cannot be reached now. Never taken for *deleted*."""

    code = "unreachable"
    is_temporary = True


class ConnectionLost(Unreachable):
    """The line broke in the middle of something; a new connection may go on where it stopped."""

    code = "connection_lost"


class OwnerGone(Unreachable):
    """The process that kept the cache for us is gone. Another may take its place."""

    code = "owner_gone"


class TimedOut(ServerError):
    """The server made no progress for as long as we wait."""

    code = "timed_out"
    is_temporary = True


class OutcomeUnknown(ServerError):
    """The server was asked for a change and did not get to say whether it made it."""

    code = "outcome_unknown"


class AuthenticationFailed(ServerError):
    """The server refused every way to log in that was tried."""

    code = "authentication_failed"


class HostKeyUnknown(ServerError):
    """The server's key is in no known_hosts file and nobody has confirmed it."""

    code = "host_key_unknown"

    def __init__(self, message: str, key_type: str, fingerprint: str) -> None:
        super().__init__(message)
        self.key_type = key_type
        self.fingerprint = fingerprint


class HostKeyChanged(HostKeyUnknown):
    """The server shows another key than known_hosts has for it. Never accepted."""

    code = "host_key_changed"


class AccessDenied(ServerError):
    """The server's file permissions refuse us."""

    code = "access_denied"


class MissingOnServer(ServerError):
    """A file that the catalog knows is not on the server any more."""

    code = "missing_on_server"


class StaleFile(ServerError):
    """The server's file is not the one the catalog describes: its size or time is another."""

    code = "stale_file"


class ContentMismatch(ServerError):
    """The bytes that the server sent do not have the sha256 of the manifest, also after a second try."""

    code = "content_mismatch"


class ProtocolError(ServerError):
    """The server answered something that the protocol does not allow."""

    code = "protocol_error"


class StoreUnusable(ServerError):
    """The server works, but there is no usable Runicorn store at the root that was named."""

    code = "store_unusable"
