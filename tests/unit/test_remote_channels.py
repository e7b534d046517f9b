"""The pipe between paramiko's thread and ours behaves as paramiko's own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paramiko.buffered_pipe import PipeTimeout

from runicornfs.remote import channels
from runicornfs.remote.channels import ChunkPipe


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(1, 30)))
def test_what_is_fed_comes_out_in_order_and_in_pieces_of_the_size_asked_for(
    chunks: list[bytes], sizes: list[int]
) -> None:
    pipe = ChunkPipe()
    for chunk in chunks:
        pipe.feed(chunk)
    pipe.close()
    read = []
    for size in [*sizes, *[7] * 1000]:
        piece = pipe.read(size)
        assert len(piece) <= size
        if not piece:
            break
        read.append(piece)
    rest = pipe.empty()
    assert b"".join(read) + rest == b"".join(chunks)
    assert len(pipe) == 0


def test_a_read_without_data_times_out() -> None:
    pipe = ChunkPipe()
    with pytest.raises(PipeTimeout):
        pipe.read(1, 0.01)
    with pytest.raises(PipeTimeout):
        pipe.read(1, 0.0)


def test_a_waiting_read_is_woken_by_data_and_by_the_end() -> None:
    pipe = ChunkPipe()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend([pipe.read(10, 10), pipe.read(10, 10)]))
    reader.start()
    pipe.feed(b"abc")
    pipe.close()
    reader.join(10)
    assert read == [b"abc", b""]


def test_the_event_says_whether_a_read_would_wait() -> None:
    pipe, event = ChunkPipe(), threading.Event()
    pipe.set_event(event)
    assert not event.is_set()
    pipe.feed(b"ab")
    assert event.is_set()
    assert pipe.read_ready()
    pipe.read(1)
    assert event.is_set()
    pipe.read(1)
    assert not event.is_set()
    pipe.close()
    assert event.is_set()


def test_what_nobody_reads_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not keep to the window ends its channel, and that alone."""
    monkeypatch.setattr(channels, "MOST_WAITING", 100)
    pipe = ChunkPipe()
    for _ in range(100):
        pipe.feed(b"x" * 50)
    assert len(pipe) == 0
    assert pipe.read(10, 0.0) == b""
