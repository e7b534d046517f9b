"""What an edit changes: from an artifact's records as they are to the one file as it will be. Pure.

It travels to the server with `runicornfs.manage.edit_program`, and local mode and accounts that have only SFTP use it
here: so the records are changed by one code everywhere. It knows the standard library and nothing else, and runs on
Python 3.8. Fields that it does not know are kept as they are; JSON is written as the SDK writes it.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False  # typing.TYPE_CHECKING without loading typing on the server
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    Record = dict[str, Any]

# What can be asked for. An edit is a dictionary, as it also travels: `action`, `version` (0 where it concerns none),
# and `alias` or `tags` where the action takes them.
DELETE, DELETE_FOR_GOOD, RESTORE = "delete", "delete_for_good", "restore"
SET_ALIAS, REMOVE_ALIAS, ADD_TAGS, REMOVE_TAGS = "set_alias", "remove_alias", "add_tags", "remove_tags"

INDEX = "versions.json"
LATEST = "latest"
# Whatever we put beside the store's own files begins so, for as long as it is there.
OURS = ".runicornfs-"
ALIAS = re.compile(r"[A-Za-z0-9._-]{1,128}")
VERSION = re.compile(r"v[0-9]+")
# Names beside the versions that mean something else.
TAKEN = frozenset((".", "..", INDEX, ".lock"))
# A tag is a word or two; more of them than this would make a list of every version slow.
TAG_LENGTH = 256
TAGS_LIMIT = 256
# As `runicornfs.store.fields.VALUES_LIMIT`: a hostile file of some megabytes could otherwise ask for gigabytes.
VALUES_LIMIT = 10_000_000
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class EditRefused(Exception):
    """The edit is not made. `code` is the stable word of an error of `runicornfs.errors`."""

    def __init__(self, code: str, message: str) -> None:
        Exception.__init__(self, code, message)
        self.code = code
        self.message = message


class State:
    """An artifact as it is. `index` and `metadata` (of the version concerned) are the contents of the files, None where
    they cannot be read; `folders` are the versions that have a folder, `marked` those in the recycle bin."""

    __slots__ = ("folders", "index", "marked", "metadata")

    def __init__(
        self, index: bytes | None, metadata: bytes | None, folders: Collection[int], marked: Collection[int]
    ) -> None:
        self.index = index
        self.metadata = metadata
        self.folders = folders
        self.marked = marked


class Plan:
    """`path`, relative to the artifact's folder, gets `content`, or goes where that is None; without a path all is as
    it was asked for. With `removes_folder` the version's folder goes after that."""

    __slots__ = ("content", "path", "removes_folder")

    def __init__(self, path: str | None, content: bytes | None = None, removes_folder: bool = False) -> None:
        self.path = path
        self.content = content
        self.removes_folder = removes_folder


def plan(edit: Record, name: str, state: State, now: float) -> Plan:
    """What an edit of the artifact `name` does at the time `now` (Unix seconds). Raises EditRefused."""
    action, version = edit["action"], edit["version"]
    if action == DELETE:
        return _delete(name, version, state, now)
    if action == DELETE_FOR_GOOD:
        return _delete_for_good(version, state, now)
    if action == RESTORE:
        return _restore(version, state)
    if action == SET_ALIAS:
        return _set_alias(edit["alias"], version, state, now)
    if action == REMOVE_ALIAS:
        return _remove_alias(edit["alias"], state, now)
    if action in (ADD_TAGS, REMOVE_TAGS):
        return _change_tags(action, edit["tags"], version, state, now)
    raise EditRefused("invalid_input", f"there is no edit {action!r}")


def check_alias(alias: str) -> None:
    """Raises EditRefused for what cannot become an alias: each is a link beside the versions, too."""
    if ALIAS.fullmatch(alias) is None:
        raise EditRefused(
            "invalid_input", f"an alias has 1 to 128 letters (a to z), digits, '.', '_' or '-': {alias!r:.200} has not"
        )
    if alias in TAKEN or VERSION.fullmatch(alias) or alias.startswith(OURS):
        raise EditRefused("invalid_input", f"{alias!r} cannot be an alias: the name means something else")


def check_tags(tags: list[str]) -> None:
    """Raises EditRefused for what cannot become a tag."""
    if not tags:
        raise EditRefused("invalid_input", "no tag was named")
    for tag in tags:
        if not 1 <= len(tag) <= TAG_LENGTH or CONTROL.search(tag) or not _is_unicode(tag):
            raise EditRefused(
                "invalid_input", f"a tag has 1 to {TAG_LENGTH} characters on one line: {tag!r:.100} has not"
            )


def encoded(record: Record, indent: int | None = 2) -> bytes:
    """JSON as the SDK writes it; with escapes where it has halves of surrogate pairs, which UTF-8 cannot say."""
    try:
        return json.dumps(record, indent=indent, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(record, indent=indent).encode("ascii")
    except RecursionError:  # Python 3.12 and later reads more levels than it writes
        raise EditRefused("malformed_record", "its JSON is nested too deep: it is left as it is") from None


def _delete(name: str, version: int, state: State, now: float) -> Plan:
    _check_there(version, state)
    if version in state.marked:
        return Plan(None)
    marker = {"deleted_at": now, "deleted_by": "user", "version": version, "artifact_name": name}
    return Plan(f"v{version}/.deleted", encoded(marker, indent=None))


def _restore(version: int, state: State) -> Plan:
    _check_there(version, state)
    if version not in state.marked:
        raise EditRefused("conflict", f"v{version} is not deleted")
    return Plan(f"v{version}/.deleted")


def _delete_for_good(version: int, state: State, now: float) -> Plan:
    """The entry stays in the list, so that no number is used twice: the SDK counts the entries."""
    index = _index(state)
    entries = _entries(index, version)
    there = version in state.folders
    if not entries:
        raise EditRefused("not_found", f"there is no v{version}")
    if all(entry.get("status") == "deleted" for entry in entries):
        if not there:
            raise EditRefused("not_found", f"v{version} was deleted for good already")
        return Plan(None, removes_folder=True)  # somebody was cut off in between
    for entry in entries:
        entry["status"] = "deleted"
    aliases = _aliases(index)
    for alias in [alias for alias, target in aliases.items() if target == version]:
        newest = _newest(index, state) if alias == LATEST else None
        if newest is None:
            del aliases[alias]
        else:
            aliases[alias] = newest
    index["updated_at"] = now
    return Plan(INDEX, encoded(index), removes_folder=there)


def _set_alias(alias: str, version: int, state: State, now: float) -> Plan:
    check_alias(alias)
    index = _index(state)
    _check_there(version, state)
    _check_usable(version, state)
    if any(entry.get("status") not in (None, "ready") for entry in _entries(index, version)):
        raise EditRefused("conflict", f"v{version} is not finished")
    aliases = _aliases(index)
    if aliases.get(alias) == version:
        return Plan(None)
    aliases[alias] = version
    index["updated_at"] = now
    return Plan(INDEX, encoded(index))


def _remove_alias(alias: str, state: State, now: float) -> Plan:
    if alias == LATEST:
        raise EditRefused("invalid_input", "latest cannot be removed: every version that is saved takes it")
    index = _index(state)
    aliases = _aliases(index)
    if alias not in aliases:
        raise EditRefused("not_found", f"there is no alias {alias!r:.200}")
    del aliases[alias]
    index["updated_at"] = now
    return Plan(INDEX, encoded(index))


def _change_tags(action: str, tags: list[str], version: int, state: State, now: float) -> Plan:
    _check_there(version, state)
    _check_usable(version, state)
    path = f"v{version}/metadata.json"
    metadata = _parsed(path, state.metadata)
    old = metadata.get("tags")
    if old is None:
        old = []
    if not isinstance(old, list):
        raise EditRefused("malformed_record", f"the tags in {path} are not a list")
    if action == ADD_TAGS:
        check_tags(tags)
        new = old + [tag for tag in dict.fromkeys(tags) if tag not in old]
        if len(new) > TAGS_LIMIT:
            raise EditRefused("conflict", f"v{version} would have more than {TAGS_LIMIT} tags")
    else:
        missing = [tag for tag in tags if tag not in old]
        if missing:
            raise EditRefused("not_found", f"v{version} has no tag {missing[0]!r:.200}")
        new = [tag for tag in old if tag not in tags]
    if new == old:
        return Plan(None)
    metadata["tags"] = new
    metadata["updated_at"] = now
    return Plan(path, encoded(metadata))


def _check_there(version: int, state: State) -> None:
    """Where the index cannot be read the folders say which versions there are."""
    if state.index is not None:
        entries = _entries(_index(state), version)
        if not entries:
            raise EditRefused("not_found", f"there is no v{version}")
        if any(entry.get("status") == "deleted" for entry in entries):
            raise EditRefused("not_found", f"v{version} was deleted for good")
    if version not in state.folders:
        raise EditRefused("not_found", f"there is no folder v{version}")


def _check_usable(version: int, state: State) -> None:
    if version in state.marked:
        raise EditRefused("conflict", f"v{version} is deleted: restore it first")


def _newest(index: Record, state: State) -> int | None:
    """The newest version left that is not deleted."""
    left = [
        entry["version"]
        for entry in index["versions"]
        if _number(entry) in state.folders
        and _number(entry) not in state.marked
        and entry.get("status") in (None, "ready")
    ]
    return max(left, default=None)


def _index(state: State) -> Record:
    index = _parsed(INDEX, state.index)
    if not isinstance(index.get("versions"), list):
        raise EditRefused("malformed_record", f"{INDEX} has no list of versions")
    return index


def _entries(index: Record, version: int) -> list[Record]:
    return [entry for entry in index["versions"] if _number(entry) == version]


def _number(entry: object) -> int | None:
    number = entry.get("version") if isinstance(entry, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _aliases(index: Record) -> Record:
    aliases = index.setdefault("aliases", {})
    if not isinstance(aliases, dict):
        raise EditRefused("malformed_record", f"the aliases in {INDEX} are not an object")
    return aliases


def _parsed(path: str, content: bytes | None) -> Record:
    if content is None:
        raise EditRefused("access_denied", f"there is no {path} that this account can read")
    if len(content) > VALUES_LIMIT and sum(map(content.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise EditRefused("malformed_record", f"{path} has more than {VALUES_LIMIT} values: it is left as it is")
    try:
        record = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise EditRefused("malformed_record", f"{path} is no JSON object: it is left as it is")
    return record


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
