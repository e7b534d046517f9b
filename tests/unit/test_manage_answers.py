"""What the program on the server answers to an edit is not trusted, and never waited for without end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from runicornfs.errors import Conflict, ConnectionLost, ProtocolError, RunicornFSError, ServerError
from runicornfs.manage import edit_program, editors
from runicornfs.remote import helper_program, walk
from runicornfs.remote.events import Event, Gone
from runicornfs.remote.helper import Frames
from runicornfs.store import edits
from runicornfs.store.observed import Observed, ObservedKind


def answer(*frames: tuple[int, list[Any]]) -> Frames:
    output = io.BytesIO()
    writer = helper_program.FrameWriter(output)
    for kind, header in frames:
        writer.write(kind, header)
    writer.close()
    return Frames(io.BytesIO(output.getvalue()))


def refused(*header: Any) -> RunicornFSError:
    with pytest.raises(RunicornFSError) as error:
        editors._notes(answer((edit_program.REFUSED, list(header))), patient=False)
    return error.value


def test_a_refusal_becomes_the_error_of_that_name() -> None:
    error = refused("conflict", "v3 is not deleted")
    assert (type(error), str(error)) == (Conflict, "v3 is not deleted")
    assert type(refused("unheard_of", "what")) is ServerError


def test_what_a_server_says_is_shown_short_and_on_one_line() -> None:
    message = str(refused("conflict", "\x1b[2J\n" + "x" * 100_000))
    assert message.isprintable()
    assert len(message) < 1000
    (note,), _ = editors._notes(answer((edit_program.DONE, ["a\nb" + "x" * 10_000])), patient=False)
    assert note.isprintable()


@pytest.mark.parametrize("frame", [(walk.FILE, []), (edit_program.REFUSED, []), (helper_program.END, []), (99, [1])])
def test_an_answer_that_makes_no_sense_is_a_protocol_error(frame: tuple[int, list[Any]]) -> None:
    with pytest.raises(ProtocolError):
        editors._notes(answer(frame), patient=False)


def test_what_is_left_to_sweep_is_said_before_the_end() -> None:
    left: tuple[int, list[Any]] = (edit_program.LEFT, [])
    assert editors._notes(answer(left, (edit_program.DONE, ["note"])), patient=False) == (["note"], True)
    with pytest.raises(ProtocolError):
        editors._notes(answer(left, left, (edit_program.DONE, [])), patient=False)


def test_only_the_removal_of_files_may_take_its_time() -> None:
    frames: list[tuple[int, list[Any]]] = [(walk.ALIVE, []), (walk.ALIVE, []), (edit_program.DONE, [])]
    assert editors._notes(answer(*frames), patient=True) == ([], False)
    with pytest.raises(ProtocolError):
        editors._notes(answer(*frames), patient=False)


def test_an_edit_whose_outcome_cannot_be_read_was_made_all_the_same() -> None:
    def broken() -> Iterator[Event]:
        yield Gone("artifacts/model/net/v1/metadata.json")
        raise ConnectionLost("the line broke")

    assert editors._gathered(broken()) is None


def test_records_without_end_are_not_kept_in_memory() -> None:
    def endless() -> Iterator[Event]:
        content = bytes(64 << 20)
        while True:
            yield Observed("artifacts/model/net/v1/x", ObservedKind.DOCUMENT, b"1", len(content), 0, content)

    assert editors._gathered(endless()) is None


def test_the_walk_leaves_out_what_edits_put_there() -> None:
    assert walk.OURS.decode() == edits.OURS
    for name in (edit_program.TEMPORARY, f"{edits.OURS}sftp.lock"):
        assert walk.file_in(walk.VERSIONS, name.encode()) is None
