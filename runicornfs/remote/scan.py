"""The ways to walk a store, and which one is taken: the helper where the server can run it, else SFTP; on this machine
our own process.

What changed is the same whichever way it was found. Only tokens differ: an account that is moved from one way to the
other has everything read once more.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path

from runicornfs.errors import StoreUnusable
from runicornfs.remote import helper_program
from runicornfs.remote.events import Event, Known, typed
from runicornfs.remote.helper import HelperUnavailable, pack, scan_by_helper
from runicornfs.remote.server import Server
from runicornfs.remote.sftp_scan import scan_by_sftp
from runicornfs.remote.walk import StoreMissing

log = logging.getLogger("runicornfs.remote.scan")


def scan_store(server: Server, root: str, known: Known) -> Generator[Event, None, None]:
    """Yields what changed on the server against `known` (path and token of the last scan).

    A server that cannot run the helper is not asked again before the next connection. Raises StoreUnusable where there
    is no store, ServerError where the line is bad.
    """
    packed = pack(known)
    if server.runs_helper is not False:
        try:
            yield from scan_by_helper(server, root, packed)
        except HelperUnavailable as why:
            log.info("no program runs for this account on %s (%s): syncing over SFTP", server.address.host, why)
            server.runs_helper = False
        else:
            server.runs_helper = True
            return
    with server.session() as session:
        yield from scan_by_sftp(session, root, helper_program.unpack_known(packed))


def scan_folder(root: str, known: Known) -> Iterator[Event]:
    """The same walk over a store on this machine, in our own process. Raises StoreUnusable."""
    try:
        yield from typed(helper_program.scan(os.fsencode(root), dict(known)))
    except StoreMissing as error:
        raise StoreUnusable(str(error).replace(" on the server", "")) from None


def check_folder(root: Path) -> None:
    """Raises StoreUnusable where a folder of this machine is no store."""
    if not root.is_dir():
        raise StoreUnusable(f"there is no folder {root} (a store on a server is written as host:/absolute/path)")
    if not any((root / name).is_dir() for name in ("artifacts", "runs")) and not any(root.glob("*/*/runs")):
        raise StoreUnusable(f"{root} is no Runicorn store: it has neither a folder artifacts nor any runs")
