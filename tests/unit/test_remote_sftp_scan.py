"""The walk over SFTP against a server in memory: how few round trips it takes, and what it makes of odd servers."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import ConnectionLost, ProtocolError, ServerError, TimedOut
from runicornfs.remote import sftp_scan
from runicornfs.remote.events import Event, Gone, Notice, Plan
from runicornfs.remote.line import Line
from runicornfs.remote.packets import Attributes, Code, Fields, Kind, packet, string, uint32
from runicornfs.remote.pipeline import Conversation, Pipeline
from runicornfs.remote.sftp import SftpSession
from runicornfs.remote.sftp_scan import CERTAIN_S, OLD_S, scan_by_sftp, token_after_reading
from runicornfs.remote.walk import Status
from runicornfs.store.observed import Observed
from tests.fake_sftp import FakeChannel

Files = dict[bytes, bytes]


def store(artifacts: int = 1, versions: int = 1, manifest: bytes = b"{}") -> Files:
    files: Files = {b"/s/": b"", b"/s/artifacts/": b"", b"/s/artifacts/model/": b""}
    for artifact in range(artifacts):
        place = b"/s/artifacts/model/m%d/" % artifact
        files |= {place: b"", place + b"versions.json": b'{"artifact": %d}' % artifact}
        for version in range(1, versions + 1):
            folder = place + b"v%d/" % version
            files |= {folder: b"", folder + b"metadata.json": b"[%d]" % version, folder + b"manifest.json": manifest}
    return files


def documents(files: Files) -> dict[str, bytes]:
    return {path[3:].decode(): content for path, content in files.items() if path.endswith(b".json")}


def session_on(channel: FakeChannel) -> SftpSession:
    session = SftpSession(channel, Line())
    session.start()
    return session


def scan(channel: FakeChannel, known: dict[bytes, bytes] | None = None) -> list[Event]:
    return list(scan_by_sftp(session_on(channel), "/s", {} if known is None else known))


def contents(events: list[Event]) -> dict[str, bytes]:
    return {event.path: event.content for event in events if isinstance(event, Observed) and event.content is not None}


def gone(events: list[Event]) -> list[str]:
    return [event.path for event in events if isinstance(event, Gone)]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


class DistantChannel(FakeChannel):
    """Answers one unit of time after the question: `now` counts round trips that somebody had to wait for."""

    now = 0.0

    def send(self, s: bytes) -> int:
        before = len(self._answers)
        sent = super().send(s)
        self._due = getattr(self, "_due", []) + [self.now + 1] * (len(self._answers) - before)
        return sent

    def recv(self, nbytes: int) -> bytes:
        if not self._stream and self._answers:
            self.now = max(self.now, self._due.pop(0))
        return super().recv(nbytes)


def test_a_store_takes_less_than_a_round_trip_for_twenty_files() -> None:
    files = store(artifacts=100, versions=5)
    channel = DistantChannel(files)
    assert contents(scan(channel)) == documents(files)
    assert channel.now < len(documents(files)) / 20


def test_an_unchanged_store_takes_even_fewer() -> None:
    files = store(artifacts=100, versions=5)
    known = {event.path.encode(): event.token for event in scan(FakeChannel(files)) if isinstance(event, Observed)}
    channel = DistantChannel(files)
    assert contents(scan(channel, known)) == {}
    assert Kind.OPEN not in channel.requests
    assert channel.now < len(documents(files)) / 40


@given(st.integers(0, 1000), st.integers(1, 3000))
def test_answers_in_any_order_and_any_pieces(seed: int, size: int) -> None:
    files = store(artifacts=2, versions=2, manifest=bytes(range(256)) * 30)
    order = random.Random(seed)
    channel = FakeChannel(
        files, limits=4096, short=lambda length: order.randint(1, length), piece=lambda: size, shuffle=order
    )
    assert contents(scan(channel)) == documents(files)


@pytest.mark.parametrize("limits", [None, 1, 4096, 255 << 10])
def test_a_long_document_arrives_whole_whatever_a_read_may_bring(limits: int | None) -> None:
    files = store(manifest=random.Random(3).randbytes(700_000))
    assert contents(scan(FakeChannel(files, limits=limits))) == documents(files)


def test_the_servers_limit_of_handles_is_kept() -> None:
    files = store(artifacts=30, versions=2)
    channel = FakeChannel(files, handles=10)
    assert contents(scan(channel)) == documents(files)
    assert channel.most_handles <= 5
    assert channel.open_handles == {}


@pytest.mark.parametrize("handles", [1, 2, 10])
def test_a_limit_of_handles_that_the_server_does_not_tell_costs_nothing_but_time(handles: int) -> None:
    files = store(artifacts=30, versions=2)
    events = scan(FakeChannel(files, handles=handles, says_handles=0))
    assert contents(events) == documents(files)
    assert notices(events) == []


def test_handles_that_others_have_taken_since_the_walk_began_cost_no_document() -> None:
    files = store(artifacts=30, versions=2)
    channel = FakeChannel(files)
    events = []
    for event in scan_by_sftp(session_on(channel), "/s", {}):
        if isinstance(event, Plan):
            channel.handles = 2
        events.append(event)
    assert contents(events) == documents(files)
    assert notices(events) == []


def test_a_server_that_tells_nothing_of_names_is_asked() -> None:
    files = store(artifacts=3, versions=2)
    channel = FakeChannel(files, tells_attributes=False)
    assert contents(scan(channel)) == documents(files)
    assert Kind.LSTAT in channel.requests


@pytest.mark.parametrize(
    ("code", "reason"), [(Code.PERMISSION_DENIED, "Permission denied"), (4, "the server cannot read"), (8, "(code 8)")]
)
def test_a_document_that_cannot_be_read_costs_itself_and_is_not_gone(code: int, reason: str) -> None:
    files = store(versions=2)
    bad = b"/s/artifacts/model/m0/v1/metadata.json"
    events = scan(FakeChannel(files, refuses={bad: code}), {bad[3:]: b"token of old"})
    assert set(documents(files)) - set(contents(events)) == {bad[3:].decode()}
    (notice,) = notices(events)
    assert notice.startswith("artifacts/model/m0/v1/metadata.json: cannot be read: ")
    assert reason in notice
    assert gone(events) == []


def test_a_folder_that_cannot_be_listed_keeps_what_was_known_in_it() -> None:
    files = store(versions=2)
    known = {b"artifacts/model/m0/v1/metadata.json": b"old", b"artifacts/model/m0/v9/metadata.json": b"old"}
    events = scan(FakeChannel(files, refuses={b"/s/artifacts/model/m0/v1": Code.PERMISSION_DENIED}), known)
    assert gone(events) == ["artifacts/model/m0/v9/metadata.json"]
    assert notices(events) == ["artifacts/model/m0/v1: cannot be listed: Permission denied"]


def test_a_denied_index_is_told_of_without_its_content_and_tried_again() -> None:
    files = store(versions=2)
    index = b"/s/artifacts/model/m0/versions.json"
    denied = scan(FakeChannel(files, refuses={index: Code.PERMISSION_DENIED}))
    (told,) = [event for event in denied if isinstance(event, Observed) and event.path == index[3:].decode()]
    assert told.content is None
    known = {index[3:]: told.token}
    again = scan(FakeChannel(files, refuses={index: Code.PERMISSION_DENIED}), dict(known))
    assert index[3:].decode() not in [event.path for event in again if isinstance(event, Observed)]
    readable = scan(FakeChannel(files), dict(known))
    assert contents(readable)[index[3:].decode()] == files[index]


def test_an_index_is_read_before_its_versions_are_listed() -> None:
    channel = FakeChannel(store(versions=2))
    scan(channel)
    index = channel.requests.index(Kind.OPEN)
    lists = [at for at, kind in enumerate(channel.requests) if kind == Kind.OPENDIR]
    assert len([at for at in lists if at < index]) == 4  # root, artifacts, type, artifact
    assert len([at for at in lists if at > index]) == 3  # the artifact again, and its versions


@pytest.mark.parametrize("name", [b"", b"../../up", b"a/b", b"nul\0"])
def test_a_folder_with_names_that_no_file_can_have_costs_itself(name: bytes) -> None:
    channel = FakeChannel(store(versions=2))

    def tamper(kind: Kind, id_: int, body: bytes) -> list[bytes]:
        return [packet(kind, id_, body.replace(string(b"v1"), string(name)))]

    channel.tamper = tamper
    events = scan(channel, {b"artifacts/model/m0/v1/metadata.json": b"old"})
    (notice,) = notices(events)
    assert notice.startswith("artifacts/model/m0: cannot be listed: the server names an entry of")
    assert gone(events) == []


def test_folders_in_folders_without_end_come_to_an_end() -> None:
    """A server may answer any path with yet another folder."""
    channel = FakeChannel({b"/s/": b"", b"/s/sweeps/": b""})
    real = channel._answer

    def endless(kind: Kind, id_: int, fields: Fields) -> tuple[Kind, int, bytes]:
        if kind == Kind.OPENDIR:
            path = Fields(fields._body).string()
            if path.startswith(b"/s/sweeps"):
                channel.files.setdefault(path + b"/", b"")
                channel.files.setdefault(path + b"/" + b"x" * 250 + b"/", b"")
        return real(kind, id_, fields)

    channel._answer = endless  # type: ignore[method-assign]
    told = notices(scan(channel))
    assert all("is longer than 4096 bytes" in notice for notice in told)
    assert len(told) == 2  # the folder itself, and that it cannot be listed


def test_a_size_that_no_file_has_costs_itself() -> None:
    files = store() | {b"/s/sweeps/": b"", b"/s/sweeps/f": bytes(33)}
    channel = FakeChannel(files)
    channel.tamper = lambda kind, id_, body: [
        packet(kind, id_, body.replace((33).to_bytes(8, "big"), (2**64 - 1).to_bytes(8, "big")))
    ]
    assert notices(scan(channel)) == [f"sweeps/f: cannot be examined: no file has {2**64 - 1} bytes"]


@pytest.mark.parametrize(
    "nonsense",
    [packet(Kind.DATA, 10_000, string(b"")), packet(Kind.ATTRS, 5, uint32(0)), packet(Kind.STATUS, 5), bytes(20)],
)
def test_nonsense_is_an_error_and_ends_the_session(nonsense: bytes) -> None:
    channel = FakeChannel(store())
    session = session_on(channel)
    answered = 0

    def tamper(kind: Kind, id_: int, body: bytes) -> list[bytes]:
        nonlocal answered
        answered += 1
        return [nonsense] if answered == 5 else [packet(kind, id_, body)]

    channel.tamper = tamper
    with pytest.raises(ProtocolError):
        list(scan_by_sftp(session, "/s", {}))
    assert channel.closed


@pytest.mark.parametrize(("ends", "error"), [(True, ConnectionLost), (False, TimedOut)])
def test_a_line_that_ends_or_falls_silent_is_an_error(ends: bool, error: type[ServerError]) -> None:
    channel = FakeChannel(store())
    session = session_on(channel)
    channel.ends = ends
    channel.tamper = lambda kind, id_, body: []
    with pytest.raises(error):
        list(scan_by_sftp(session, "/s", {}))
    assert channel.closed


def test_who_stops_listening_ends_the_session_with_its_answers() -> None:
    channel = FakeChannel(store(artifacts=20))
    events = scan_by_sftp(session_on(channel), "/s", {})
    next(events)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert channel.closed


class TestTokens:
    """A document is settled once no change can hide any more."""

    now = time.time()

    def status(self, mtime: float, size: int = 5) -> Status:
        return sftp_scan.status_of(Attributes(size, 0o100644, int(mtime)))

    def test_one_of_old_is_settled_at_once(self) -> None:
        status = self.status(self.now - OLD_S - 10)
        assert token_after_reading(status, None, self.now) == status.token

    @pytest.mark.parametrize("age", [-1e6, 0, 10, OLD_S - 100])
    def test_one_that_may_have_been_changed_just_now_is_read_again(self, age: float) -> None:
        status = self.status(self.now - age)
        assert token_after_reading(status, None, self.now) != status.token

    def test_it_is_settled_by_a_scan_that_began_long_enough_after_the_first_sight(self) -> None:
        status = self.status(self.now)
        first = token_after_reading(status, None, self.now)
        soon = token_after_reading(status, first, self.now + CERTAIN_S / 2)
        assert soon == first  # the time of the first sight stays
        assert token_after_reading(status, soon, time.time() + CERTAIN_S + 1) == status.token

    def test_a_change_starts_that_anew(self) -> None:
        first = token_after_reading(self.status(self.now), None, self.now)
        for changed in (self.status(self.now, size=6), self.status(self.now + 1)):
            later = token_after_reading(changed, first, self.now + 1)
            assert later not in (changed.token, first)

    def test_a_clock_of_ours_that_was_set_back_settles_nothing_too_early(self) -> None:
        status = self.status(self.now)
        future = sftp_scan._UNSETTLED + status.token[1:] + sftp_scan._SIGHT.pack(self.now + 1e6)
        assert token_after_reading(status, future, self.now) not in (status.token, future)


class TestPipeline:
    """Conversations side by side."""

    def talk(self, path: bytes, turns: int) -> Conversation[int]:
        for _ in range(turns):
            (answer,) = yield [(Kind.STAT, string(path))]
            assert answer.kind == Kind.ATTRS
        return turns

    def test_each_has_its_own_answers_and_the_room_is_kept(self) -> None:
        pipeline: Pipeline[int] = Pipeline(session_on(FakeChannel({b"/f": b""})), 3)
        lengths = [1, 5, 2, 2, 7, 1, 1]
        waiting = list(lengths)
        most = 0

        def next_one() -> Conversation[int] | None:
            nonlocal most
            most = max(most, pipeline.active + 1)
            return self.talk(b"/f", waiting.pop()) if waiting else None

        assert sorted(pipeline.run(next_one)) == sorted(lengths)
        assert most == 3
        assert pipeline.active == 0

    def test_what_a_conversation_raises_is_raised(self) -> None:
        def fails() -> Conversation[int]:
            yield [(Kind.STAT, string(b"/f"))]
            raise ServerError("it did not like that")

        channel = FakeChannel({b"/f": b""})
        pending = [fails(), self.talk(b"/f", 3)]
        pipeline: Pipeline[int] = Pipeline(session_on(channel), 2)
        with pytest.raises(ServerError, match="did not like"):
            list(pipeline.run(lambda: pending.pop(0) if pending else None))
        assert channel.closed  # the other one's answer is outstanding
