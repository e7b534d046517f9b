"""Requests of the kernel, without a kernel."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from runicornfs.mount import protocol
from runicornfs.mount.fuse import Callbacks, Kernel
from runicornfs.mount.operations import Entry
from runicornfs.mount.options import MountOptions
from runicornfs.mount.protocol import Attributes, Opcode

PLUS = struct.calcsize("=QQQQII") + protocol.ATTRIBUTES.size


class Folder:
    """An open folder of many entries; counts those that are made."""

    def __init__(self, entries: int) -> None:
        self.made = 0
        self.told_names: list[bytes] = []
        self._names = [b"%05d" % number for number in range(entries)]

    def read_folder(self, number: int, handle: int, offset: int) -> Iterator[tuple[bytes, Entry]]:
        for position, name in enumerate(self._names[offset:], offset + 2):
            self.made += 1
            yield name, Entry(position, Attributes(position, 0o100444, 1, 0, -1), True)

    def told(self, handle: int, entries: list[tuple[bytes, int]]) -> None:
        self.told_names += [name for name, _ in entries]


def callbacks(operations: object) -> Callbacks:
    return Callbacks(operations, MountOptions(), Kernel(), lambda: None)  # type: ignore[arg-type]


def message(body: bytes) -> bytes:
    return bytes(protocol.IN_HEADER.size) + body


def names_in(answer: bytes) -> Iterator[tuple[bytes, int]]:
    """Names and the offsets behind them, of a readdirplus."""
    while answer:
        _, following, length, _ = protocol.DIRENT.unpack_from(answer, PLUS)
        start = PLUS + protocol.DIRENT.size
        yield answer[start : start + length], following
        answer = answer[start + length + -length % 8 :]


def test_a_folder_of_many_entries_is_made_once_however_many_calls_it_takes() -> None:
    folder = Folder(1000)
    answer = callbacks(folder)
    seen: list[bytes] = []
    while True:
        body = protocol.READ_IN.pack(1, len(seen), 4096)
        part = answer.readdirplus(1, message(body), 0)
        assert len(part) <= 4096
        if not part:
            break
        for name, following in names_in(part):
            seen.append(name)
            assert following == len(seen)
    assert seen == [b"%05d" % number for number in range(1000)]
    assert folder.told_names == seen
    assert folder.made <= 1000 + 1000 // 20


def test_an_operation_that_a_read_only_file_system_has_not_is_refused_for_good() -> None:
    answer = callbacks(object())
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        answer.answer(Opcode.GETXATTR, 1, b"", 0)


def test_what_nobody_expected_is_an_input_output_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer = callbacks(object())
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        answer.answer(Opcode.STATFS, 1, b"", 0)
    assert "statfs failed unexpectedly" in caplog.text


def test_times_before_1970_are_told() -> None:
    told = protocol.attributes(Attributes(5, 0o100444, 1, 0, -1), 0, 0)
    assert struct.unpack_from("=q", told, 32) == (-1,)
    assert struct.unpack_from("=I", told, 52) == (999_999_999,)
