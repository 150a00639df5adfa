"""A folder on disk or in an object store, with writes that are never half done.

Everything that distcorr reads or writes goes through ``Folder``: a local path, ``file://``,
``s3://`` or ``gs://``, all by ``pyarrow.fs``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from distcorr.data.object_store import first_line, is_denial, open_uri, require_bucket
from distcorr.errors import MISSING, DistcorrError
from distcorr.uris import without_secrets

T = TypeVar("T")
_AHEAD = 8  # files of an object store that are read at once; a few MB each
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


class Written(NamedTuple):
    """What was written: the file's checksum and its size in bytes."""

    sha256: str
    size: int


class Folder:
    """One folder; names inside it are relative, with forward slashes. Picklable by its URI."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """
        Args:
            uri: a path (made absolute here) or a URI that pyarrow knows. Nothing is created.

        Raises:
            DistcorrError: the URI's scheme or an option is unknown, or it holds a password.
        """
        text = os.fspath(uri)
        self._bucket_known = self.is_local = not _SCHEME.match(text) or text.startswith("file://")
        if self.is_local:
            path = Path(text.removeprefix("file://")).expanduser().absolute()
            self.uri, self._root = str(path), str(path)
            self._fs: fs.FileSystem = fs.LocalFileSystem()
        else:
            self._fs, self._root = open_uri(text)
            self.uri = text.rstrip("/")

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.uri,)

    def __str__(self) -> str:
        return without_secrets(self.uri)

    def __truediv__(self, name: str) -> Folder:
        """The sub-folder ``name``."""
        base, mark, query = self.uri.partition("?")
        return Folder(f"{base}/{self._inside(name)}{mark}{query}")

    def _path(self, name: str) -> str:
        return f"{self._root}/{self._inside(name)}" if name else self._root

    def _inside(self, name: str) -> str:
        """The name, unless it leads out of the folder: names also come out of foreign files."""
        if name.startswith("/") or ".." in name.split("/"):
            raise DistcorrError(
                f"{name!r} is no name of a file inside {self}: it leads out of the folder.",
                "mend the annotations or the manifest that names it so",
                MISSING,
            )
        return name

    # -- looking ---------------------------------------------------------------------------

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder of that name is there."""
        return bool(self._info(self._path(name)).type != fs.FileType.NotFound)

    def sizes(self, name: str = "", recursive: bool = False) -> dict[str, int]:
        """Size in bytes of every file below ``name``, by path relative to it; {} if not there."""
        base = self._path(name)
        selector = fs.FileSelector(base, allow_not_found=True, recursive=recursive)
        return {
            info.path[len(base) :].lstrip("/"): int(info.size)
            for info in self._info(selector)
            if info.type == fs.FileType.File
        }

    def size(self, name: str) -> int | None:
        """Size in bytes of one file, None if it is not there."""
        info = self._info(self._path(name))
        return int(info.size) if info.type == fs.FileType.File else None

    def is_folder(self, name: str) -> bool:
        """Whether a folder of that name is there."""
        return bool(self._info(self._path(name)).type == fs.FileType.Directory)

    def folders(self, name: str = "") -> list[str]:
        """Sorted names of the folders directly below ``name``."""
        selector = fs.FileSelector(self._path(name), allow_not_found=True)
        found = self._info(selector)
        return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)

    def _info(self, what: str | fs.FileSelector) -> Any:
        try:
            found = self._fs.get_file_info(what)
            empty = not found if isinstance(found, list) else found.type == fs.FileType.NotFound
            if empty and not self._bucket_known:
                require_bucket(self._fs, self._root.partition("/")[0])
                self._bucket_known = True
            return found
        except NotADirectoryError as error:
            raise DistcorrError(
                f"{self} is a file, or lies in one, and a folder is expected.",
                "choose another with --run or --store, or move the file away",
            ) from error
        except OSError as error:
            raise DistcorrError(
                f"Cannot look into {self}: {first_line(error)}",
                "check that the folder is yours to read and its storage can be reached",
                MISSING,
            ) from error

    # -- reading ---------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """The whole file.

        Raises:
            FileNotFoundError: there is no such file.
            DistcorrError: it is not ours to read.
            OSError: the storage does not answer; another try may succeed.
        """
        # Of an object store a stream asks for every 256 kB apart, a file for all at once.
        open_it = self._fs.open_input_stream if self.is_local else self._fs.open_input_file
        try:
            with open_it(self._path(name)) as stream:
                return bytes(stream.read())
        except OSError as error:
            if not isinstance(error, PermissionError) and not is_denial(error):
                raise
            raise DistcorrError(
                f"{self}/{name} is not ours to read.", "mend its permissions", MISSING
            ) from error

    def read_json(self, name: str) -> Any:
        """The file as JSON.

        Raises:
            DistcorrError: the file is not JSON (damaged by something other than distcorr).
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DistcorrError(
                f"{self}/{name} is not JSON: {error}", "delete it and run again", MISSING
            ) from error

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or only some of its columns.

        Raises:
            DistcorrError: the file is missing, cut short or not Parquet.
        """
        try:
            if columns is None and not self.is_local:  # one request in place of several
                return pq.read_table(pa.BufferReader(self.read(name)))
            with self._fs.open_input_file(self._path(name)) as source:
                return pq.read_table(source, columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError) as error:
            raise DistcorrError(
                f"Cannot read the table {self}/{name}: {first_line(error)}",
                "delete that file; distcorr run makes it anew, and whatever was made from it",
                MISSING,
            ) from error

    def iter_tables(
        self, names: Sequence[str], columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Several Parquet files, one after the other (see ``each``)."""
        return self.each(lambda name: self.read_table(name, columns), names)

    def each(
        self, read: Callable[[str], T], names: Iterable[str], ahead: int = _AHEAD
    ) -> Iterator[T]:
        """``map(read, names)``; ``ahead`` files at once in an object store: each is a round trip.

        Errors come when it is the turn of their file.
        """
        if self.is_local:
            yield from map(read, names)
            return
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(ahead) as pool:
            for name in names:
                waiting.append(pool.submit(read, name))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    # -- writing ---------------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees either nothing, the old or the whole new content.

        On disk: a temporary file beside it, flushed, then renamed. In an object store: one PUT.

        Raises:
            DistcorrError: the folder cannot be written or the disk is full.
        """
        path = self._path(name)
        try:
            if self.is_local:
                _write_local(Path(path), content)
            else:
                with self._fs.open_output_stream(path) as stream:
                    stream.write(content)
        except OSError as error:
            raise DistcorrError(
                f"Cannot write {self}/{name}: {error.strerror or first_line(error)}",
                "check that the folder is yours to write and the disk is not full, "
                "or choose another with --run or --store; what is already there stays",
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as JSON with sorted keys, so that equal values are equal bytes."""
        self.write(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def write_table(
        self,
        name: str,
        table: pa.Table,
        row_group_size: int = 64,
        statistics: bool | Sequence[str] = True,
    ) -> Written:
        """Write a Parquet file; arguments as of ``parquet``."""
        content = parquet(table, row_group_size, statistics)
        self.write(name, content)
        return Written(hashlib.sha256(content).hexdigest(), len(content))

    def delete(self, name: str) -> None:
        """Delete one file if it is there."""
        if self.exists(name):
            self._fs.delete_file(self._path(name))


def parquet(
    table: pa.Table, row_group_size: int = 64, statistics: bool | Sequence[str] = True
) -> bytes:
    """A table as Parquet; the same table gives the same bytes.

    Args:
        table: any.
        row_group_size: rows that a reader takes at once.
        statistics: the columns whose extremes are kept, for readers that skip row groups.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=False,
        row_group_size=row_group_size,
        write_statistics=statistics,
    )
    return bytes(sink.getvalue().to_pybytes())


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own per writer: two tries of the same shard must not share a temporary file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
