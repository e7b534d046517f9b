"""Names and paths of a store: which ones are safe to use, and how they are written.

A path is text relative to the store's root, joined by `/`, "" for the root itself; bytes that are no UTF-8 are kept as
`os.fsdecode` keeps them. What `check_name` and `check_relative` return names exactly one place and cannot leave it.
"""

from __future__ import annotations

import os
import re

from runicornfs.errors import UnsafePath

# NAME_MAX and PATH_MAX of Linux, in bytes: a longer name could not be opened, in the mount or on the server.
NAME_LIMIT = 255
PATH_LIMIT = 4096
# Nine digits: every number fits in 32 bits, whatever the server writes.
_VERSION_FOLDER = re.compile(r"v([1-9][0-9]{0,8})")


def check_name(name: str) -> str:
    """The name itself where it can be one file's name, in its one canonical spelling. Raises UnsafePath."""
    if name in ("", ".", ".."):
        raise UnsafePath(f"{name!r} is no file name")
    if "/" in name or "\0" in name:
        raise UnsafePath(f"{shown(name)} is no file name: it contains '/' or NUL")
    if name.isascii():
        if len(name) > NAME_LIMIT:
            raise UnsafePath(f"{shown(name)} is longer than {NAME_LIMIT} bytes")
        return name
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        raise UnsafePath(f"{shown(name)} cannot be written as a file name") from None
    if len(raw) > NAME_LIMIT:
        raise UnsafePath(f"{shown(name)} is longer than {NAME_LIMIT} bytes")
    # JSON can spell one byte sequence in two ways (`é`, or two escaped bytes): both must be one path.
    return os.fsdecode(raw)


def check_relative(path: str) -> str:
    """The path itself where all of its components are safe names, in its canonical spelling. Raises UnsafePath."""
    # Nearly every path of a manifest is of this kind, and one of 100,000 paths should not take ten microseconds.
    if (
        path.isascii()
        and 0 < len(path) <= NAME_LIMIT
        and path[0] not in "./"
        and path[-1] != "/"
        and "//" not in path
        and "/." not in path
        and "\0" not in path
    ):
        return path
    if path.startswith("/"):
        raise UnsafePath(f"{shown(path)} is absolute")
    try:
        checked = "/".join([check_name(name) for name in path.split("/")])
    except UnsafePath as error:
        raise UnsafePath(f"{shown(path)} is no safe path: {error}") from None
    if len(os.fsencode(checked)) > PATH_LIMIT:
        raise UnsafePath(f"{shown(path)} is longer than {PATH_LIMIT} bytes")
    return checked


def version_of_folder(name: str) -> int | None:
    """3 for `v3`; None for anything that is no version's folder (`v03`, `v0`, `latest`)."""
    match = _VERSION_FOLDER.fullmatch(name)
    return int(match[1]) if match else None


def parent_of(path: str) -> str:
    """The folder that holds `path`; "" for what lies in the root, and for the root."""
    return path.rpartition("/")[0]


def shown(text: str) -> str:
    """`text` as it may stand in a message: quoted with escapes, and short, whatever a server put into it."""
    if len(text) > 200:
        text = f"{text[:200]}…"
    return repr(text)


def printable(text: str) -> str:
    """`text` on one line that every terminal, log and encoding takes: what is not printable becomes an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
