"""What the client takes from the helper's stream, and what it refuses."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runicornfs.errors import ProtocolError, StoreUnusable
from runicornfs.remote import helper, helper_program, walk
from runicornfs.remote.events import Event, Gone, Notice, Plan
from runicornfs.remote.helper import Frames, HelperUnavailable
from runicornfs.remote.scan import scan_folder
from runicornfs.store.observed import Observed, ObservedKind
from runicornfs.store.paths import check_relative

Frame = tuple[int, object, bytes]


def stream(*frames: Frame, end: bool = True) -> bytes:
    """Frames as the helper writes them."""
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    for kind, header, body in (*frames, *([(helper_program.END, [], b"")] if end else [])):
        writer.write(kind, header, body)  # type: ignore[arg-type]
    writer.close()
    return output.getvalue()


def events(data: bytes) -> list[Event]:
    return list(helper.events(Frames(io.BytesIO(data))))


def test_frames_become_typed_events() -> None:
    data = stream(
        (walk.DOCUMENT, ["artifacts/m/n/versions.json", "aa", 2, 5], b"{}"),
        (walk.FILE, ["p/e/runs/r/logs.txt", "bb", 7, 6], b""),
        (walk.UNREADABLE, ["artifacts/m/o/versions.json", "cc", 9, 8], b""),
        (walk.DIRECTORY, ["p/e/runs/r", "64"], b""),
        (walk.GONE, ["p/e/runs/old"], b""),
        (walk.WARNING, ["p/x", "is odd"], b""),
        (walk.ALIVE, [], b""),
        (walk.PLAN, [3, 4000], b""),
    )
    assert events(data) == [
        Observed("artifacts/m/n/versions.json", ObservedKind.DOCUMENT, b"\xaa", 2, 5, b"{}"),
        Observed("p/e/runs/r/logs.txt", ObservedKind.FILE, b"\xbb", 7, 6, None),
        Observed("artifacts/m/o/versions.json", ObservedKind.DOCUMENT, b"\xcc", 9, 8, None),
        Observed("p/e/runs/r", ObservedKind.DIRECTORY, b"d", 0, 0, None),
        Gone("p/e/runs/old"),
        Notice("p/x: is odd"),
        Plan(3, 4000),
    ]


def test_the_first_frames_do_not_wait_for_many_others() -> None:
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    sizes = []
    for number in range(2000):
        writer.write(walk.GONE, [f"artifacts/model/net-{number}/versions.json"])
        sizes.append(len(output.getvalue()))
    pieces = sorted(set(sizes))[1:]
    assert sizes.index(pieces[0]) < 150
    assert len(pieces) < 8, "later ones go in large pieces"


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a//b", "a/../b", "", "a/" + "x" * 300, "nul\0", "\ud800"])
def test_a_path_that_leaves_its_place_is_a_notice(path: str) -> None:
    try:
        found = events(stream((walk.FILE, [path, "aa", 1, 1], b"")))
    except ProtocolError:
        return  # no file name at all: not even a path
    assert [type(event) for event in found] == [Notice]


@pytest.mark.parametrize(
    "frame",
    [
        (walk.FILE, ["a", "aa", -1, 1], b""),
        (walk.FILE, ["a", "aa", "1", 1], b""),
        (walk.FILE, ["a", "not hex", 1, 1], b""),
        (walk.FILE, ["a"], b""),
        (walk.FILE, [["a"], "aa", 1, 1], b""),
        (walk.FILE, {"a": 1}, b""),
        (walk.PLAN, [1], b""),
        (walk.PLAN, [1, 2**70], b""),
        (99, ["a"], b""),
    ],
)
def test_a_frame_that_makes_no_sense_is_a_protocol_error(frame: Frame) -> None:
    with pytest.raises(ProtocolError):
        events(stream(frame))


def test_an_answer_that_ends_early_is_one_too() -> None:
    whole = stream((walk.GONE, ["a"], b""))
    for length in range(len(whole) - 10):  # the checksum behind the last frame tells nothing new
        with pytest.raises(ProtocolError):
            events(whole[:length])


def test_what_the_server_cannot_do_is_told() -> None:
    with pytest.raises(StoreUnusable, match="no folder"):
        events(stream((helper_program.FAILED, ["there is no folder /data on the server"], b"")))


@pytest.mark.parametrize("lengths", [(helper.HEADER_LIMIT + 1, 0), (2, walk.DOCUMENT_LIMIT + 1)])
def test_an_oversized_frame_is_refused_before_memory_is_used_for_it(lengths: tuple[int, int]) -> None:
    data = zlib.compress(helper_program.FRAME.pack(walk.DOCUMENT, *lengths) + b"[]")
    with pytest.raises(ProtocolError, match="oversized"):
        events(data)


def test_a_stream_that_expands_without_end_is_read_a_piece_at_a_time() -> None:
    bomb = Frames(io.BytesIO(zlib.compress(bytes(20 * 1024 * 1024))))
    with pytest.raises(ProtocolError):
        bomb.next()
    assert len(bomb._buffer) <= helper.CHUNK


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises((ProtocolError, StoreUnusable)):
        events(data)


@given(st.binary(max_size=300))
def test_garbage_inside_the_compressed_stream_is_one_too(data: bytes) -> None:
    with pytest.raises((ProtocolError, StoreUnusable)):
        events(zlib.compress(data))


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a/b", "../x", "aa"])
)
kinds = st.integers(0, 255) | st.sampled_from([walk.DOCUMENT, walk.FILE, walk.UNREADABLE, walk.DIRECTORY, walk.PLAN])


@given(st.lists(st.tuples(kinds, st.lists(plain, max_size=5) | plain, st.binary(max_size=20)), max_size=4))
def test_frames_that_mean_nothing_are_one_as_well(frames: list[Frame]) -> None:
    told: list[Event] = []
    try:
        told = events(stream(*frames))
    except (ProtocolError, StoreUnusable):
        return
    for event in told:
        if isinstance(event, Observed):
            assert check_relative(event.path) == event.path
            assert 0 <= event.size < 2**62
            assert 0 <= event.mtime_ns < 2**63


@pytest.mark.parametrize("mtime_ns", [math.inf, -math.inf, math.nan, "x", None, [], {}])
def test_a_time_that_is_none_is_one_too(mtime_ns: object) -> None:
    with pytest.raises(ProtocolError):
        events(stream((walk.FILE, ["p/e/runs/r/logs.txt", "bb", 7, mtime_ns], b"")))


class Banner:
    """A channel that prints this."""

    def __init__(self, said: bytes, stderr: bytes = b"", status: int = 0) -> None:
        self._said = io.BytesIO(said)
        self._stderr = stderr
        self._status = status

    def read(self, size: int) -> bytes:
        return self._said.read(size)

    def exit_status(self) -> int:
        return self._status

    def stderr_tail(self) -> bytes:
        return self._stderr


@given(st.binary(max_size=200))
def test_a_banner_before_the_marker_is_skipped_and_nothing_behind_it(banner: bytes) -> None:
    channel = Banner(banner + b"marker-17\n" + b"the rest")
    if b"marker-17\n" not in banner:
        helper._skip_banner(channel, b"marker-17\n")  # type: ignore[arg-type]
        assert channel.read(100) == b"the rest"


def test_a_server_without_python_is_told() -> None:
    channel = Banner(b"Welcome!\n", b"bash: line 1: python3: command not found\n", 127)
    with pytest.raises(HelperUnavailable, match="no python3"):
        helper._skip_banner(channel, b"marker\n")  # type: ignore[arg-type]


def test_a_shell_that_prints_without_end_runs_no_program() -> None:
    with pytest.raises(HelperUnavailable, match="without end"):
        helper._skip_banner(Banner(b"x" * (helper.BANNER_LIMIT + 100)), b"marker\n")  # type: ignore[arg-type]


def test_the_program_itself_answers_over_its_standard_input(tmp_path: Path) -> None:
    """As it runs on the server: started by the constant command, behind a banner of the shell's."""
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    (tmp_path / "runs" / "r1" / "meta.json").write_text('{"id": "r1"}')
    program = helper.program(walk, helper_program)
    packed = helper.pack([(b"runs/gone", b"token")])
    request = json.dumps({"root": str(tmp_path), "marker": "here\n", "known_bytes": len(packed)}).encode()
    done = subprocess.run(
        ["sh", "-c", "echo Welcome; " + helper.COMMAND.replace("python3", sys.executable)],
        input=b"%d\n" % len(program) + program + request + b"\n" + packed,
        capture_output=True,
        check=True,
    )
    banner, _, answer = done.stdout.partition(b"here\n")
    assert banner == b"Welcome\n"
    found = events(answer)
    assert [event.path for event in found if isinstance(event, Observed)] == ["runs/r1", "runs/r1/meta.json"]
    assert Gone("runs/gone") in found


def test_the_same_walk_serves_a_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    found = list(scan_folder(str(tmp_path), []))
    assert found == [Observed("runs/r1", ObservedKind.DIRECTORY, b"d", 0, 0, None), Plan(0, 0)]
    with pytest.raises(StoreUnusable):
        list(scan_folder(str(tmp_path / "nowhere"), []))


def test_odd_names_travel_unharmed(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/runs/\xff \n$(x)'\""
    os.makedirs(odd)
    (observed, _) = scan_folder(str(tmp_path), [])
    assert isinstance(observed, Observed)
    assert os.fsencode(observed.path) == b"runs/\xff \n$(x)'\""
