"""A server that lies in its answers: what it says without end comes to an end, and what cannot be is not believed."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runicornfs.errors import MalformedRecord, ProtocolError, ServerError, StoreUnusable, TimedOut
from runicornfs.manage.sftp_edits import edit_by_sftp
from runicornfs.remote import helper, helper_program, sftp, walk
from runicornfs.remote.events import Event, Gone, Notice
from runicornfs.remote.helper import Frames
from runicornfs.remote.line import Line
from runicornfs.remote.packets import Kind, packet, string, uint32
from runicornfs.remote.scan import scan_folder
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.sftp_scan import scan_by_sftp
from runicornfs.store import edits, fields, records
from runicornfs.store.fields import parse_object, with_unicode_names
from runicornfs.store.records import parse_manifest
from tests.fake_sftp import FakeChannel
from tests.unit.observing import entry

FILE = uint32(0x0D) + bytes(7) + b"\x05" + uint32(0o100644) + uint32(1) + uint32(1)  # size, mode and times
NET = "artifacts/model/net"
STORE = {
    b"/s/": b"",
    b"/s/artifacts/": b"",
    b"/s/artifacts/model/": b"",
    b"/s/artifacts/model/net/": b"",
    b"/s/artifacts/model/net/versions.json": b'{"versions": [{"version": 1}], "aliases": {}}',
    b"/s/artifacts/model/net/v1/": b"",
    b"/s/artifacts/model/net/v1/metadata.json": b"{}",
}


def session_on(channel: FakeChannel) -> SftpSession:
    session = SftpSession(channel, Line())
    session.start()
    return session


def names(*found: bytes) -> bytes:
    return uint32(len(found)) + b"".join(string(name) + string(b"") + FILE for name in found)


def listing_without_end(body: Callable[[], bytes]) -> FakeChannel:
    """A server whose every folder goes on and on like this."""

    def tamper(kind: Kind, id_: int, answer: bytes) -> list[bytes]:
        is_listing = kind == Kind.NAME or (kind == Kind.STATUS and answer.startswith(uint32(1)))
        return [packet(Kind.NAME, id_, body()) if is_listing else packet(kind, id_, answer)]

    return FakeChannel(STORE, tamper=tamper)


numbers = itertools.count()
ENDLESS = {
    "packets without a name": lambda: names(),
    "dots": lambda: names(b".", b".."),
    "the same name": lambda: names(b"again"),
    "always another name": lambda: names(*(b"%d" % next(numbers) for _ in range(100))),
}


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_a_listing_without_end_is_refused(body: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_MOST_NAMES", 1000)
    with pytest.raises(ServerError):
        session_on(listing_without_end(body)).list_folder(b"/s")


@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
def test_a_scan_of_a_folder_without_end_ends(body: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runicornfs.remote.sftp_scan.NAMES_LIMIT", 1000)
    with pytest.raises(StoreUnusable, match="/s cannot be read"):
        list(scan_by_sftp(session_on(listing_without_end(body)), "/s", {}))


@pytest.mark.parametrize("name", [b"", b"../../up", b"nul\0", b"x" * 256, b"x" * 200_000], ids=lambda name: name[:9])
def test_a_name_that_no_file_can_have_is_refused(name: bytes) -> None:
    with pytest.raises(ServerError, match="as no file can be named"):
        session_on(listing_without_end(lambda: names(name))).list_folder(b"/s")


@pytest.mark.parametrize("version", [0, 2, 4, 999])
def test_a_version_that_was_not_offered_is_refused(version: int) -> None:
    channel = FakeChannel({}, tamper=lambda kind, id_, body: [packet(kind, version, body)])
    with pytest.raises(ProtocolError, match="version 3"):
        session_on(channel)


def test_an_answer_that_goes_on_for_ever_is_a_time_out() -> None:
    session = session_on(listing_without_end(lambda: names(b"again")))
    with session.within(-1.0), pytest.raises(TimedOut):
        session.list_folder(b"/s")
    assert not session.is_open


def test_an_answer_that_comes_in_drops_is_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_TRICKLE_S", -1.0)
    session = SftpSession(FakeChannel(STORE, piece=lambda: 200), Line())
    with pytest.raises(TimedOut, match="next to no progress"):
        session.start()


def test_many_small_answers_are_no_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "_TRICKLE_S", -1.0)
    monkeypatch.setattr(sftp, "_TRICKLE_BYTES", 10)
    session = session_on(FakeChannel(STORE))
    assert [name for name, _ in session.list_folder(b"/s")] == [b"artifacts"]


@pytest.mark.parametrize("data", [b"", b"x" * 100_000], ids=["without an end", "longer than asked"])
def test_an_edit_believes_no_content_that_its_size_does_not_announce(data: bytes) -> None:
    def tamper(kind: Kind, id_: int, body: bytes) -> list[bytes]:
        is_read = kind == Kind.DATA or body.startswith(uint32(1))
        return [packet(Kind.DATA, id_, string(data)) if is_read and reading else packet(kind, id_, body)]

    reading: list[bool] = []

    class Editable(FakeChannel):
        """Lets the lock be made."""

        def _answer(self, kind: Kind, id_: int, fields: Any) -> Any:
            if kind == Kind.OPEN and b".lock" in fields._body:
                self.open_handles[b"lock"] = b"/s/"
                return Kind.HANDLE, id_, string(b"lock")
            if kind == Kind.LSTAT and b"versions.json" in fields._body:
                reading.append(True)
            if kind == Kind.REMOVE:
                return self._status(id_, 0)
            return super()._answer(kind, id_, fields)

    session = session_on(Editable(STORE, tamper=tamper))
    edit = {"action": edits.SET_ALIAS, "version": 1, "alias": "best"}
    with pytest.raises((ProtocolError, edits.EditRefused)):
        edit_by_sftp(session, "/s", NET, edit)


# The helper's frames


def frames(kind: int, header: str, body: bytes = b"") -> list[Event]:
    """The events of one frame, whose header is written as it stands here."""
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    text = header.encode()
    for part in (helper_program.FRAME.pack(kind, len(text), len(body)), text, body):
        output.write(writer.compressor.compress(part))
    writer.write(helper_program.END, [])
    writer.close()
    return list(helper.events(Frames(io.BytesIO(output.getvalue()))))


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400", "1.5", "true", '"5"', "[1]", "null"])
def test_a_time_that_is_no_whole_number_is_a_protocol_error(number: str) -> None:
    with pytest.raises(ProtocolError, match="makes no sense"):
        frames(walk.FILE, f'["a", "aa", 1, {number}]')


def test_a_token_is_no_longer_than_it_can_travel_back() -> None:
    with pytest.raises(ProtocolError, match="token"):
        frames(walk.FILE, json.dumps(["a", "00" * 300, 1, 1]))
    helper.pack([(b"a", b"x" * 64)])


@pytest.mark.parametrize("size", [0, 1, 3, 2**61])
def test_a_document_has_the_size_that_is_told_of_it(size: int) -> None:
    with pytest.raises(ProtocolError, match="2 bytes came"):
        frames(walk.DOCUMENT, json.dumps(["a", "aa", size, 1]), b"{}")


def test_what_the_helper_says_of_the_store_is_shown_short_and_on_one_line() -> None:
    with pytest.raises(StoreUnusable) as refused:
        frames(helper_program.FAILED, json.dumps(["\x1b[2J\n" + "x" * 5000]))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000
    (notice,) = frames(walk.WARNING, json.dumps(["a\x1b[2Jb", "\x9b31m" + "x" * 5000]))
    assert isinstance(notice, Notice)
    assert notice.text.isprintable()


def test_a_helper_that_is_alive_and_says_nothing_comes_to_an_end() -> None:
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    for _ in range(100):
        writer.write(walk.ALIVE, [])
    with pytest.raises(TimedOut):
        list(helper.events(Frames(io.BytesIO(output.getvalue()), within_s=-1.0)))


def test_a_helper_that_tells_without_end_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "STORE_LIMIT", 10)
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    for number in range(11):
        writer.write(walk.GONE, [f"p/e/runs/r/{number}"])
    writer.close()
    with pytest.raises(ProtocolError, match="more than 10 things"):
        list(helper.events(Frames(io.BytesIO(output.getvalue()))))


# The walk


def test_a_folder_with_too_many_names_costs_itself_and_nothing_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runicornfs.remote.helper_program.NAMES_LIMIT", 5)
    media = tmp_path / "p/e/runs/r/media"
    media.mkdir(parents=True)
    (media.parent / "logs.txt").touch()
    for number in range(6):
        (media / f"{number}.png").touch()
    found = list(scan_folder(str(tmp_path), [(b"p/e/runs/r/media/old.png", b"1")]))
    assert [event.text for event in found if isinstance(event, Notice)] == [
        "p/e/runs/r/media: cannot be listed: it has more than 5 entries"
    ]
    assert [event.path for event in found if not isinstance(event, Notice) and hasattr(event, "path")] == [
        "p/e/runs/r",
        "p/e/runs/r/logs.txt",
        "p/e/runs/r/media",
    ]


@pytest.mark.promise("S8")
def test_a_walk_over_a_store_without_end_stops_and_nothing_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "STORE_LIMIT", 20)
    for number in range(30):
        (tmp_path / f"p/e/runs/r{number}/media").mkdir(parents=True)
    found = list(scan_folder(str(tmp_path), [(b"p/e/runs/r29/media", b"d"), (b"q/e/runs/r/logs.txt", b"1")]))
    assert [event.text for event in found if isinstance(event, Notice)] == [
        "p/e/runs: with it the store has more than 20 names: the rest is left out"
    ]
    assert not [event for event in found if isinstance(event, Gone)]


def test_only_a_manifest_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "RECORD_LIMIT", 10)
    folder = tmp_path / "artifacts/model/net/v1"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "metadata.json"):
        (folder / name).write_bytes(b" " * 11)
    found = list(scan_folder(str(tmp_path), []))
    assert [event.text for event in found if isinstance(event, Notice)] == [
        "artifacts/model/net/v1/metadata.json: cannot be read: 11 bytes are too many for a document"
    ]


# Documents


@pytest.mark.promise("S8")
def test_a_document_of_too_many_values_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "VALUES_LIMIT", 100)
    assert parse_object(b'{"a": [' + b"{}," * 45 + b"{}]}")
    with pytest.raises(MalformedRecord, match="more than 100 values"):
        parse_object(b'{"a": [' + b"{}," * 60 + b"{}]}")


def test_deep_paths_cannot_ask_for_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "FOLDER_TEXT_LIMIT", 100)
    deep = [entry(f"{number}/" + "d/" * 10 + "f", 1) for number in range(3)]
    manifest = parse_manifest(json.dumps({"files": [entry("first"), *deep, entry("last")]}).encode())
    assert [file.path for file in manifest.files] == ["first", "last"]
    assert "more than 100 characters of paths" in manifest.problems[0]


def test_the_names_of_fields_can_be_encoded() -> None:
    record = parse_object(b'{"\\ud800": {"a": [{"\\udfff": 1}]}, "b": "\\ud800"}')
    assert with_unicode_names(record) == {"?": {"a": [{"?": 1}]}, "b": "\ud800"}


def test_an_edit_of_a_record_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "VALUES_LIMIT", 100)
    index = b'{"versions": [{"version": 1}], "aliases": {}, "more": [' + b"{}," * 60 + b"{}]}"
    with pytest.raises(edits.EditRefused, match="more than 100 values"):
        edits.plan(
            {"action": edits.SET_ALIAS, "version": 1, "alias": "a"}, "net", edits.State(index, None, {1}, ()), 1.0
        )


def test_an_edit_of_a_record_that_is_nested_too_deep_is_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(edits.EditRefused, match="nested too deep"):
        edits.encoded({"metadata": value})
