"""Whenever somebody wants the program to end, it ends, and leaves no mount and no process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runicornfs.demo.sshd import PrivateSshd
from tests.conftest import MakeRelay
from tests.integration.test_connecting import CTRL_C, Attempt
from tests.mounts import PATIENCE_S, source_of
from tests.terminals import on_terminal
from tests.waiting import wait_until


@pytest.fixture
def attempt(tmp_path: Path, sshd: PrivateSshd, sample_store: Path) -> Attempt:
    return Attempt(tmp_path, sshd, sample_store)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.promise("E1")
def test_a_signal_at_any_moment_ends_it(attempt: Attempt, seed: int) -> None:
    """A signal once struck while a lock was held, and the daemon hung. The moments are random, the seeds are not."""
    command = attempt.command(attempt.source(), *attempt.with_key(), *attempt.with_known_hosts())
    with subprocess.Popen(
        command, env=attempt.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(0.4 + random.Random(seed).random())
        process.send_signal(random.Random(seed).choice([signal.SIGTERM, signal.SIGHUP]))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert "Error" not in said
    assert process.returncode in (0, -signal.SIGTERM, -signal.SIGHUP), said
    assert not os.path.ismount(attempt.folder / "mount")


@pytest.mark.promise("A6")
def test_ctrl_c_does_not_wait_for_a_server_that_is_silent(attempt: Attempt, relay: MakeRelay) -> None:
    line = relay(attempt.sshd)
    line.stall()
    source = source_of(attempt.sshd, attempt.store, line.port)
    with subprocess.Popen(
        attempt.command(source, *attempt.with_key(), *attempt.with_known_hosts()),
        env=attempt.environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: line.stats().connections, "the attempt to connect")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=9)  # the time-out of connecting is 10 seconds
    assert (process.returncode, said) == (0, "")
    line.resume()


def test_ctrl_c_answers_the_question_about_a_host_key(attempt: Attempt) -> None:
    options = [*attempt.with_key(), "--known-hosts", str(attempt.folder / "asked")]
    with on_terminal(attempt.command(attempt.source(), *options), attempt.environment()) as terminal:
        terminal.read_until(b"[y/N]")
        terminal.type(CTRL_C)
        assert terminal.wait() == 1
    assert not (attempt.folder / "asked").exists()
