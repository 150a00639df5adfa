"""What a run cost, from its manifest and logs."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from distcorr.report.page_charts import Span, timeline
from distcorr.report.page_html import Content, Html, join, table, tag
from distcorr.report.page_source import Source

_LOG = re.compile(r"(.+)-([0-9a-f]{8})-(\d{8}-\d{6})\.jsonl")
_PARTS = ("aligning", "training")  # what stages of older versions logged of a shard's time
_LANES = 24  # workers that the timeline shows


class Work(NamedTuple):
    """One try of a shard: how long it took and when it ended (s), where that is logged.

    ``partly``: the log has the main part of its time alone. ``peak``: memory, MB.
    """

    stage: str
    shard: int
    failed: bool
    seconds: float | None
    ended: float | None
    worker: str
    partly: bool = False
    peak: float | None = None


def cost(source: Source) -> Html:
    """Per stage: shards, rows, bytes, seconds, rate and failures; and who worked when."""
    work = logged(source)
    body = [
        _row(stage, entry, [w for w in work if w.stage == stage])
        for stage, entry in _in_order(source)
    ]
    heads = ["stage", "shards", "rows", "MB", "work, s", "rows / s", "span, s", "workers"]
    heads += ["retried", "failed", "left out", "peak, MB"]
    partly = list(dict.fromkeys(w.stage for w in work if w.partly))
    words = (
        "From the manifest and the logs. Work: seconds of all workers together, as far as they are "
        "logged. Rate: rows by work. Span: time in which anyone worked. Peak: the most memory that "
        "one worker took. What was taken over from a store took none."
    )
    if partly:
        words += f" Of {' and '.join(partly)} the logs have the main part of the work alone."
    lines = [tag("p", words), table(heads, body, "Cost of each stage")]
    if said := _twice(source, work):
        about = (
            "What twice the workers would save, if tasks went to whoever is free, longest first:"
        )
        lines += [tag("p", about), tag("ul", *(tag("li", each) for each in said), class_="plain")]
    if spans := _spans(work):
        lines.append(timeline(spans, "Which worker did which stage when; pauses are cut."))
    return join(lines)


def _row(stage: str, entry: dict[str, Any], own: list[Work]) -> list[Content]:
    done = [each for each in own if not each.failed]
    known = [each.seconds for each in done if each.seconds is not None]
    seconds, wall = sum(known), _wall(done)
    failed = {each.shard for each in own if each.failed}
    mended = failed & {each.shard for each in done}
    rows = int(entry.get("rows", 0))
    return [
        stage,
        f"{entry.get('shards', 0):,}",
        f"{rows:,}",
        f"{entry.get('bytes', 0) / 1e6:,.1f}",
        f"{seconds:,.1f}" if known else "–",
        f"{rows / seconds:,.0f}" if seconds else "–",
        f"{wall:,.1f}" if wall else "–",
        len({each.worker for each in done if each.worker}) or "–",
        len(mended),
        len(failed - mended),
        int(entry.get("dead", 0)),
        f"{max(peaks):,.0f}" if (peaks := [w.peak for w in own if w.peak is not None]) else "–",
    ]


def _twice(source: Source, work: Iterable[Work]) -> list[str]:
    """A sentence for each stage whose tasks, their times and workers are logged."""
    said = []
    for stage, _ in _in_order(source):
        done = [w for w in work if w.stage == stage and not w.failed and w.worker]
        tasks = {w.shard: w.seconds for w in done if w.seconds is not None}  # the last try
        workers = len({w.worker for w in done})
        if len(tasks) < 2:
            continue
        now, then = (makespan(list(tasks.values()), n) for n in (workers, 2 * workers))
        words = f"{stage}: {len(tasks)} tasks, {now:,.1f} s by {workers}, {then:,.1f} s by "
        words += f"{2 * workers}: {now - then:,.1f} s less."
        longest = max(tasks.values())
        alone = " The longest task alone takes so long." if then == longest else ""
        said.append(words + alone)
    return said


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of some tasks ends, s: each goes to whoever is free first, the longest first.

    At most 4/3 of what any order could reach (Graham 1969).
    """
    free = [0.0] * workers
    for task in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + task)
    return max(free)


def logged(source: Source) -> list[Work]:
    """Every try of every shard under the current keys, oldest log first."""
    keys = {stage: entry["key"] for stage, entry in source.stages.items()}
    found = []
    for name in sorted(source.run.folder.sizes("logs"), key=lambda n: n[-21:]):
        parts = _LOG.fullmatch(name)
        if not parts or keys.get(parts[1]) != parts[2]:
            continue
        for line in source.run.folder.read(f"logs/{name}").decode(errors="replace").splitlines():
            if (work := _work(parts[1], line)) is not None:
                found.append(work)
    return found


def last_day(source: Source) -> str:
    """When the newest log of any stage was begun, as 2026-11-23; "" without logs."""
    days = [parts[3] for n in source.run.folder.sizes("logs") if (parts := _LOG.fullmatch(n))]
    day = max(days, default="")
    return f"{day[:4]}-{day[4:6]}-{day[6:8]}" if day else ""


def _work(stage: str, line: str) -> Work | None:
    """A line of a log; None for one that is cut short or says nothing of a shard."""
    try:
        said: dict[str, Any] = json.loads(line)
        older: dict[str, Any] = said.get("result") or {}  # where older versions have it
        facts = older | {name: value for name, value in said.items() if value is not None}
        part = next((name for name in _PARTS if name in older), "")
        seconds = _number(facts.get("seconds", older.get(part)))
        ended, peak = _number(facts.get("ended")), _number(facts.get("peak_mb"))
        worker, partly = str(facts.get("worker", "")), bool(part) and "seconds" not in facts
        shard, failed = int(said["shard"]), bool(said["error"])
        return Work(stage, shard, failed, seconds, ended, worker, partly, peak)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _in_order(source: Source) -> list[tuple[str, dict[str, Any]]]:
    order = ("build-db", "neighbors", "transfer", "classify", "responses", "detect", "visualize")
    return [(name, source.stages[name]) for name in order if name in source.stages]


def _timed(work: list[Work]) -> list[tuple[float, float, Work]]:
    """Start and end of what is logged with both, by its end."""
    found = [
        (w.ended - w.seconds, w.ended, w)
        for w in work
        if w.ended is not None and w.seconds is not None and not w.failed
    ]
    return sorted(found, key=lambda each: each[:2])


def _busy(work: list[Work]) -> list[tuple[float, float]]:
    """Times in which at least one worker worked, joined where they meet."""
    found: list[tuple[float, float]] = []
    for start, end, _ in _timed(work):
        if found and start <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _wall(work: list[Work]) -> float:
    return sum(end - start for start, end in _busy(work))


def _spans(work: list[Work]) -> list[Span]:
    """Bars of the timeline: neighbouring shards of a stage are one."""
    busy, timed = _busy(work), _timed(work)
    total = _wall(work)

    def since(moment: float) -> float:
        return sum(min(moment, end) - start for start, end in busy if start < moment)

    spans: list[Span] = []
    workers = list(dict.fromkeys(w.worker for _, _, w in timed))[:_LANES]
    for n, worker in enumerate(workers, start=1):
        lane = f"{worker.partition(':')[0] or 'worker'} {n}"
        for begun, ended, w in timed:
            if w.worker != worker:
                continue
            start, end = since(begun), since(ended)
            last = spans[-1] if spans else None
            near = last and (last.lane, last.name) == (lane, w.stage)
            if last and near and start - last.end < 0.004 * total:
                spans[-1] = last._replace(end=max(end, last.end))
            else:
                spans.append(Span(lane, w.stage, start, end))
    return spans
