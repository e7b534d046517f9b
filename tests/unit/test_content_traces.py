"""What programs that load models and data sets cost in bytes and round trips: recorded reads, on a line of arithmetic.

Round trips are the times at which a program waited for what had not been asked for until then. Their number may fall,
and so may the bytes: then these tables are to be made stricter.
"""

from __future__ import annotations

import pytest

from runicornfs.content.blocks import BLOCK
from tests.formats import PROGRAMS
from tests.replay import Outcome, Trace, replay

MIB = 1 << 20
# Round trip in seconds and bytes a second: a slow line, a fast one that is far away, one that is next door. On the
# latter two the window that the line needs is 64 and 3 MiB, and everything that is asked for ahead comes.
SLOW = (0.05, 12.5e6)
FAR = (0.05, 1e9)
NEAR = (0.0003, 500e6)

# Programs that read all of a file, and how often they have to wait for what could not be foreseen.
WHOLE = {
    "cat": 1,
    "backward": 5,
    "torch-load": 2,  # the end of the archive, then the rest
    "torch-mmap-all": 8,  # 64 headers, at equal distances
    "safetensors-load": 10,
    "safetensors-torch-sum": 10,
    "parquet-all": 20,  # of many threads
    "hdf5-all": 12,  # the nodes of a tree, spread over the file
    "numpy-load": 1,
    "numpy-mmap-all": 1,
    "numpy-mmap-threads": 12,
}
# Programs that read a part, and the same of them.
PARTS = {
    "safetensors-one": 4,
    "safetensors-torch-one": 3,
    "safetensors-slice": 3,
    "safetensors-half": 100,
    "parquet-column": 3,
    "parquet-column-mmap": 3,
    "hdf5-one": 5,
    "hdf5-chunked-one": 6,
    "zip-member": 3,
    "numpy-mmap-part": 3,
}
# Programs that touch many places of less than a block: blocks are what it costs. As much as this, in MiB.
SCATTERED = {
    "strided": (6, 8.5),
    "random": (60, 10),
    "torch-mmap-one": (10, 10.5),  # 64 headers of 8 KiB
    "safetensors-torch-load": (6, 25),  # 64 beginnings of 256 KiB
    "parquet-column-groups": (10, 4),  # 8 pieces of 128 KiB
    "numpy-mmap-rows": (62, 17),  # 64 rows of 4 KiB, for each of which the kernel asks for 128
}


def test_every_program_has_its_trace_and_its_bar() -> None:
    assert {program.name for program in PROGRAMS} == {*WHOLE, *PARTS, *SCATTERED}


def distinct_blocks(trace: Trace) -> int:
    """What cannot be had for less."""
    touched = {
        block for read in trace.reads for block in range(read.offset // BLOCK, -(-(read.offset + read.size) // BLOCK))
    }
    return len(touched)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_load_takes_little_longer_than_its_bytes(name: str) -> None:
    trace = Trace.load(name)
    outcome = replay(trace, *SLOW)
    assert outcome.bytes_fetched <= trace.size
    assert outcome.round_trips <= WHOLE[name]
    assert outcome.seconds <= 1.15 * (SLOW[0] + trace.size / SLOW[1])


@pytest.mark.parametrize("line", [SLOW, FAR, NEAR], ids=["slow", "far", "near"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_fetches_half_as_much_again_at_most(name: str, line: tuple[float, float]) -> None:
    trace = Trace.load(name)
    assert trace.needs is not None
    outcome = replay(trace, *line)
    assert outcome.bytes_fetched <= 1.5 * trace.needs + MIB
    assert outcome.round_trips <= PARTS[name]


@pytest.mark.parametrize("name", SCATTERED)
def test_scattered_reads_cost_the_blocks_they_touch_and_half_as_many(name: str) -> None:
    trace = Trace.load(name)
    outcome = replay(trace, *FAR)
    assert outcome.bytes_fetched <= 1.5 * distinct_blocks(trace) * BLOCK
    assert (outcome.round_trips, outcome.bytes_fetched / MIB) <= SCATTERED[name]
    assert outcome.bytes_fetched / MIB <= SCATTERED[name][1]


def test_replaying_comes_out_the_same_each_time() -> None:
    trace = Trace.load("numpy-mmap-threads")
    outcomes: set[Outcome] = {replay(trace, *SLOW) for _ in range(3)}
    assert len(outcomes) == 1


@pytest.mark.parametrize("name", [*WHOLE, *PARTS, *SCATTERED])
def test_a_trace_is_written_as_it_was_read(name: str) -> None:
    trace = Trace.load(name)
    head, *lines = trace.text().splitlines()
    assert head.split()[0] == str(trace.size)
    assert len(lines) == len(trace.reads)
