"""What the command line shows: progress, tables, warnings and errors. Everything but data goes to
standard error.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from distcorr.report.compare import Compared
    from distcorr.report.tables import Report
    from distcorr.stages.pipeline import Forecast, Summary

_EVERY = 10.0  # seconds between plain progress lines
_NOTES = 5  # of a report that are shown; its files have all
_PCK = ("table2", "table2-gain", "table4", "table4-refined", "table4-gain")  # others: in the files
_LOCALITY = {
    "figure1": "rebuilt from k patches; dB, levels of 255, SSIM, per cent",
    "figure2": "spread across k fields, centre / periphery; levels of 255",
}


class Terminal:
    """Listens to the stages; a bar on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._stage, self._total, self._done, self._before, self._failed = "", 0, 0, 0, 0
        self._began = self._last = 0.0

    # -- distcorr.stages.pipeline.Progress ---------------------------------------------------

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage begins."""
        self._stage, self._total, self._done, self._before, self._failed = (
            stage,
            total,
            done,
            done,
            0,
        )
        self._began = self._last = time.monotonic()
        if 0 < done < total:
            self.say(f"resuming {stage}: {done} of {total} shards are done")
        if self._err.is_terminal and not self._quiet and done < total:
            self._bar = Bar(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("shards"),
                TimeRemainingColumn(),
                console=self._err,
                transient=True,
            )
            self._bar.add_task(stage, total=total, completed=done)
            self._bar.start()

    def advance(self, failed: bool) -> None:
        """One more shard."""
        self._done += 1
        self._failed += failed
        if self._bar:
            self._bar.advance(self._bar.task_ids[0])
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            rate = (self._done - self._before) / (self._last - self._began)
            left = (self._total - self._done) / rate
            failed_text = f"  {self._failed} failed" if self._failed else ""
            self.say(
                f"{self._stage:<10} {self._done}/{self._total} shards"
                f"  {self._done / self._total:.0%}  eta {_duration(left)}{failed_text}"
            )

    def finish(self, summary: Summary) -> None:
        """The stage is complete."""
        self.close()
        reused = "" if summary.computed else "  (nothing to do)"
        self.say(
            f"done {summary.stage:<10} {summary.shards} shards  {summary.rows} rows"
            f"  {summary.bytes / 1e6:.1f} MB  {_duration(summary.seconds)}{reused}"
        )

    def warn(self, message: str) -> None:
        """Something to know."""
        if not self._quiet:
            self._err.print(f"[yellow]warning:[/] {_plain(message)}")

    # -- everything else -----------------------------------------------------------------------

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def say(self, message: str) -> None:
        """A line for people."""
        if not self._quiet:
            self._err.print(_plain(message))

    def error(self, error: DistcorrError) -> None:
        """An error and what to do about it; shown even when quiet."""
        self.close()
        self._err.print(f"[red]error:[/] {_plain(error.message)}")
        if error.hint:
            self._err.print(f"[cyan]hint:[/]  {_plain(error.hint)}")


def print_report(report: Report) -> None:
    """PCK and accuracy by category and method, means with intervals; the rest is in --json."""
    for name in report.tables:
        rows = [row for row in report.rows if row["table"] == name]
        if name in _PCK:
            _print_pck(name, rows, report.level)
        elif name.startswith("table3"):
            _print_accuracy(name, rows, report.level)
        elif name in _LOCALITY:
            _print_locality(name, rows, report.level)
        elif name == "pairs":
            _print_pairs(rows, report.level)
    print(f"weights: {report.weights}\ndata:    {report.data}")
    for note in report.notes[:_NOTES]:
        print(f"note:    {note}")
    if more := len(report.notes[_NOTES:]):
        print(
            f"notes:   {more} more in report/index.html and tables.json; report --json prints all"
        )
    sys.stdout.flush()


def _print_pck(name: str, rows: Sequence[dict[str, Any]], level: float) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    alphas = list(dict.fromkeys(row["alpha"] for row in rows))
    gain = name.endswith("gain")
    unit = "per cent points, paired" if gain else "per cent"
    print(f"{name}: PCK in {unit}, at {', '.join(f'{alpha:g}' for alpha in alphas)}")
    if not gain:  # gains by category are in the files
        _print_categories(rows, methods, len(alphas))
        print(f"the mean with its {100 * level:g} % interval by photograph:")
    width = max(len(method) for method in methods)
    for method in methods:
        means = [r for r in rows if r["method"] == method and r["category"] == "mean"]
        cells = " ".join(f"{_with_interval(r):<20}" for r in means)
        eta = f"eta {means[0]['eta']:g}" if means[0].get("eta") is not None else ""
        print(f"  {method:<{width}} {cells} {eta}".rstrip())
    print()


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['value']:z5.1f} [{row['low']:z.1f}, {row['high']:z.1f}]"  # z: no minus zero


def _print_accuracy(name: str, rows: Sequence[dict[str, Any]], level: float) -> None:
    """Table 3; by category only what the paper has, the others are in the files."""
    unit = "per cent points, paired" if name.endswith("gain") else "per cent"
    over = ", the mean over keypoint types" if name.endswith("macro") else ""
    print(f"{name}: accuracy of keypoint classification in {unit}{over}")
    if name == "table3":
        _print_layers(rows)
        print(f"the mean with its {100 * level:g} % interval by photograph:")
    means = [row for row in rows if row["category"] == "mean"]
    width = max(len(row["method"]) for row in means)
    for row in means:
        c = f"C {row['c']:g}" if row.get("c") else ""
        print(f"  {row['method']:<{width}} {_with_interval(row):<20} {c}".rstrip())
    print()


def _print_layers(rows: Sequence[dict[str, Any]]) -> None:
    """A row per layer, as many columns beside each other as a terminal is wide.

    Bold on a terminal: in every column the best SIFT and the best layer of a network.
    """
    out = Console(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    categories = sorted({row["category"] for row in rows}, key=lambda c: (c == "mean", c))
    values = {(row["method"], row["category"]): row for row in rows}
    first = max(map(len, methods))
    width = max(6, *map(len, categories)) + 2
    beside = max(1, (80 - first) // width)
    for start in range(0, len(categories), beside):
        shown = categories[start : start + beside]
        out.print(_plain(" " * first + "".join(f"{c:>{width}}" for c in shown)))
        bold = {cell for c in shown for cell in _bests(values, methods, c)}
        for method in methods:
            line = _plain(f"{method:<{first}}")
            for category in shown:
                row = values.get((method, category))
                cell = f"{row['value']:.1f}" if row else ""
                text = f"[bold]{cell}[/]" if (method, category) in bold else cell
                line += " " * (width - len(cell)) + text
            out.print(line.rstrip())


def _bests(
    values: dict[tuple[str, str], dict[str, Any]], methods: Sequence[str], category: str
) -> Iterator[tuple[str, str]]:
    """The best of each kind in a column, as it is printed; more than one where they tie."""
    from distcorr.report.classification import BASELINE, is_sift

    for kind in (True, False):
        cells = [(m, category) for m in methods if is_sift(m) == kind and m != BASELINE]
        printed = {cell: round(values[cell]["value"], 1) for cell in cells if cell in values}
        yield from (cell for cell, value in printed.items() if value == max(printed.values()))


def _print_categories(rows: Sequence[dict[str, Any]], methods: Sequence[str], alphas: int) -> None:
    """A row per category; side by side as many methods as a terminal is wide."""
    first = max(len(f"{row['category']} ({row['n']})") for row in rows)
    wide = [max(6 * alphas, len(method)) for method in methods]
    beside = max(1, (80 - first) // (max(wide) + 3))
    for start in range(0, len(methods), beside):
        shown = methods[start : start + beside]
        widths = wide[start : start + beside]
        heads = (f"   {m:>{w}}" for m, w in zip(shown, widths, strict=True))
        print(" " * first + "".join(heads).rstrip())
        for category in dict.fromkeys(row["category"] for row in rows):
            mine = [row for row in rows if row["category"] == category]
            line = f"{category} ({mine[0]['n']})".ljust(first)
            for method, width in zip(shown, widths, strict=True):
                values = (f"{r['value']:6.1f}" for r in mine if r["method"] == method)
                line += "   " + "".join(values).rjust(width)
            print(line)


def _print_locality(name: str, rows: Sequence[dict[str, Any]], level: float) -> None:
    """Every measure with its interval; what is subtracted from what is in the files."""
    print(f"{name}: {_LOCALITY[name]}; {100 * level:g} % intervals by photograph")
    measures = [column for column in rows[0] if f"{column}_low" in rows[0]]
    said = [column for column in rows[0] if column in ("layer", "method", "k", "n", "count")]
    lines = []
    for row in rows:
        cells = {name: row[name] for name in said}
        for measure in measures:
            places = 2 if measure in ("ssim", "ratio") else 1
            ends = [row[measure], row[f"{measure}_low"], row[f"{measure}_high"]]
            value, low, high = ("" if end is None else f"{end:.{places}f}" for end in ends)
            cells[measure] = f"{value} [{low}, {high}]" if value else ""
        lines.append(cells)
    print_rows(lines)
    print()


def _print_pairs(rows: Sequence[dict[str, Any]], level: float) -> None:
    """Every method by every definition; categories are in the files."""
    print(f"pairs: PCK in per cent; {100 * level:g} % intervals by photograph")
    shown = [row for row in rows if row["category"] == "all"]
    said = ("dialect", "alpha", "method", "n")
    print_rows([{k: r[k] for k in said} | {"PCK": _with_interval(r).strip()} for r in shown])
    print()


def print_comparison(found: Compared) -> None:
    """Two runs: their settings first, then the means and the paired differences."""
    print(f"here:  {found.here}\nthere: {found.there}\n")
    print("settings that differ, there -> here:" if found.settings else "no setting differs")
    for line in found.settings:
        print(f"  {line}")
    for table in found.pairs:
        what = "accuracy" if table == "table3" else "PCK"
        level = f"{100 * found.level:g} % intervals"
        print(f"\n{table}: {what} in per cent, and here minus there; {level}")
        means = {
            (r["method"], r.get("alpha")): r
            for r in found.rows
            if r["category"] == "mean" and r["table"] in (table, f"{table}-comparison")
        }
        print_rows(
            [
                {"here": pair[0].removesuffix(" (here)")}
                | ({} if alpha is None else {"alpha": alpha})
                | {"n": row["n"], f"{what} here": row["value"]}
                | {"there": means[pair[1], alpha]["value"]}
                | {"difference": _with_interval(gain).strip(), "p": gain["p"]}
                for pair in found.pairs[table]
                for (method, alpha), row in means.items()
                if method == pair[0] and (gain := means.get((" minus ".join(pair), alpha)))
            ]
        )
    print()
    for note in found.notes:
        print(f"note:    {note}")
    sys.stdout.flush()


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Rows of equal keys as aligned columns, never cut: numbers to the right.

    A terminal that is too narrow gets columns in blocks, each with those that tell the rows apart.
    """
    if not rows:
        return
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [any(isinstance(row[name], int | float) for row in rows) for name in rows[0]]
    blocks = _blocks(lines, widths) if sys.stdout.isatty() else [range(len(widths))]
    for number, block in enumerate(blocks):
        if number:
            print()
        for line in lines:
            padded = (line[n].rjust if right[n] else line[n].ljust for n in block)
            cells = (pad(widths[n]) for pad, n in zip(padded, block, strict=True))
            print("  ".join(cells).rstrip())
    sys.stdout.flush()


def _blocks(lines: Sequence[list[str]], widths: Sequence[int]) -> list[Sequence[int]]:
    """Numbers of the columns that stand side by side; the first ones, which name a row, in each."""
    room = shutil.get_terminal_size().columns
    count = len(widths)
    alike = (n for n in range(1, count) if len({tuple(line[:n]) for line in lines}) == len(lines))
    names = next(alike, 1)
    taken = sum(widths[:names]) + 2 * names
    blocks: list[list[int]] = []
    left = 0
    for column in range(names, count):
        if not blocks or left < widths[column]:
            blocks.append(list(range(names)))
            left = room - taken
        blocks[-1].append(column)
        left -= widths[column] + 2
    return list(blocks) or [range(count)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_forecasts(forecasts: Sequence[Forecast]) -> None:
    """What would be done, stage by stage."""
    for f in forecasts:
        if f.todo is None:
            print(f"{f.stage:<10} {f.note}")
        else:
            print(f"{f.stage:<10} {f.todo} of {f.shards} shards to do   (key {f.key})")


def print_status(rows: Sequence[dict[str, Any]], verbose: bool) -> None:
    """State of a run's stages."""
    for row in rows:
        state = "unfinished" if row["key"] else "not started"
        state = "done" if row["finished"] else "out of date" if row["outdated"] else state
        counts = f"{row['done']}/{row['shards']} shards" if row["key"] else ""
        dead = f"  {len(row['dead'])} left out" if row["dead"] else ""
        failed = f"  {len(row['failed'])} failed at the last try" if row["failed"] else ""
        print(f"{row['stage']:<10} {state:<11} {counts}{dead}{failed}")
        if verbose:
            for letter in row["dead"]:
                print(f"    left out {letter['id']} ({letter['file']}): {letter['error']}")
            for failure in row["failed"]:
                print(f"    shard {failure['shard']} failed: {failure['error']}")
                print("        " + failure["details"].strip().replace("\n", "\n        "))
    sys.stdout.flush()


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s"
