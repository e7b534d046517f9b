"""Edits where the store lies, in all three ways: the same outcome, seen at once, and nothing for a sync to correct."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from runicornfs.demo.samplestore import StoreWriter
from runicornfs.demo.sshd import PrivateSshd
from runicornfs.errors import AccessDenied, Conflict, InvalidInput, NotFound, RunicornFSError, Unreachable
from runicornfs.manage import sftp_edits
from runicornfs.manage.editors import ServerEditor
from runicornfs.remote.sftp import SftpSession
from runicornfs.store import edits
from tests.managing import SFTP_ONLY, WAYS, Managed, managed
from tests.remotes import server_at
from tests.stores import file_names
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def sftp_only() -> Iterator[PrivateSshd]:
    with PrivateSshd(config_lines=SFTP_ONLY) as server:
        yield server


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server_for(sshd: PrivateSshd, sftp_only: PrivateSshd) -> Callable[[str], PrivateSshd]:
    return lambda way: sftp_only if way == "sftp" else sshd


@pytest.fixture
def store(store_writer: StoreWriter) -> StoreWriter:
    for number in range(3):
        store_writer.add_version("model", "net", {"w.bin": b"%d" % number, "more/deep/x": b"x"}, tags=["old"])
    return store_writer


@pytest.fixture
def net(way: str, store: StoreWriter, tmp_path: Path, server_for: Callable[[str], PrivateSshd]) -> Iterator[Managed]:
    with managed(way, tmp_path / "catalog", store.root, server_for(way)) as found:
        yield found


@pytest.mark.promise("W3")
def test_a_version_goes_and_comes_back(net: Managed, store: StoreWriter) -> None:
    net.edit(edits.DELETE, 3)
    assert net.versions() == [1, 2]
    assert net.aliases() == {}
    marker = json.loads((store.version_folder("model", "net", 3) / ".deleted").read_text())
    assert (marker["version"], marker["artifact_name"]) == (3, "net")
    net.edit(edits.DELETE, 3)
    net.edit(edits.RESTORE, 3)
    assert (net.versions(), net.aliases()) == ([1, 2, 3], {"latest": 3})
    with pytest.raises(Conflict):
        net.edit(edits.RESTORE, 3)


@pytest.mark.promise("W3")
def test_a_permanent_delete_removes_files_and_keeps_the_number(net: Managed, store: StoreWriter) -> None:
    (store.version_folder("model", "net", 3) / "files" / "link").symlink_to(store.version_folder("model", "net", 1))
    net.edit(edits.SET_ALIAS, 3, alias="best")
    assert net.edit(edits.DELETE_FOR_GOOD, 3) == []
    assert (net.versions(), net.aliases()) == ([1, 2], {"latest": 2})
    assert sorted(os.listdir(store.folder("model", "net"))) == [".lock", "v1", "v2", "versions.json"]
    assert (store.version_folder("model", "net", 1) / "files/w.bin").exists(), "links are not followed"
    with pytest.raises(NotFound):
        net.edit(edits.DELETE_FOR_GOOD, 3)
    assert store.add_version("model", "net", {"w.bin": b"new"}) == 4


def test_leftovers_of_a_crash_go_with_the_next_permanent_delete(net: Managed, store: StoreWriter) -> None:
    (store.folder("model", "net") / ".runicornfs-removed-v7-0123456789abcdef/files").mkdir(parents=True)
    net.edit(edits.DELETE_FOR_GOOD, 1)
    assert sorted(os.listdir(store.folder("model", "net"))) == [".lock", "v2", "v3", "versions.json"]


def test_leftovers_of_a_crash_go_with_the_next_edit_of_any_kind(net: Managed, store: StoreWriter) -> None:
    folder = store.folder("model", "net")
    (folder / ".runicornfs-removed-v7-0123456789abcdef/files").mkdir(parents=True)
    net.edit(edits.SET_ALIAS, 1, alias="best")
    wait_until(lambda: not list(folder.glob(".runicornfs-*")), "what was set aside to go")
    assert net.aliases() == {"latest": 3, "best": 1}


def test_what_a_killed_client_had_half_written_goes_with_the_next_edit_over_sftp(
    sftp_only: PrivateSshd, store: StoreWriter, tmp_path: Path
) -> None:
    folder = store.folder("model", "net")
    (folder / ".runicornfs-0123456789abcdef.tmp").write_text("half")
    with managed("sftp", tmp_path / "catalog", store.root, sftp_only) as net:
        net.edit(edits.ADD_TAGS, 1, tags=["good"])
    assert not list(folder.rglob(".runicornfs-*"))
    assert json.loads((folder / "v1/metadata.json").read_text())["tags"] == ["old", "good"]


def test_an_alias_is_set_moved_and_removed(net: Managed) -> None:
    net.edit(edits.SET_ALIAS, 1, alias="best")
    assert net.aliases() == {"latest": 3, "best": 1}
    net.edit(edits.SET_ALIAS, 2, alias="best")
    assert net.aliases() == {"latest": 3, "best": 2}
    net.edit(edits.REMOVE_ALIAS, alias="best")
    assert net.aliases() == {"latest": 3}
    for refused, alias in ((InvalidInput, "v9"), (InvalidInput, "a b")):
        with pytest.raises(refused):
            net.edit(edits.SET_ALIAS, 1, alias=alias)
    with pytest.raises(NotFound):
        net.edit(edits.REMOVE_ALIAS, alias="best")


def test_tags_are_added_and_removed(net: Managed) -> None:
    tags = ["'; rm -rf $HOME; '", "-x", "l'été \U0001f984", "a/b"]
    net.edit(edits.ADD_TAGS, 2, tags=tags)
    ref = net.catalog.artifacts.find("net")
    assert net.catalog.artifacts.metadata(ref, 2)["tags"] == ["old", *tags]
    net.edit(edits.REMOVE_TAGS, 2, tags=tags[:2])
    assert net.catalog.artifacts.metadata(ref, 2)["tags"] == ["old", *tags[2:]]


def test_the_index_keeps_its_mode(net: Managed, store: StoreWriter) -> None:
    index = store.folder("model", "net") / "versions.json"
    for mode in (0o600, 0o640):
        index.chmod(mode)
        net.edit(edits.SET_ALIAS, 1, alias=f"with-{mode:o}")
        assert stat.S_IMODE(index.stat().st_mode) == mode
    assert stat.S_IMODE((store.version_folder("model", "net", 1) / "metadata.json").stat().st_mode) == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_index_keeps_its_owner(net: Managed, store: StoreWriter) -> None:
    index = store.folder("model", "net") / "versions.json"
    os.chown(index, 1234, 2345)
    assert net.edit(edits.SET_ALIAS, 1, alias="best") == []
    assert (index.stat().st_uid, index.stat().st_gid) == (1234, 2345)


def test_a_sync_after_edits_finds_the_same(net: Managed, store: StoreWriter, tmp_path: Path) -> None:
    net.edit(edits.SET_ALIAS, 1, alias="best")
    net.edit(edits.DELETE, 2)
    net.edit(edits.DELETE_FOR_GOOD, 3)
    net.edit(edits.ADD_TAGS, 1, tags=["x"])
    before = (net.versions(), net.aliases(), net.catalog.problems(), net.catalog.generation)
    net.sync()
    assert (net.versions(), net.aliases(), net.catalog.problems()) == before[:3]
    with managed("local", tmp_path / "other", store.root) as other:
        assert (other.versions(), other.aliases(), other.catalog.problems()) == before[:3]


def test_an_edit_shows_what_an_sdk_has_saved_meanwhile(net: Managed, store: StoreWriter) -> None:
    store.add_version("model", "net", {"w.bin": b"new"})
    net.edit(edits.SET_ALIAS, 1, alias="best")
    assert (net.versions(), net.aliases()) == ([1, 2, 3, 4], {"latest": 4, "best": 1})


def test_a_version_that_has_vanished_is_not_found_and_nothing_is_written(net: Managed, store: StoreWriter) -> None:
    store.delete_permanently("model", "net", 3)
    with pytest.raises(NotFound):
        net.edit(edits.DELETE, 3)
    shutil.rmtree(store.folder("model", "net"))
    with pytest.raises(NotFound):
        net.edit(edits.DELETE, 2)
    assert net.versions() == [1, 2, 3], "lists change with a sync, not with a refusal"


def test_a_record_that_is_a_link_is_left_alone(net: Managed, store: StoreWriter, tmp_path: Path) -> None:
    index = store.folder("model", "net") / "versions.json"
    index.rename(tmp_path / "secret")
    index.symlink_to(tmp_path / "secret")
    before = (tmp_path / "secret").read_bytes()
    with pytest.raises(RunicornFSError):
        net.edit(edits.SET_ALIAS, 1, alias="best")
    assert (tmp_path / "secret").read_bytes() == before


odd_names = file_names().filter(lambda name: not name.startswith(".") and len(os.fsencode(name)) < 200)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.promise("W5")
def test_names_arrive_literally(
    way: str, server_for: Callable[[str], PrivateSshd], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")

    @settings(max_examples=8, suppress_health_check=list(HealthCheck), database=None)
    @given(odd_names)
    @example("'; touch pwned; '$(touch pwned)`touch pwned`\n\"\\")
    @example("-rf")
    @example("caf\udce9 \udcff")
    @example(" two  spaces ")
    @example("été 説明 \U0001f984 %2F")
    def arrives(name: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            store = StoreWriter(Path(temporary) / "it's the $store")
            (store.root).mkdir()
            made = store.folder("model", "made")
            store.add_version("model", "made", {"w.bin": b"1"})
            store.add_version("model", "made", {"w.bin": b"2"})
            if name != "made":
                os.rename(made, store.folder("model", name))
            with managed(way, Path(temporary) / "catalog", store.root, server_for(way)) as found:
                artifact = f"artifacts/model/{name}"
                found.edit(edits.SET_ALIAS, 1, artifact, alias="best")
                found.edit(edits.DELETE, 1, artifact)
                found.edit(edits.DELETE_FOR_GOOD, 2, artifact)
                assert found.versions(name) == []
            assert sorted(os.listdir(store.folder("model", name))) == [".lock", "v1", "versions.json"]
            assert store.index("model", name)["aliases"] == {"best": 1}
            assert not list(Path(temporary).rglob("pwned"))

    arrives()
    assert not Path("pwned").exists()


def test_a_server_that_is_away_leaves_everything_as_it_was(
    own_sshd: PrivateSshd, store: StoreWriter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with managed("program", tmp_path / "catalog", store.root, own_sshd) as net:
        own_sshd.stop()
        with pytest.raises(Unreachable):
            net.edit(edits.DELETE_FOR_GOOD, 3)
        assert net.versions() == [1, 2, 3]


def test_a_save_between_our_look_and_our_rename_is_not_lost_over_sftp(
    sftp_only: PrivateSshd, store: StoreWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = edits.plan
    saved: list[int] = []

    def interrupted(*arguments: object) -> edits.Plan:
        wanted = original(*arguments)  # type: ignore[arg-type]
        if not saved:
            saved.append(store.add_version("model", "net", {"w.bin": b"new"}))
        return wanted

    monkeypatch.setattr("runicornfs.manage.sftp_edits.plan", interrupted)
    with managed("sftp", tmp_path / "catalog", store.root, sftp_only) as net:
        net.edit(edits.SET_ALIAS, 1, alias="best")
        assert (net.versions(), net.aliases()) == ([1, 2, 3, 4], {"latest": 4, "best": 1})
    assert not list(store.folder("model", "net").glob(".runicornfs-*"))


def test_a_server_without_atomic_rename_is_refused_with_a_sentence(
    sftp_only: PrivateSshd, store: StoreWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SftpSession.start

    def without(session: SftpSession) -> None:
        start(session)
        session.extensions = frozenset()

    monkeypatch.setattr(SftpSession, "start", without)
    before = (store.folder("model", "net") / "versions.json").read_bytes()
    with managed("sftp", tmp_path / "catalog", store.root, sftp_only) as net:
        with pytest.raises(RunicornFSError, match="at once"):
            net.edit(edits.SET_ALIAS, 1, alias="best")
        net.edit(edits.DELETE, 1)
        assert net.versions() == [2, 3], "a new file needs no replacing"
    assert (store.folder("model", "net") / "versions.json").read_bytes() == before
    assert not list(store.folder("model", "net").glob(".runicornfs-*"))


def test_a_lock_that_a_lost_client_left_is_taken_away(
    sftp_only: PrivateSshd, store: StoreWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp_edits, "LOCK_WAIT_S", 0.05)
    (store.folder("model", "net") / sftp_edits.LOCK).touch()
    with managed("sftp", tmp_path / "catalog", store.root, sftp_only) as net:
        with pytest.raises(Conflict):
            net.edit(edits.SET_ALIAS, 1, alias="best")
        monkeypatch.setattr(sftp_edits, "STALE_S", 0.01)
        net.edit(edits.SET_ALIAS, 1, alias="best")
        assert net.aliases() == {"latest": 3, "best": 1}
    assert not list(store.folder("model", "net").glob(".runicornfs-*"))


def test_what_edits_put_beside_the_versions_is_never_shown(net: Managed, store: StoreWriter) -> None:
    (store.folder("model", "net") / f"{edits.OURS}edit.tmp").write_text("half")
    (store.folder("model", "net") / "notes.txt").touch()
    net.sync()
    names = [name for name, _ in net.catalog.children("artifacts/model/net")]
    assert names == [".lock", "latest", "notes.txt", "v1", "v2", "v3", "versions.json"]


def test_the_way_that_works_is_found_once(sftp_only: PrivateSshd, store: StoreWriter) -> None:
    with server_at(sftp_only, store.root) as server:
        editor = ServerEditor(server)
        for alias in ("a", "b"):
            editor.edit("artifacts/model/net", {"action": edits.SET_ALIAS, "version": 1, "alias": alias}, [])
        assert server.counters.execs == 1


def test_an_edit_by_the_program_is_one_command(sshd: PrivateSshd, store: StoreWriter) -> None:
    with server_at(sshd, store.root) as server:
        edit = {"action": edits.SET_ALIAS, "version": 1, "alias": "best"}
        done = ServerEditor(server).edit("artifacts/model/net", edit, [])
        assert server.counters.execs == 1
        assert done.events


@pytest.mark.parametrize("way", WAYS)
def test_a_store_that_may_only_be_read_says_so(
    way: str,
    store: StoreWriter,
    tmp_path: Path,
    server_for: Callable[[str], PrivateSshd],
    read_only: Callable[..., None],
) -> None:
    read_only(store.root)
    with managed(way, tmp_path / "catalog", store.root, server_for(way)) as net:
        for action, more in ((edits.DELETE, {}), (edits.SET_ALIAS, {"alias": "x"}), (edits.ADD_TAGS, {"tags": ["x"]})):
            with pytest.raises(AccessDenied, match="do not let this account"):
                net.edit(action, 3, **more)
        with pytest.raises(AccessDenied):
            net.edit(edits.DELETE_FOR_GOOD, 3)
        assert net.versions() == [1, 2, 3]


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Makes a folder one that may not be written to, also by root: chattr +i where that works."""
    with ExitStack() as stack:

        def protect(root: Path) -> None:
            def flag(sign: str) -> int:
                command = ["chattr", "-R", f"{sign}i", str(root)]
                return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode

            if shutil.which("chattr") is None or flag("+") != 0:
                pytest.skip("needs chattr +i, or an account that is not root")
            stack.callback(flag, "-")

        yield protect
