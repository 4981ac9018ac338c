"""Files of rows, read strictly: each row comes with the place where it stands.

A row is a mapping from field to JSON value. Text stays text, whatever it looks like. Whatever is
not clean (encoding, syntax, duplicate keys, NaN, columns) is refused with ``file:line: reason``,
where the line is the physical one an editor shows; in Parquet and datasets folders it is the
row's number. What the fields mean is up to ``rlhf.data.readers``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rlhf.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
"""Longest line of a text file; longer ones are not rows but accidents."""

JSON_COLUMNS = frozenset({"completions", "flags", "messages", "meta", "ranks", "strengths"})
"""CSV columns whose cells are JSON; every other cell is text."""

_FLAGS = frozenset({"others_worse", "simulated"})
_OPTIONAL = frozenset({"action", "annotator", "id", "task"})
_SUFFIXES = ".jsonl, .json (one object per line), .csv, .parquet or a datasets folder"
_MAGIC = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
    b"PK\x03\x04": "a zip archive or spreadsheet; unpack it or save it as .csv",
    b"SQLite format 3": "an SQLite database, not a data file",
}
_WIDE = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file and where it stands."""

    place: str
    """``file:line``, to head an error message."""
    fields: Mapping[str, Any]


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of a JSONL, CSV or Parquet file or a saved ``datasets`` folder.

    Raises:
        DataError: At the first thing that is not clean, or if there is no row at all.
    """
    path = Path(path)
    if path.is_dir():
        rows = _read_datasets_folder(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file")
    elif path.suffix in _READERS:
        rows = _READERS[path.suffix](path)
    else:
        raise DataError(f"{path}: can't read files named {path.suffix!r}; known: {_SUFFIXES}")
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: has no rows")


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _text_lines(path):
        if line.strip(" \t\r\n"):
            place = f"{path}:{number}"
            yield Row(place, _json_object(line, place))


def _json_object(line: str, place: str) -> dict[str, Any]:
    value = parse_json(line, place)
    if isinstance(value, list):
        raise DataError(f"{place}: a JSON list; write one object per line (JSONL)")
    if not isinstance(value, dict):
        raise DataError(f"{place}: {_kind(value)} instead of an object {{...}}")
    return value


def parse_json(text: str, place: str) -> Any:
    """Parse one JSON value strictly: no NaN, no duplicate keys, nothing after it."""
    try:
        text = text.rstrip("\r\n")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON at column {error.pos + 1} ({error.msg}); each line must hold "
            "one whole object"
        ) from None
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    except RecursionError:
        raise DataError(f"{place}: JSON nested too deeply") from None
    except ValueError:
        raise DataError(f"{place}: holds a number too long to be one") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DataError(f"{key!r} is given twice; keep one")
            seen.add(key)
    return mapping


def _no_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is not a JSON number; use null or leave the field out")


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (physical line number from 1, text with its line end), UTF-8 checked, BOM dropped."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    with file:
        _check_magic(path, file.read(16))
        file.seek(0)
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            place = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{place}: longer than {MAX_LINE_BYTES >> 20} MiB; split it")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in line:
                raise DataError(f"{place}: holds NUL bytes; save the file as plain UTF-8 text")
            yield number, _decode(line, place)


def _check_magic(path: Path, head: bytes) -> None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}")
    for mark, name in _WIDE.items():
        if head.startswith(mark):
            raise DataError(f"{path}:1: is {name}; save it as UTF-8")
    if len(head) >= 4 and (head[1:4:2] == b"\0\0" or head[0:4:2] == b"\0\0"):
        raise DataError(f"{path}:1: looks like UTF-16 without a mark; save it as UTF-8")


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8 "
            "(Latin-1 or Windows-1252?); save the file as UTF-8"
        ) from None


def _read_csv(path: Path) -> Iterator[Row]:
    rows = _csv_rows(path)
    place, header = next(rows, ("", []))
    if not header:
        return
    for name in header:
        if not name.strip():
            raise DataError(f"{place}: a column has no name; name it or remove it")
        if header.count(name) > 1:
            raise DataError(f"{place}: two columns are named {name!r}; keep one")
    for place, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{place}: {len(cells)} cells, but the header names {len(header)} columns; quote "
                "cells that hold commas or line breaks"
            )
        fields = {name: _cell(name, cell, place) for name, cell in zip(header, cells, strict=True)}
        yield Row(place, {name: value for name, value in fields.items() if value is not _ABSENT})


_ABSENT = object()


def _cell(name: str, cell: str, place: str) -> object:
    """Read a cell: JSON where the column is structured, else the text as it stands."""
    if not cell and (name in _OPTIONAL or name in _FLAGS or name in JSON_COLUMNS):
        return _ABSENT
    if name in JSON_COLUMNS or name in _FLAGS:
        return parse_json(cell.lower() if name in _FLAGS else cell, f"{place}: {name!r}")
    return cell


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (place of the first line of the row, cells); blank lines are skipped."""
    reader = csv.reader((line for _, line in _text_lines(path)), strict=True)
    limit = csv.field_size_limit()
    while True:
        first = reader.line_num + 1
        csv.field_size_limit(MAX_LINE_BYTES)  # a setting of the whole process: give it back
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}:{first}: not valid CSV ({error})") from None
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        if cells:
            yield f"{path}:{first}", cells


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]  # ships no types
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: two columns have one name; keep one")
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", _without_nulls(fields))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable Parquet file ({reason})") from None


def _read_datasets_folder(path: Path) -> Iterator[Row]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(item.name for item in path.iterdir() if item.is_dir())
        raise DataError(f"{path}: holds several splits; give one of {', '.join(splits)} in it")
    if not (path / "state.json").exists():
        raise DataError(f"{path}: is a folder, but not one of datasets' save_to_disk")
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes the library raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable datasets folder ({reason})") from error
    for number, fields in enumerate(dataset, start=1):
        yield Row(f"{path}: row {number}", _without_nulls(fields))


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Drop columns and struct members that are null: tables have no other way to say absent."""
    return {
        name: [_drop(item) for item in value] if isinstance(value, list) else _drop(value)
        for name, value in fields.items()
        if value is not None
    }


def _drop(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if item is not None}
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


_READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
