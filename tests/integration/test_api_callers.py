"""Who may call the control API: each sentence of what is promised, against a running `runicornfs serve`."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from runicornfs.api.limits import BODY_LIMIT
from runicornfs.cli.client import ApiClient
from runicornfs.cli.parameters import ApiAddress
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import Refused
from tests.integration.test_connection_api import Served, login
from tests.mounts import PATIENCE_S, environment_in
from tests.waiting import wait_until

NOBODY = 65534
FIN_WAIT, TIME_WAIT = "05", "06"  # in /proc/net/tcp
TOKEN = "a-token-of-the-environment-0815"
EVERYWHERE = ("--api", "0.0.0.0:0")
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")

# One call of each kind: looking, changing, the stream, and what is not JSON.
GUARDED = [
    ("GET", "/api/health"),
    ("GET", "/api/remote/status"),
    ("POST", "/api/remote/sync"),
    ("POST", "/api/config/ssh_connections"),
    ("DELETE", "/api/artifacts/resnet50/v1"),
    ("GET", "/api/events"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/files/swagger-ui.css"),
    ("GET", "/nothing-is-here"),
]
CONNECTION = b'{"host": "gpu.example", "username": "mallory"}'


@contextmanager
def serving(folder: Path, *options: str, token: str | None = None) -> Iterator[Served]:
    served = Served(folder, *options, environment={} if token is None else {"RUNICORNFS_TOKEN": token})
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Served]:
    """On loopback, without a token."""
    with serving(tmp_path / "serve") as served:
        yield served


@contextmanager
def client(served: Served, **options: object) -> Iterator[httpx.Client]:
    """From this machine, by 127.0.0.1."""
    url = f"http://127.0.0.1:{port_of(served)}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30, **options) as http:  # type: ignore[arg-type]
        yield http


def port_of(served: Served) -> int:
    port = urlsplit(str(served.http.base_url)).port
    assert port is not None
    return port


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def status_of(http: httpx.Client, method: str, path: str, **more: object) -> int:
    """Without waiting for the end of a stream."""
    with http.stream(method, path, **more) as response:  # type: ignore[arg-type]
        return response.status_code


def as_somebody_else(action: Callable[[], bytes]) -> bytes:
    """What `action` returns in a process of another account; no new program, which that account may not be allowed to
    run."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            signal.alarm(int(PATIENCE_S))
            os.write(writer, action()[:4096])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def ask(port: int, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """The answer to a request that is written by hand."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def states_of(port: int) -> set[str]:
    """In which states the kernel has the ends of connections from this port."""
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[3] for line in connections if f":{port:04X}" in f"{line[1]} {line[2]} "}


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert ApiAddress().is_loopback


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/health"), ("GET", "/api/events"), ("GET", "/docs")])
def test_on_loopback_the_account_that_runs_it_needs_no_token(here: Served, method: str, path: str) -> None:
    with client(here) as http:
        assert status_of(http, method, path) == 200


@only_root
@pytest.mark.promise("K3")
def test_on_loopback_other_accounts_get_403_unless_they_bring_the_token(tmp_path: Path) -> None:
    with serving(tmp_path / "serve", token=TOKEN) as served:
        port = port_of(served)
        for method, path in GUARDED:
            refused = as_somebody_else(lambda method=method, path=path: ask(port, method, path))  # type: ignore[misc]
            assert b" 403 " in refused.split(b"\r\n")[0], (method, path, refused)
            assert b"forbidden" in refused
        guess = as_somebody_else(lambda: ask(port, "GET", "/api/health", "Authorization: Bearer guess"))
        assert b" 401 " in guess.split(b"\r\n")[0]
        let_in = as_somebody_else(lambda: ask(port, "GET", "/api/health", f"Authorization: Bearer {TOKEN}"))
        assert b" 200 " in let_in.split(b"\r\n")[0]


@only_root
def test_an_account_cannot_say_that_its_connection_is_somebody_elses(here: Served) -> None:
    """What proxies write into a request counts for nothing, even if it names a connection that is ours."""
    port = port_of(here)
    with socket.create_connection(("127.0.0.1", port)) as ours:
        address = "{}:{}".format(*ours.getsockname())
        for header in (f"X-Forwarded-For: {address}", f"Forwarded: for={address}", f"X-Real-IP: {address}"):
            refused = as_somebody_else(lambda header=header: ask(port, "GET", "/api/health", header))  # type: ignore[misc]
            assert b" 403 " in refused.split(b"\r\n")[0], header


@only_root
def test_a_connection_that_is_closed_before_it_is_looked_at_is_nobodys(here: Served) -> None:
    """The kernel says of a socket without a program that it is root's: root's daemon must not believe it."""
    port = port_of(here)

    def shout_and_leave() -> bytes:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            lines = ["POST /api/config/ssh_connections HTTP/1.1", f"Host: 127.0.0.1:{port}"]
            lines += [f"Content-Length: {len(CONNECTION)}", "", ""]
            connection.sendall("\r\n".join(lines).encode() + CONNECTION)
            return str(connection.getsockname()[1]).encode()

    here.process.send_signal(signal.SIGSTOP)
    try:
        source = int(as_somebody_else(shout_and_leave))
        wait_until(lambda: FIN_WAIT in states_of(source), "the kernel to hear that the daemon's side knows")
    finally:
        here.process.send_signal(signal.SIGCONT)
    wait_until(lambda: states_of(source) <= {TIME_WAIT}, "the connection to end")
    assert here.get("/api/config/ssh_connections") == {"connections": []}


@only_root
def test_a_port_that_somebody_else_has_left_does_not_make_his_request_ours(here: Served) -> None:
    """He resets his connection as soon as his request is on its way; a program of ours then gets the same port."""
    port = port_of(here)
    here.http.post("/api/config/ssh_connections", content=CONNECTION).raise_for_status()
    (saved,) = here.get("/api/config/ssh_connections")["connections"]
    os.seteuid(NOBODY)  # a socket belongs to whoever made it
    try:
        theirs = socket.socket()
    finally:
        os.seteuid(0)
    theirs.settimeout(PATIENCE_S)
    theirs.bind(("127.77.7.7", 0))  # an address whose ports nobody else takes meanwhile
    theirs.connect(("127.0.0.1", port))
    theirs.sendall(f"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    assert b" 403 " in theirs.recv(1 << 16)
    source = theirs.getsockname()
    here.process.send_signal(signal.SIGSTOP)
    try:
        path = f"/api/config/ssh_connections/{saved['key']}"
        theirs.sendall(f"DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the end is a reset
        theirs.close()
        ours = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source_address=source)
    finally:
        here.process.send_signal(signal.SIGCONT)
    with ours:
        ours.sendall(f"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert b" 200 " in ours.recv(1 << 16).split(b"\r\n")[0]
    assert here.get("/api/config/ssh_connections") == {"connections": [saved]}


@pytest.mark.promise("K3")
def test_elsewhere_everybody_needs_the_token(tmp_path: Path) -> None:
    wrong = ["Bearer guess", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} {TOKEN}", f"Basic {TOKEN}", TOKEN]
    with serving(tmp_path / "serve", *EVERYWHERE, token=TOKEN) as served, client(served) as http:
        for method, path in GUARDED:
            refused = http.request(method, path)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized"), path
            assert refused.headers["WWW-Authenticate"] == "Bearer"
            for header in wrong:
                assert status_of(http, method, path, headers={"Authorization": header}) == 401, (path, header)
            assert status_of(http, method, f"{path}?token={TOKEN}") == 401, "an address is logged and remembered"
            assert status_of(http, method, path, headers=bearer(TOKEN)) not in (401, 403), path


def test_a_token_is_made_where_one_is_needed_printed_once_and_kept_for_this_account_alone(tmp_path: Path) -> None:
    file = tmp_path / "serve" / "home" / ".config" / "runicornfs" / "token"
    with serving(tmp_path / "serve", *EVERYWHERE) as served:
        token = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert served.log.read_text().count(token) == 1
        with client(served, headers=bearer(token)) as http:
            assert http.get("/api/health").status_code == 200
    with serving(tmp_path / "serve", *EVERYWHERE) as served:
        assert token not in served.log.read_text()
        with client(served, headers=bearer(token)) as http:
            assert http.get("/api/health").status_code == 200


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_name_that_somebody_rebound_to_this_machine_is_refused(tmp_path: Path, everywhere: bool) -> None:
    """Also with the token, which a browser could have been made to send."""
    options = EVERYWHERE if everywhere else ()
    with (
        serving(tmp_path / "serve", *options, token=TOKEN) as served,
        client(served, headers=bearer(TOKEN)) as http,
    ):
        for method, path in GUARDED:
            for host in ("evil.example", f"evil.example:{port_of(served)}", "127.0.0.1.evil.example", "", "[::1"):
                assert status_of(http, method, path, headers={"Host": host}) == 403, (path, host)
            assert status_of(http, method, path, headers={"Host": f"127.0.0.1:{port_of(served)}"}) != 403, path


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "http://localhost:{port}"])
@pytest.mark.promise("K3")
def test_a_page_of_another_site_cannot_change_anything(here: Served, origin: str) -> None:
    with client(here) as http:
        headers = {"Origin": origin.format(port=port_of(here))}
        refused = http.post("/api/config/ssh_connections", content=CONNECTION, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert http.delete("/api/artifacts/resnet50/v1", headers=headers).status_code == 403
        assert http.get("/api/config/ssh_connections").json() == {"connections": []}
        ours = {"Origin": f"http://127.0.0.1:{port_of(here)}"}
        assert http.post("/api/config/ssh_connections", content=CONNECTION, headers=ours).status_code == 200


def test_no_page_of_another_site_is_allowed_to_read_an_answer(here: Served) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    with client(here, headers=asked) as http:
        for method, path in [*GUARDED, ("OPTIONS", "/api/remote/connect"), ("OPTIONS", "/api/health")]:
            with http.stream(method, path) as response:
                assert not [name for name in response.headers if name.startswith("access-control-")], path


def test_a_body_has_a_limit(here: Served) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(BODY_LIMIT // 1024 + 1):
            yield b" " * 1024

    with client(here) as http:
        for body in (b" " * (BODY_LIMIT + 1), pieces()):
            try:
                refused = http.post("/api/remote/connect", content=body)
            except httpx.TransportError:
                continue  # the rest of it was not even taken
            assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        fits = http.post("/api/remote/connect", content=b" " * BODY_LIMIT)
        assert (fits.status_code, fits.json()["code"]) == (422, "invalid_input")
        assert http.get("/api/health").status_code == 200


def test_a_caller_who_leaves_in_the_middle_of_a_body_is_no_trouble(here: Served) -> None:
    with socket.create_connection(("127.0.0.1", port_of(here)), PATIENCE_S) as connection:
        source = connection.getsockname()[1]
        head = f"POST /api/remote/connect HTTP/1.1\r\nHost: 127.0.0.1:{port_of(here)}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"host":')
    wait_until(lambda: states_of(source) <= {TIME_WAIT}, "the connection to end")
    assert here.get("/api/health")["status"] == "ok"  # and `close` finds no traceback in the log


def test_secrets_are_nowhere(here: Served, sshd: PrivateSshd, sample_store: Path, tmp_path: Path) -> None:
    """Not in an answer, an event, the log or a file: whether a login fails, is malformed, or works."""
    key = sshd.identity.read_text()
    lines = key.splitlines()
    damaged = "\n".join([lines[0], "secret-line-in-a-damaged-key", *lines[2:]])
    secrets = ["hunter2-password", "open-sesame-passphrase", "secret-line-in-a-damaged-key", lines[2]]
    told: list[str] = []
    with client(here) as events:
        streams = threading.Thread(target=listen, args=(events, told))
        streams.start()
        wait_until(lambda: told, "the first event")
        base = login(sshd, sample_store)
        del base["private_key_path"]
        for more in (
            {"password": "hunter2-password"},
            {"private_key": damaged, "passphrase": "open-sesame-passphrase"},
            {"private_key": key, "password": "hunter2-password"},
            {"password": ["hunter2-password"]},
            {"password": {"hunter2-password": 1}, "passphrase": 7},
            {"private_key": key, "passphrase": "open-sesame-passphrase", "port": "hunter2-password"},
            {"password": "hunter2-password\0"},
        ):
            refused = here.post("/api/remote/connect", base | more)
            assert refused.is_error
            told.append(refused.text)
        for body in ('{"password": "hunter2-password"', '{"hunter2-password": "open-sesame-passphrase"}'):
            told.append(here.http.post("/api/remote/connect", content=body).text)
        saved = {"host": "gpu.example", "username": "ada", "password": "hunter2-password", "private_key": key}
        told.append(here.post("/api/config/ssh_connections", saved).raise_for_status().text)
        connected = here.post("/api/remote/connect", base | {"private_key": key})
        told.append(connected.raise_for_status().text)
        here.wait_for_sync()
        for path in (
            "/api/remote/status",
            "/api/remote/verify",
            "/api/config/ssh_connections",
            "/metrics",
            "/api/config",
        ):
            told.append(here.http.get(path).text)
        here.close()
        streams.join(PATIENCE_S)
    places = {"an answer or an event": "\n".join(told).encode(), "the log": here.log.read_bytes()}
    places |= {str(path): path.read_bytes() for path in (tmp_path / "serve").rglob("*") if path.is_file()}
    for secret in secrets:
        assert [place for place, said in places.items() if secret.encode() in said] == [], secret


def listen(http: httpx.Client, told: list[str]) -> None:
    with http.stream("GET", "/api/events") as response:
        told += response.iter_lines()


def test_the_token_is_in_no_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "serve", *EVERYWHERE, token=TOKEN) as served:
        with client(served, headers=bearer(TOKEN)) as http:
            for method, path in GUARDED:
                if path != "/api/events":
                    assert TOKEN not in http.request(method, path).text
        assert TOKEN not in served.log.read_text()
        files = [path for path in (tmp_path / "serve").rglob("*") if path.is_file()]
        assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def status_command(served: Served, folder: Path, token: str | None) -> subprocess.CompletedProcess[str]:
    """`runicornfs status` of this account, with a token in its environment."""
    environment = environment_in(folder) | ({} if token is None else {"RUNICORNFS_TOKEN": token})
    command = [sys.executable, "-m", "runicornfs", "status", "--api", f"127.0.0.1:{port_of(served)}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_client_commands_bring_the_token_and_say_what_to_do_without(tmp_path: Path) -> None:
    with serving(tmp_path / "serve", *EVERYWHERE, token="tökén") as served:
        without = status_command(served, tmp_path, None)
        assert (without.returncode, without.stdout) == (1, "")
        assert "Set RUNICORNFS_TOKEN to the token of the runicornfs at http://127.0.0.1:" in without.stderr
        wrong = status_command(served, tmp_path, "guess")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "RUNICORNFS_TOKEN is not the token of the runicornfs at http://127.0.0.1:" in wrong.stderr
        assert "guess" not in wrong.stderr
        assert status_command(served, tmp_path, "tökén\n").returncode == 0


@only_root
def test_a_client_of_another_account_is_told_what_to_do(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNICORNFS_TOKEN", raising=False)

    def ask_politely() -> bytes:
        try:
            ApiClient(f"127.0.0.1:{port_of(here)}").get("/api/health", dict)
        except Refused as refused:
            return str(refused).encode()
        return b"it was let in"

    here.get("/api/health")  # what is imported late is imported now
    assert re.match(rb"without a token only the account .* Set RUNICORNFS_TOKEN to", as_somebody_else(ask_politely))
