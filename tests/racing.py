"""Programs that change one store at the same time, each in a process of its own: `python -m tests.racing WHAT …`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.errors import Conflict
from runicornfs.manage.editors import Edit, Editor, LocalEditor, ServerEditor
from runicornfs.remote.identities import Credentials
from runicornfs.remote.server import Server
from runicornfs.remote.sshconfig import HostSettings

ARTIFACT = "artifacts/model/net"
READY = "ready"


def save(root: Path, who: str, count: int) -> None:
    """Saves versions as the SDK does, under its lock."""
    writer = StoreWriter(root)
    for number in range(count):
        writer.add_version("model", "net", {"w.bin": f"{who} {number}".encode()})


def edit(editor: Editor, changes: Sequence[Edit]) -> None:
    """Makes one edit after the other; one that finds the lock taken for too long is made again, as people do."""
    for change in changes:
        while True:
            try:
                editor.edit(ARTIFACT, change, [])
                break
            except Conflict as error:
                print(f"again: {error}", file=sys.stderr)


def main() -> None:
    what, root, *arguments = sys.argv[1:]
    print(READY, flush=True)
    sys.stdin.readline()  # all begin at once
    if what == "save":
        save(Path(root), arguments[0], int(arguments[1]))
    elif what == "edit-locally":
        edit(LocalEditor(root), json.loads(arguments[0]))
    elif what == "edit-remotely":
        changes, port, user, identity, known_hosts = arguments
        settings = HostSettings(
            host="127.0.0.1", hostname="127.0.0.1", port=int(port), user=user, user_known_hosts=(Path(known_hosts),)
        )
        server = Server(settings, root, Credentials((Path(identity),)))
        server.connect()
        try:
            edit(ServerEditor(server), json.loads(changes))
        finally:
            server.close()


def run_together(commands: Sequence[Sequence[str]], timeout_s: float = 50) -> None:
    """Starts all of them, lets them go at once, and expects each to succeed."""
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{READY}\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            _, errors = process.communicate(timeout=timeout_s)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.communicate()


def program(what: str, root: Path, *arguments: str) -> list[str]:
    """The command that runs one of them."""
    return [sys.executable, "-m", "tests.racing", what, str(root), *arguments]


if __name__ == "__main__":
    main()
