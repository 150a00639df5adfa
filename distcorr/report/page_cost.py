"""What a run cost, from its manifest and logs."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from distcorr.report.page_charts import Span, timeline
from distcorr.report.page_html import Content, Html, join, table, tag
from distcorr.report.page_source import Source

_LOG = re.compile(r"(.+)-([0-9a-f]{8})-(\d{8}-\d{6})\.jsonl")
_SECONDS = ("seconds", "aligning", "training")  # what stages log of a shard's time
_LANES = 24  # workers that the timeline shows


class Work(NamedTuple):
    """One try of a shard: how long it took and when it ended (s), where that is logged."""

    stage: str
    shard: int
    failed: bool
    seconds: float | None
    ended: float | None
    worker: str


def cost(source: Source) -> Html:
    """Per stage: shards, rows, bytes, seconds, rate and failures; and who worked when."""
    work = logged(source)
    body = [
        _row(stage, entry, [w for w in work if w.stage == stage])
        for stage, entry in _in_order(source)
    ]
    heads = ["stage", "shards", "rows", "MB", "work, s", "rows / s", "span, s", "workers"]
    heads += ["retried", "failed", "left out"]
    words = (
        "From the manifest and the logs. Work: seconds of all workers together, as far as they are "
        "logged: transfer counts aligning alone, classify training alone. Rate: rows by work. "
        "Span: time in which anyone worked. What was taken over from a store took none."
    )
    lines = [tag("p", words), table(heads, body, "Cost of each stage")]
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
    ]


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
    """A line of a log; None for one that is cut short or says nothing of time."""
    try:
        said: dict[str, Any] = json.loads(line)
        result = said.get("result") or {}
        seconds = next((float(result[name]) for name in _SECONDS if name in result), None)
        ended = float(result["ended"]) if "ended" in result else None
        worker = str(result.get("worker", ""))
        return Work(stage, int(said["shard"]), bool(said["error"]), seconds, ended, worker)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


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
