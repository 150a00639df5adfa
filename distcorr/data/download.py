"""One file, from the first mirror that has it; broken transfers go on where they broke."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import pooch  # type: ignore[import-untyped]
import requests
import urllib3

from distcorr.data.archives import require_room
from distcorr.errors import MISSING, DistcorrError
from distcorr.uris import without_secrets

_BLOCK = 1 << 16  # bytes; what a broken connection may lose
_TIMEOUT = (10.0, 60.0)  # s to connect, s of silence
_TRIES = 3  # in a row that bring nothing new
_PAUSE = 2.0  # s before the next
_LOST = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class Progress(Protocol):
    """Listens to a download and what follows."""

    def say(self, message: str) -> None:
        """A line for people."""

    def advance(self, doing: str, done: int, total: int) -> None:
        """So many bytes of so many; ``total`` is 0 where it is not known."""


class Attempt(NamedTuple):
    """A mirror that did not serve, and why."""

    url: str
    why: str


class Unusable(Exception):
    """A mirror's answer is not the file."""


def download(
    urls: Sequence[str],
    target: Path,
    digests: Sequence[str],
    progress: Progress,
    unpacks: bool = False,
) -> str:
    """Get a file, unless it is there.

    What has come before a connection broke is kept as ``.part`` beside it, also when the process
    ends, and the next try asks for the rest. Without a checksum it is not: nobody could tell
    whether the two halves belong together.

    Args:
        urls: of mirrors, http or https, in order.
        target: the file; its folder is made.
        digests: pooch's known hashes, ``algorithm:hexadecimal``, that the file must all have.
        progress: listens.
        unpacks: whether it is going to be unpacked beside itself: that takes its size once more.

    Returns:
        the URL that served it, without secrets.

    Raises:
        DistcorrError: no mirror has it, or not enough room on the disk.
    """
    failed: list[Attempt] = []
    for url in urls:
        shown = without_secrets(url)
        progress.say(f"fetching {shown}")
        try:
            _from(url, target, digests, progress, unpacks)
            return shown
        except (Unusable, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            failed.append(Attempt(shown, _reason(error)))
        progress.say(f"that mirror does not serve: {failed[-1].why}")
    tried = "; ".join(f"{attempt.url}: {attempt.why}" for attempt in failed)
    raise DistcorrError(
        f"{target.name} cannot be fetched. {len(failed)} of {len(urls)} mirrors failed: {tried}",
        "--url URL names another mirror; with the file from elsewhere: --from FILE",
        MISSING,
    )


def check(file: Path, digests: Sequence[str]) -> str:
    """What is wrong with the checksum of a file; "" if nothing is."""
    for known in digests:
        algorithm, _, expected = known.partition(":")
        got = pooch.file_hash(str(file), alg=algorithm)
        if got != expected.lower():
            return f"wrong {algorithm}: expected {expected}, got {got}"
    return ""


def _from(
    url: str, target: Path, digests: Sequence[str], progress: Progress, unpacks: bool
) -> None:
    """From one mirror; once more from the start where two halves did not belong together."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unusable("neither http:// nor https://")
    part = target.with_name(f"{target.name}.part")
    if not digests:
        part.unlink(missing_ok=True)
    while True:
        transfer = _Transfer(part, progress, unpacks)
        pooch.get_logger().setLevel("ERROR")  # it is we who say what happens
        pooch.retrieve(url, None, target.name, target.parent, downloader=transfer)
        why = check(target, digests)
        if not why:
            return
        target.unlink()
        if not transfer.resumed:
            raise Unusable(f"{why}; what it sent is deleted")
        progress.say(f"{why}; again, from the start")


class _Transfer:
    """A downloader for pooch that goes on where another one broke."""

    def __init__(self, part: Path, progress: Progress, unpacks: bool) -> None:
        self._part, self._progress, self._unpacks = part, progress, unpacks
        self._answered = self.resumed = False

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        best, idle = self._size(), 0
        while True:
            try:
                self._try(url)
                break
            except _LOST as error:
                idle = 0 if self._size() > best else idle + 1
                best = max(best, self._size())
                if idle >= _TRIES or not self._answered:
                    raise
                self._progress.say(f"connection lost ({_reason(error)}), going on")
                time.sleep(idle * _PAUSE)
        self._part.replace(output_file)

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _try(self, url: str) -> None:
        """One request, for what is missing; returns when nothing is."""
        have = self._size()
        # The file's own bytes: some servers call a .tgz a compressed transfer of a .tar.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            self._answered = True
            place = answer.headers.get("Content-Range", "")
            if answer.status_code == 416 and have:  # nothing left to ask for, or another file
                self.resumed = True
                if place != f"bytes */{have}":
                    self._part.unlink()
                    raise requests.ConnectionError("what had come does not belong to this file")
                return
            if answer.status_code not in (200, 206):
                raise Unusable(f"answers {answer.status_code} {answer.reason}")
            goes_on = answer.status_code == 206 and place.startswith(f"bytes {have}-")
            if answer.status_code == 206 and not goes_on:
                raise Unusable(f"sends another part than was asked for ({place})")
            self.resumed |= goes_on
            self._save(answer, have if goes_on else 0)

    def _save(self, answer: requests.Response, have: int) -> None:
        left = int(answer.headers.get("Content-Length", 0))
        total = have + left if left else 0
        need = left + (total if self._unpacks else 0)
        require_room(self._part.parent, need, f"fetch {self._part.stem}")
        blocks = answer.raw.stream(_BLOCK, decode_content=False)
        kind, done = answer.headers.get("Content-Type", ""), have
        with self._part.open("ab" if have else "wb") as file:
            for block in blocks:
                if done == 0 and _is_page(kind, block):
                    raise Unusable("answers with a web page in place of the file")
                file.write(block)
                file.flush()
                done += len(block)
                self._progress.advance("fetching", done, total)


def _is_page(kind: str, start: bytes) -> bool:
    text = start[:200].lstrip().lower()
    return kind.startswith("text/html") or text.startswith((b"<!doctype", b"<html"))


def _reason(error: BaseException) -> str:
    """Why, in one line; what requests wraps three times is said once."""
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    inner = error.args[0] if error.args else error
    cause = getattr(inner, "reason", inner)
    return without_secrets(str(cause).splitlines()[0] if str(cause) else type(error).__name__)
