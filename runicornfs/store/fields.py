"""How single fields and lists of the store's JSON are read: what is accepted, and what becomes a problem.

What these functions return can hurt nobody: numbers are in range, text can be encoded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from runicornfs.errors import MalformedRecord
from runicornfs.store.paths import shown

# Larger sizes and counts than this are nonsense, and would not survive additions in 64 bits.
NUMBER_LIMIT = 2**62
# Seconds since 1970 whose nanoseconds fit in 64 bits (until the year 2262).
TIME_LIMIT = 9.2e9
VERSION_LIMIT = 999_999_999  # as `version_of_folder`: nine digits
# Values in one document, which say how much memory it takes when it is read: 100 bytes each, some 200 where each is an
# object. A manifest of 256 MiB as the SDK writes it has seven million; a hostile one could have 130.
VALUES_LIMIT = 10_000_000
# So many lines tell the story of a broken list; a hostile one must not fill the memory with lines.
PROBLEM_LIMIT = 100

Parsed = TypeVar("Parsed")


class Problems:
    """Collects what is wrong with one document: PROBLEM_LIMIT lines, and a count of the rest."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = 0

    def add(self, line: str) -> None:
        if len(self._lines) < PROBLEM_LIMIT:
            self._lines.append(line)
        else:
            self._more += 1

    def lines(self) -> list[str]:
        return [*self._lines, f"and {self._more} problems more"] if self._more else list(self._lines)


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises MalformedRecord."""
    if len(data) > VALUES_LIMIT and sum(map(data.count, (b",", b"[", b"{"))) > VALUES_LIMIT:
        raise MalformedRecord(f"it has more than {VALUES_LIMIT} values")
    try:
        record = json.loads(data.decode())
    except UnicodeDecodeError:
        raise MalformedRecord("it is not UTF-8") from None
    except RecursionError:
        raise MalformedRecord("its JSON is nested too deep") from None
    except json.JSONDecodeError as error:
        raise MalformedRecord(f"it is not JSON: {error}") from None
    except ValueError:  # of int(), which refuses what would take it minutes
        raise MalformedRecord("it has a number of thousands of digits") from None
    if not isinstance(record, dict):
        raise MalformedRecord("it is not a JSON object")
    return record


def with_unicode_names(value: object) -> Any:
    """A JSON value in which every field's name can be encoded: halves of surrogate pairs become `?`, as in `text_of`.

    For what is not nested deeper than `check_depth` allows.
    """
    if isinstance(value, dict):
        return {text_of(name): with_unicode_names(inner) for name, inner in value.items()}
    return [with_unicode_names(inner) for inner in value] if isinstance(value, list) else value


def list_in(record: dict[str, Any], name: str) -> list[Any]:
    """The list that `record` must have under `name`, taken out of it. Raises MalformedRecord."""
    entries = record.pop(name, None)
    if not isinstance(entries, list):
        raise MalformedRecord(f"it has no list of {name}")
    return entries


def parse_entries(
    entries: list[Any], name: str, parse: Callable[[dict[str, Any]], Parsed], problems: Problems
) -> Iterator[Parsed]:
    """Yields what `parse` makes of each object of a list; a MalformedRecord of one entry becomes a problem.

    Empties the list on the way: of 100,000 entries, the JSON's dictionaries and the records are never in memory both.
    """
    entries.reverse()
    number = 0
    while entries:
        number += 1
        entry = entries.pop()
        try:
            if not isinstance(entry, dict):
                raise MalformedRecord("it is not an object")
            yield parse(entry)
        except MalformedRecord as error:
            problems.add(f"entry {number} of {name} is left out: {error}")


def optional(entry: dict[str, Any], name: str, convert: Callable[[object], Parsed | None]) -> Parsed | None:
    """None where the field is missing or null. Raises MalformedRecord where it is not what `convert` takes."""
    value = entry.get(name)
    if value is None:
        return None
    converted = convert(value)
    if converted is None:
        raise MalformedRecord(f"its {name} is {described(value)}")
    return converted


def required(entry: dict[str, Any], name: str, convert: Callable[[object], Parsed | None]) -> Parsed:
    """Raises MalformedRecord where the field is missing or not what `convert` takes."""
    converted = optional(entry, name, convert)
    if converted is None:
        raise MalformedRecord(f"it has no {name}")
    return converted


def text_of(value: object) -> str | None:
    """A string that every database and encoding takes: half a surrogate pair, which JSON can spell, becomes `?`."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def count_of(value: object) -> int | None:
    """A whole number from 0 to NUMBER_LIMIT, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_LIMIT else None


def version_of(value: object) -> int | None:
    """A version's number, else None."""
    number = count_of(value)
    return number if number is not None and 1 <= number <= VERSION_LIMIT else None


def time_of(value: object) -> float | None:
    """Seconds since 1970 in a range that nanoseconds can express, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if -TIME_LIMIT <= value <= TIME_LIMIT and not math.isnan(value) else None


def number_of(value: object) -> float | None:
    """A number that is finite as a float, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def check_depth(value: object, limit: int) -> None:
    """Raises MalformedRecord where lists and objects lie more than `limit` deep in each other."""
    level = [value]
    for _ in range(limit + 1):
        if not level:
            return
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise MalformedRecord("its JSON is nested too deep")


def nanoseconds_of(seconds: float) -> int:
    """A time of a record as file systems have it. What Python makes of it again (`st_mtime`) is the same number; the
    product of the whole would be off by up to 128 ns."""
    whole = math.floor(seconds)
    return whole * 10**9 + round((seconds - whole) * 1e9)


def described(value: object) -> str:
    """A JSON value in a message. Never the whole of a nested one, whose depth could exhaust the stack."""
    if isinstance(value, str):
        return shown(value)
    return str(value)[:50] if isinstance(value, (int, float)) else f"a {type(value).__name__}"
