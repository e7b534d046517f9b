"""Runs the control API: uvicorn in a thread of its own, on a socket that is ours before the first request."""

from __future__ import annotations

import errno
import logging
import math
import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from runicornfs.cli.parameters import ApiAddress
from runicornfs.daemon.http import Http
from runicornfs.errors import Refused

# A request is answered from the catalog within milliseconds; who holds a connection open longer is cut off at the end.
SHUTDOWN_TIMEOUT_S = 2
# Callers that wait to be let in. Without descriptors asyncio tries as many times each second, with a traceback each.
BACKLOG = 64
# That there are no descriptors is said this often.
SAID_EVERY_S = 60.0

log = logging.getLogger("runicornfs.api")


class ApiServer:
    """Listens from the moment it is made; `close` ends it."""

    def __init__(self, app: ASGIApp, address: ApiAddress) -> None:
        """Raises Refused where a port that was named is taken."""
        self._socket = _listen(address)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Http,
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who calls is decided by the connection, never by what a request says of it
                lifespan="off",
                backlog=BACKLOG,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            )
        )
        self._complaint = _OneComplaint()
        logging.getLogger("asyncio").addFilter(self._complaint)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="api", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        logging.getLogger("asyncio").removeFilter(self._complaint)
        self._socket.close()


class _OneComplaint(logging.Filter):
    """Makes one sentence a minute of what asyncio says while there are no descriptors for those who call."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if "socket.accept() out of system resource" not in record.getMessage():
            return True
        now = time.monotonic()
        if now - self._said_at > SAID_EVERY_S:
            self._said_at = now
            log.warning("the control API can let nobody in: this process has no descriptors left (ulimit -n)")
        return False


def _listen(address: ApiAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    for port in (address.port, 0):
        # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, port))
        except UnicodeError:
            listener.close()
            raise Refused(f"the control API cannot listen on {address.host}: there can be no such host") from None
        except OSError as error:
            listener.close()
            if address.named or error.errno != errno.EADDRINUSE or port == 0:
                raise Refused(
                    f"the control API cannot listen on {address.host}:{port}: {error.strerror}; "
                    "name another address with --api"
                ) from None
            continue
        listener.listen()
        return listener
    raise AssertionError("port 0 is always answered")
