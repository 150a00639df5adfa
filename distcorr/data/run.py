"""A run folder: configuration, manifest, and stage outputs that survive any crash.

    runs/photos/
    ├── config.toml                 resolved configuration; repeats the run
    ├── manifest.json               versions, and per stage its key, digest and counts
    ├── transfer/3f9c1ab2/          one folder per stage and key
    │   ├── pairs/part-00000.parquet ...
    │   ├── shards/00000.json       marker of a finished shard, written after its parts
    │   └── _done.json              marker of a finished stage, written last
    ├── store/                      feature tables, unless the run shares a store with others
    └── logs/                       one line per finished or failed shard

A stage's key is a digest of the settings that it reads, of its version and of the *content* of the
stages that it builds on. So another beta recomputes the alignments and nothing else, and a result
can never rest on features that have since changed. Resuming is a directory listing: a shard is done
when its marker is there, was made from the same input, and its parts have the sizes it names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from distcorr import config as configuration
from distcorr.config import Config, digest
from distcorr.data.storage import Folder, Written
from distcorr.errors import DistcorrError

CONFIG, MANIFEST, DONE = "config.toml", "manifest.json", "_done.json"
DEAD = "dead_letters.parquet"
FORMAT = 1  # of a run folder and of a store; to be raised when older versions would misread them
_MARKERS = 64  # read at once in an object store: they are small
_MARKER = {"inputs", "rows", "files", "dead"}  # what a shard's marker must say


@dataclass(frozen=True)
class Shard:
    """The unit of work, of retry and of resume.

    Attributes:
        index: position in the stage's plan; names the part files.
        inputs: digest of what the shard is made from; another digest means: do it again.
        items: what is in it, for example ids of instances.
        kind: what its items are, where a stage has shards of several kinds.
        stem: its parts' file name without the ending; from the index unless given.
    """

    index: int
    inputs: str
    items: tuple[str, ...]
    kind: str = ""
    stem: str = ""

    @property
    def part(self) -> str:
        """File name of the shard's part."""
        return f"{self.stem or f'part-{self.index:05d}'}.parquet"


@dataclass(frozen=True)
class DeadLetter:
    """An item that cannot be processed, and why; the rest of its shard goes on without it.

    Attributes:
        id: of the item.
        file: where to look.
        error: why.
        broken: False for what is in order and only has no such feature, as too small a photograph.
        tables: the folders of parts that lack it; () means all.
    """

    id: str
    file: str
    error: str
    broken: bool = True
    tables: tuple[str, ...] = ()


@dataclass
class StageFolder:
    """Outputs of one stage under one key; cheap to pickle, used by the driver and by workers.

    Attributes:
        name: of the stage.
        key: digest of what its outputs depend on.
        folder: where its markers are.
        files: where its parts are; for ``build-db`` a store, for other stages ``folder``.
    """

    name: str
    key: str
    folder: Folder
    files: Folder
    _markers: dict[int, dict[str, Any]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[type[StageFolder], tuple[str, str, Folder, Folder]]:
        # Workers read markers afresh.
        return StageFolder, (self.name, self.key, self.folder, self.files)

    def mark_done(
        self,
        shard: Shard,
        files: Mapping[str, Written],
        rows: int,
        dead: Sequence[DeadLetter] = (),
    ) -> None:
        """Write the shard's marker; call it after all of the shard's parts are written."""
        marker = {
            "shard": shard.index,
            "inputs": shard.inputs,
            "rows": rows,
            "files": {n: {"sha256": w.sha256, "bytes": w.size} for n, w in files.items()},
            "dead": [vars(letter) for letter in dead],
        }
        self.folder.write_json(f"shards/{shard.index:05d}.json", marker)

    def markers(self) -> dict[int, dict[str, Any]]:
        """Markers of the finished shards by index; each is read once per object."""
        names = [name for name in self.folder.sizes("shards") if name.endswith(".json")]
        stems = [name.removesuffix(".json") for name in names]
        new = [stem for stem in stems if stem.isdigit() and int(stem) not in self._markers]
        named = [f"shards/{stem}.json" for stem in new]
        read = self.folder.each(self.folder.read_json, named, ahead=_MARKERS)
        found = {int(stem): marker for stem, marker in zip(new, read, strict=True)}
        # One that says less is of an earlier version: its shard is made anew.
        self._markers |= {index: m for index, m in found.items() if _MARKER <= m.keys()}
        return self._markers

    def todo(self, plan: Sequence[Shard]) -> list[Shard]:
        """The shards of ``plan`` that still have to be done, in order."""
        markers = self.markers()
        tables = sorted({name.rpartition("/")[0] for m in markers.values() for name in m["files"]})
        found = self.files.each(self.files.sizes, tables)  # a round trip per thousand files
        sizes = {f"{t}/{n}": s for t, of in zip(tables, found, strict=True) for n, s in of.items()}

        def done(shard: Shard) -> bool:
            marker = markers.get(shard.index)
            return (
                marker is not None
                and marker["inputs"] == shard.inputs
                and all(sizes.get(n) == f["bytes"] for n, f in marker["files"].items())
            )

        remaining = [shard for shard in plan if not done(shard)]
        for shard in remaining:
            self._markers.pop(shard.index, None)  # made anew: what was read of it is out of date
        return remaining

    def finish(self, plan: Sequence[Shard]) -> dict[str, Any]:
        """Write the stage's marker and dead-letter table once every shard of ``plan`` is done.

        Returns:
            ``{"tables", "shards", "rows", "bytes", "dead"}``; the first is a digest of the content
            for each folder of parts.
        """
        found = self.markers()  # once: it lists the folder
        for index in found.keys() - {shard.index for shard in plan}:
            self.folder.delete(f"shards/{index:05d}.json")  # of a plan with more shards
            found.pop(index)
        markers = [found[shard.index] for shard in plan]
        dead = [letter for marker in markers for letter in marker["dead"]]
        tables: dict[str, list[Any]] = {}
        for marker in markers:
            for name, written in marker["files"].items():
                tables.setdefault(name.rpartition("/")[0], []).append([name, written])
        summary = {
            "tables": {name: digest(files) for name, files in tables.items()},
            "shards": len(markers),
            "rows": sum(m["rows"] for m in markers),
            "bytes": sum(f["bytes"] for m in markers for f in m["files"].values()),
            "dead": len(dead),
        }
        if dead:
            columns = {k: [letter[k] for letter in dead] for k in ("id", "file", "error")}
            tables = pa.array([list(letter["tables"]) for letter in dead], pa.list_(pa.string()))
            self.folder.write_table(DEAD, pa.table({**columns, "tables": tables}))
        else:
            self.folder.delete(DEAD)
        if self.done() != summary:
            self.folder.write_json(DONE, summary)
        return summary

    def begin(self) -> None:
        """Take the stage's marker away, before shards are made anew."""
        self.folder.delete(DONE)

    def done(self) -> dict[str, Any] | None:
        """The summary that ``finish`` wrote, or None while the stage is unfinished."""
        return self.folder.read_json(DONE) if self.folder.exists(DONE) else None

    def identity(self, *tables: str) -> list[str]:
        """What a stage that builds on this one rests on: key, digest of the content, tables.

        Args:
            tables: the folders of parts that count; all of them if none is given.
        """
        found = (self.done() or {}).get("tables", {})
        content = {name: found.get(name, "") for name in tables or sorted(found)}
        return [self.key, digest(content), *tables]

    def dead_letters(self) -> list[DeadLetter]:
        """Items that the finished shards had to leave out, also while others are unfinished."""
        markers = self.markers()
        letters = [letter for index in sorted(markers) for letter in markers[index]["dead"]]
        return [DeadLetter(**(d | {"tables": tuple(d["tables"])})) for d in letters]

    def parts(self, table: str) -> list[str]:
        """Names of the finished parts in the folder ``table`` (``"pairs"``), in shard order."""
        markers = self.markers()
        names = [n for index in sorted(markers) for n in sorted(markers[index]["files"])]
        return [name for name in names if name.rpartition("/")[0] == table]


class Run:
    """One run folder."""

    def __init__(self, uri: str) -> None:
        """
        Args:
            uri: a path or URI. Nothing is created until something is written.

        Raises:
            DistcorrError: a relative path inside a Ray job, whose working folder is temporary.
        """
        relative = "://" not in uri and not os.path.isabs(os.path.expanduser(uri))
        if relative and inside_ray_job():
            raise DistcorrError(
                f"The run folder {uri} is relative, and inside a Ray job it would vanish with the "
                "cluster.",
                "give an absolute path on shared storage or an s3:// URI: --run s3://bucket/runs/x",
            )
        self.folder = Folder(uri)

    def __str__(self) -> str:
        return str(self.folder)

    # -- configuration ---------------------------------------------------------------------

    def config(self) -> Config | None:
        """The configuration that the run was last used with, or None for a new folder."""
        if not self.folder.exists(CONFIG):
            return None
        content = self.folder.read(CONFIG)
        document = configuration.parse_toml(content, f"{self}/{CONFIG}")
        try:
            return configuration.load(document=document)
        except DistcorrError as error:
            raise DistcorrError(
                f"{self}/{CONFIG} is not of this version of distcorr: {error.message}",
                f"use another --run folder; --store {self}/store has the features at once",
            ) from error

    def save_config(self, config: Config) -> None:
        """Store the configuration, without touching the file when nothing differs."""
        text = configuration.dump(config).encode()
        if not self.folder.exists(CONFIG) or self.folder.read(CONFIG) != text:
            self.folder.write(CONFIG, text)

    # -- stages ----------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """The manifest; ``{"stages": {}}`` for a new folder."""
        if not self.folder.exists(MANIFEST):
            return {"stages": {}}
        manifest = self.folder.read_json(MANIFEST)
        if not (isinstance(manifest, dict) and isinstance(manifest.get("stages"), dict)):
            raise DistcorrError(
                f"{self}/{MANIFEST} is not the manifest of a run.", "choose another --run folder"
            )
        refuse_newer(manifest, f"{self}/{MANIFEST}")
        return manifest

    def record(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Update the manifest's entry of a stage."""
        manifest = self.manifest()
        stages = manifest["stages"] | {stage: dict(entry)}
        changed = manifest | {"format": FORMAT, "stages": stages}
        if changed != manifest:
            self.folder.write_json(MANIFEST, changed)

    def stage(self, name: str, key: str, store: str = "") -> StageFolder:
        """Where the stage's outputs under that key are, or will be.

        Args:
            name: of the stage.
            key: digest of what the outputs depend on.
            store: where the parts are: a path or URI, or a name inside the run folder; "" if they
                are beside the markers.
        """
        folder = self.folder / name / key
        elsewhere = "://" in store or os.path.isabs(store)
        files = Folder(store) if elsewhere else self.folder / store if store else folder
        return StageFolder(name, key, folder, files)

    def current(self, name: str) -> StageFolder | None:
        """The stage's outputs that the manifest names as current, finished or not."""
        entry = self.manifest()["stages"].get(name)
        return self.stage(name, entry["key"], entry.get("store", "")) if entry else None

    def finished(self, name: str) -> StageFolder | None:
        """The stage's current outputs, if they are complete and so is what they were made from.

        None as well when a stage that it builds on has been made anew since.
        """
        stage = self.current(name)
        if stage is None or stage.done() is None:
            return None
        for need, made_from in self.manifest()["stages"][name].get("needs", {}).items():
            source = self.finished(need)
            if source is None or source.identity(*made_from[2:]) != made_from:
                return None
        return stage


def refuse_newer(found: Mapping[str, Any], where: str) -> None:
    """Stop before anything of a format that this version does not know is read or replaced.

    Raises:
        DistcorrError: a newer distcorr has written it.
    """
    version = found.get("format", 1)  # the first versions did not say it
    if not isinstance(version, int) or version > FORMAT:
        raise DistcorrError(
            f"{where} was written by a newer distcorr: format {version!r}, and this one reads "
            f"up to {FORMAT}.",
            "install that version here, or use another --run and --store; nothing was changed",
        )


def inside_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "runtime_resources" in os.getcwd()
