"""From the bytes of a table, Parquet, CSV or JSON, to columns of names and of numbers."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from distcorr.errors import MISSING, DistcorrError

Column: TypeAlias = pa.ChunkedArray | list[Any]  # a list: from JSON, of anything
Coded = tuple[list[str], npt.NDArray[np.intp]]  # sorted distinct values, and the number of each row
_NOTHING = {"", "nan", "null", "none", "na", "n/a"}  # in place of a number
_EXAMPLES = 3
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
_NUMBER = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)


def columns(content: bytes, file: str) -> Mapping[str, Column]:
    """The columns of a file by name; what kind of file it is, its content says.

    Raises:
        DistcorrError: it is empty, damaged, or none of the three (exit code 3).
    """
    if not content.strip():
        raise _unreadable(f"{file} is empty.")
    if kind(content) == "Parquet":
        try:
            table = pa.parquet.read_table(io.BytesIO(content))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(f"{file} cannot be read as Parquet: {_line(error)}") from error
        return _by_name(table, file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            text = "\0"
        else:
            words = f"its byte {error.start} is not UTF-8, which CSV and JSON must be"
            raise _unreadable(f"{file} cannot be read: {words}.") from error
    if "\0" in text:
        raise _unreadable(f"{file} is neither Parquet nor CSV nor JSON.")
    return _json(text, file) if kind(content) == "JSON" else _csv(text, file)


def kind(content: bytes) -> str:
    """As what such bytes are read: "Parquet", "JSON" or "CSV", which is anything else."""
    if content.startswith(b"PAR1"):
        return "Parquet"
    return "JSON" if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{") else "CSV"


def texts(column: Column, name: str, problems: list[str]) -> Coded | None:
    """The names in a column; whole numbers are names too.

    Appends to ``problems``, and returns None, where rows have no name.
    """
    if isinstance(column, pa.ChunkedArray):
        column = _plain(column)
        if not any(is_text(column.type) for is_text in _TEXT):
            column = column.to_pylist()
    if isinstance(column, list):
        column = pa.chunked_array([pa.array(map(_name, column), pa.string())])
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    empty = encoded.null_count
    if "" in values:
        empty += int((encoded.indices.to_numpy() == values.index("")).sum())
    if empty:
        problems.append(f"{name} is empty, or no name, in {many(empty)}")
        return None
    rank = np.argsort(np.argsort(np.array(values, object)))
    return sorted(values), rank[encoded.indices.to_numpy()].astype(np.intp)


def numbers(column: Column, name: str, problems: list[str]) -> npt.NDArray[np.float64] | None:
    """(n,) the numbers in a column; NaN where it is empty, or says so.

    Appends to ``problems``, and returns None, where rows have something else.
    """
    if isinstance(column, pa.ChunkedArray):
        column = _plain(column)
        if any(is_number(column.type) for is_number in (*_NUMBER, pa.types.is_string)):
            try:
                return np.array(column.cast(pa.float64()).to_numpy(), np.float64)
            except pa.ArrowInvalid:  # some are none: look at each
                column = column.to_pylist()
        else:
            column = column.to_pylist()
    found = [_number(value) for value in column]
    wrong = Counter(str(value) for value, f in zip(column, found, strict=True) if f is None)
    if wrong:
        examples = ", ".join(repr(text[:40]) for text in list(wrong)[:_EXAMPLES])
        problems.append(f"{name} is no number in {many(wrong.total())} ({examples})")
        return None
    return np.array(found, np.float64)


def _csv(text: str, file: str) -> Mapping[str, Column]:
    text = text.lstrip("\r\n") + "\n"  # a header alone is a table too
    try:
        header = next(csv.reader(io.StringIO(text)))
        table = pa.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, csv.Error) as error:
        raise _unreadable(f"{file} cannot be read as CSV: {_line(error)}") from error
    return _by_name(table, file)


def _json(text: str, file: str) -> Mapping[str, Column]:
    try:
        rows = json.loads(text)
        rows = [rows] if isinstance(rows, dict) else rows  # one line of its own
    except ValueError as error:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise _unreadable(f"{file} cannot be read as JSON: {error}") from error
    except RecursionError as error:
        raise _unreadable(f"{file} cannot be read as JSON: nested too deep") from error
    if other := sum(not isinstance(row, dict) for row in rows):
        raise _unreadable(f"{file} is JSON, but {other} of its {len(rows)} rows are no objects.")
    inside = [name for row in rows[:1] for name, value in row.items() if _is_table(value)]
    if len(rows) == 1 and inside:
        raise _unreadable(f"{file} is JSON with its rows in {inside[0]!r}: give that list alone.")
    if len(rows) == 1 and any(isinstance(value, dict | list) for value in rows[0].values()):
        raise _unreadable(f"{file} is JSON by columns, not by rows.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(r, dict) for r in value)


def _by_name(table: pa.Table, file: str) -> Mapping[str, Column]:
    names = table.column_names
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        listed = ", ".join(map(repr, twice))
        raise _unreadable(f"{file} has {len(twice)} columns more than once: {listed}.")
    return dict(zip(names, table.columns, strict=True))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary."""
    encoded = pa.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if encoded else column


def _name(value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).encode(errors="replace").decode()  # JSON may hold half a character


def _number(value: Any) -> float | None:
    """NaN for nothing, None for what is no number."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
        return np.nan
    if isinstance(value, bool) or not isinstance(value, str | int | float) or "_" in str(value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def many(count: int, noun: str = "row") -> str:
    """``"1 row"``, ``"2 rows"``."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def have(count: int, noun: str = "row") -> str:
    """``"1 row has"``, ``"2 rows have"``."""
    return f"{many(count, noun)} {'has' if count == 1 else 'have'}"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unreadable(message: str) -> DistcorrError:
    return DistcorrError(
        message,
        "a table of one row per keypoint: Parquet, CSV with a header, or a JSON list of objects",
        MISSING,
    )
