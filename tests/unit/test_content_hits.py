"""A read whose blocks are here needs nothing that others may hold."""

from __future__ import annotations

import threading
from pathlib import Path

from runicornfs.content.blocks import BLOCK
from tests.fake_transfers import Caches, FakeTransfers, content_of

FILE = content_of(4 * BLOCK)


def test_a_hit_waits_for_no_lock(tmp_path: Path) -> None:
    server = FakeTransfers(tmp_path / "server")
    identity = server.add("a/b.bin", FILE)
    with Caches(tmp_path / "cache", server) as caches:
        cache = caches.open()
        reader = cache.open(identity)
        assert reader.read(0, len(FILE)) == FILE
        seen: list[bytes] = []
        (entry,) = cache._table.entries()
        with cache._table._lock, entry.condition, cache._records._lock, cache._room._lock:
            thread = threading.Thread(target=lambda: seen.append(reader.read(BLOCK, 100)), daemon=True)
            thread.start()
            thread.join(10)
        assert seen == [FILE[BLOCK : BLOCK + 100]]
        reader.close()


def test_a_hit_asks_the_server_for_nothing(tmp_path: Path) -> None:
    server = FakeTransfers(tmp_path / "server")
    identity = server.add("a/b.bin", FILE)
    with Caches(tmp_path / "cache", server) as caches:
        reader = caches.open().open(identity)
        assert reader.read(0, len(FILE)) == FILE
        fetched = list(server.asked)
        for block in reversed(range(4)):
            assert reader.read(block * BLOCK, BLOCK) == FILE[block * BLOCK :][:BLOCK]
        assert server.asked == fetched
        reader.close()
