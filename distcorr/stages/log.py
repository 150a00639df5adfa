"""The log of a stage: a line per try of a shard, written as the stage goes."""

from __future__ import annotations

import json
import time
from typing import Any

from distcorr.data.run import Shard
from distcorr.data.storage import Folder
from distcorr.stages.cluster import Outcome

EVERY = 30.0  # s after which new lines are saved; not in the paper: what a killed driver loses


class ShardLog:
    """One file of JSON lines. Object stores cannot append, so it is written whole each time."""

    def __init__(self, folder: Folder, name: str) -> None:
        """
        Args:
            folder: of the run.
            name: of the file in it; it appears with the first line that is saved.
        """
        self._folder, self._name = folder, name
        self._lines: list[str] = []
        self._saved = 0
        self._last = time.monotonic()

    def add(self, outcome: Outcome[Shard, Any]) -> None:
        """A line: shard, error, seconds, ended (Unix time), worker, peak_mb, result, details.

        What a process that died cannot tell is left out; of a failed shard the items are named.
        """
        line: dict[str, Any] = {"shard": outcome.item.index, "error": outcome.error}
        if outcome.effort:
            line |= outcome.effort._asdict()
        if outcome.error:
            line["items"] = outcome.item.items
        line |= {"result": outcome.result, "details": outcome.details}
        self._lines.append(json.dumps(line))
        if time.monotonic() - self._last >= EVERY:
            self.save()

    def save(self) -> None:
        """Write what has been added since the last time, if anything."""
        self._last = time.monotonic()
        if len(self._lines) > self._saved:
            self._folder.write(self._name, ("\n".join(self._lines) + "\n").encode())
            self._saved = len(self._lines)
