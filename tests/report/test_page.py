"""The report page: whole, alone, honest about what it lacks; equal bytes for equal runs."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr import config as configuration
from distcorr.algorithms import error_types
from distcorr.cli import app, common
from distcorr.config import EvaluationConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import cases, latex, page, page_cost, page_figures, tables
from distcorr.report.page_charts import Bar, bars
from distcorr.report.page_failures import failures
from distcorr.report.page_html import Html, interval, number, table, tag
from distcorr.report.page_source import Source, opened
from distcorr.report.page_tables import paper_table, tidy, tinted
from distcorr.report.predictions import PREDICTIONS
from distcorr.report.tables import Report
from distcorr.types import Box, Instance
from tests.stages.common import run_all

VOID = {"meta", "br", "img", "input", "hr"}


class Parsed(HTMLParser):
    """Elements of a page; fails where one is not closed or closed twice."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(content.decode())
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.found if each == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def whole(drawn: Path) -> Parsed:
    return Parsed((drawn / page.NAME).read_bytes())


@pytest.fixture(scope="module")
def report(drawn: Path) -> Report:
    return tables.build(Run(str(drawn)))


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the run, of the same name: it is on the page."""
    shutil.copytree(drawn, tmp_path / drawn.name)
    return tmp_path / drawn.name


def built(folder: Path, report: Report, evaluation: EvaluationConfig | None = None) -> Parsed:
    return Parsed(page.build(Run(str(folder)), report, evaluation))


# -- the file ------------------------------------------------------------------------------------


def test_one_file_that_asks_for_nothing_from_elsewhere(drawn: Path, whole: Parsed) -> None:
    content = (drawn / page.NAME).read_bytes()
    assert len(content) < 12e6
    assert content.startswith(b"<!doctype html>")
    for name, attributes in whole.found:
        source = attributes.get("src") or (attributes.get("href") if name == "image" else None)
        assert source is None or source.startswith("data:image/"), (name, source)
        assert name not in ("link", "iframe", "object", "base")
    style = re.search(rb"<style>(.*?)</style>", content, re.DOTALL)
    assert style is not None
    assert b"url(" not in style[1]
    assert b"@import" not in style[1]
    assert b"@media print" in style[1]
    assert b"prefers-color-scheme: dark" in style[1]
    script = re.search(rb"<script>(.*?)</script>", content, re.DOTALL)
    assert script is not None
    assert script[1].count(b"\n") <= 150
    assert not re.search(rb"fetch\(|XMLHttpRequest|https?://", script[1])
    text = re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", content)
    assert not re.search(rb"https?://", text)
    assert str(drawn).encode() not in text  # not where the run lies


def test_every_link_leads_somewhere(drawn: Path, whole: Parsed) -> None:
    ids = [a["id"] for _, a in whole.found if "id" in a]
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    links = [a["href"] or "" for a in whole.all("a")]
    assert len(links) > 30
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert (drawn / "report" / unquote(link)).is_file(), link
    for section in ("summary", "s2", "s3", "s4", "s5", "failures", "cost", "setup"):
        assert section in ids


def test_it_can_be_read_without_seeing_it(whole: Parsed) -> None:
    assert all(len(a["alt"] or "") > 20 for a in whole.all("img"))
    assert len(whole.all("img")) >= 10
    assert whole.all("html")[0]["lang"] == "en"
    for svg in whole.all("svg"):
        assert svg.get("role") == "img" or svg.get("aria-hidden") == "true"
    for wide in (a for _, a in whole.found if str(a.get("class")).startswith("wide")):
        assert wide["tabindex"] == "0"  # scrolls by the keyboard
    assert all(a["scope"] in ("row", "col") for a in whole.all("th"))


def test_equal_runs_give_equal_bytes(drawn: Path, folder: Path, report: Report) -> None:
    first = (drawn / page.NAME).read_bytes()
    assert page.build(Run(str(folder)), report) == first
    saved = json.loads((folder / "report" / "tables.json").read_text())
    from_files = Report(**saved)  # as anyone can who has the folder
    names = page.save(Run(str(folder)), from_files)
    assert names[0] == page.NAME
    assert (folder / page.NAME).read_bytes() == first


def test_what_users_wrote_is_no_markup(folder: Path, report: Report) -> None:
    evil = "<img src=x onerror=alert(1)>&'\""
    rows = [*report.rows, {"table": "mine", "method": evil, evil: 1.5, "value": 3}]
    changed = dataclasses.replace(report, rows=rows, weights=evil, notes=[evil])
    parsed = built(folder, changed)
    assert all("onerror" not in a for _, a in parsed.found)
    assert parsed.words.count(evil) >= 4


# -- what it says --------------------------------------------------------------------------------


def test_every_number_of_the_report_is_on_the_page(whole: Parsed, report: Report) -> None:
    means = [r for r in report.rows if r.get("category") == "mean" and r["table"] == "table2"]
    assert means
    for row in means:
        said = f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        assert said in whole.words
    for row in report.rows:
        if row["table"] == "table4" and row["alpha"] == 0.1:
            assert f"{row['value']:.1f}" in whole.words
    for note in report.notes:
        assert " ".join(note.split()) in whole.words
    for name, value, source in configuration.settings(configuration.PRESETS["paper"]):
        assert name in whole.words
        assert source in whole.words, (name, value)


def test_other_weights_and_data_are_stamped(whole: Parsed, report: Report) -> None:
    assert "Other weights. " + report.weights in whole.words
    assert "Other data. " + report.data in whole.words
    assert "not the paper's weights or data" in whole.words
    tints = [a for _, a in whole.found if re.search(r"\bd[123]\b", str(a.get("class")))]
    assert tints == []  # a colour would say how well the paper is reproduced


def test_the_papers_numbers_beside_ours_where_they_may_be_compared(
    folder: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"table": "table2", "method": method, "category": category, "alpha": alpha}
        | {"value": value, "low": value - 1, "high": value + 1, "n": 7}
        for method, values in (
            ("conv4 flow", (20.9, 22.0, 21.4)),  # the paper: 20.4, 19.6
            ("SIFT flow", (30.0, 16.0, 23.0)),  # 19.9, 16.0
            ("NN transfer", (14.5, 11.1, 12.8)),
        )
        for alpha in (0.1, 0.05)
        for category, value in zip(("bird", "cat", "mean"), values, strict=True)
    ]
    changed = dataclasses.replace(report, rows=rows, weights="BVLC CaffeNet, sha256 01")
    monkeypatch.setattr("distcorr.report.paper.same_data", lambda *_: True)
    source = opened(Run(str(folder)), changed)
    source.__dict__["network"] = "caffenet"
    parsed = Parsed(paper_table(source, "table2", "Table 2", lambda _: 0).encode())
    cells = [a for a in parsed.all("td") if "data-v" in a]
    assert [str(a["class"]).split()[1] for a in cells[:3]] == ["d1", "d2", "d2"]
    assert [str(a["class"]).split()[1] for a in cells[3:6]] == ["d3", "d1", "d3"]
    assert "paper 20.4, difference +0.5" in str(cells[0]["title"])
    mean = (20.4 + 19.6) / 2
    assert f"paper {mean:.1f}, difference +1.4" in str(cells[2]["title"])
    assert [tinted(source, d) for d in (-1, 1.01, -3, 3.01)] == ["d1", "d2", "d2", "d3"]
    best = re.findall(r"<b>([\d.]+)</b>", paper_table(source, "table2", "", lambda _: 0))
    assert best == ["22.0", "30.0", "23.0"]
    page_ = built(folder, changed)
    assert "Other weights" not in page_.words
    assert "not the paper's weights or data" not in page_.words


def test_a_table_that_has_no_place_is_shown_as_it_comes(folder: Path, report: Report) -> None:
    more = [
        {"table": "table2-slices", "method": "conv4", "slice": "small", "value": 12.34, "low": 1.0}
        | {"high": 20.0, "n": 1234},
        {"table": "dialects", "rule": "torso", "value": None, "p": 0.03125, "sure": True},
    ]
    parsed = built(folder, dataclasses.replace(report, rows=[*report.rows, *more]))
    assert "12.3 [1.0, 20.0]" in parsed.words
    assert "1,234" in parsed.words
    assert "More tables" in parsed.words
    assert "0.03125" in parsed.words


def test_a_long_table_is_cut_and_says_so(folder: Path, report: Report) -> None:
    rows = [{"table": "long", "place": n} for n in range(700)]
    source = opened(Run(str(folder)), dataclasses.replace(report, rows=rows))
    parsed = Parsed(tidy(source, "long").encode())
    assert len(parsed.all("tr")) == 601
    assert "The first 600 of 700 rows; the CSV has all." in parsed.words


def test_departures_are_those_of_the_stages_not_of_the_last_command(
    folder: Path, report: Report
) -> None:
    text = (folder / "config.toml").read_text()
    beta, rounds = "beta = 0.003", "rounds = 1"
    assert beta in text
    assert rounds in text
    changed = text.replace(beta, "beta = 0.5").replace(rounds, "rounds = 2")
    (folder / "config.toml").write_text(changed)  # used with others since, nothing was made anew
    source = opened(Run(str(folder)), report)
    departed = {name: (before, now) for name, before, now, _ in source.departures()}
    assert "flow.beta" not in departed
    assert departed["detect.rounds"] == ("3", "1")
    assert departed["dataset.name"] == ('"voc"', '"toy"')
    other = EvaluationConfig(alphas=(0.2,))
    departed = {name: now for name, _, now, _ in opened(source.run, report, other).departures()}
    assert departed["evaluation.alphas"] == "[0.2]"


def test_a_stage_of_an_older_version_keeps_the_runs_settings(folder: Path, report: Report) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["transfer"]["flow"]["forgotten"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    source = opened(Run(str(folder)), report)
    assert source.config.flow.beta == 0.003


# -- what is missing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "figure"),
    [("transfer", "figure3"), ("classify", "figure5"), ("detect", "figure6")],
)
def test_a_stage_that_has_not_run_says_which_command_runs_it(
    folder: Path, stage: str, figure: str
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    needs = {"transfer": ["transfer"], "classify": ["classify", "responses"]}
    for gone in needs.get(stage, [stage]):
        manifest["stages"].pop(gone)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = Run(str(folder))
    built_ = tables.build(run)
    tables.save(built_, run)
    parsed = built(folder, built_)
    assert f"{stage} has not run." in parsed.words
    assert f"distcorr {stage} -r {folder.name}" in parsed.words
    assert figure not in [a.get("id") for a in parsed.all("figure")]


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_a_figure_that_is_missing_or_broken_is_said_to_be(
    folder: Path, report: Report, content: bytes | None
) -> None:
    path = folder / "report" / "figure3.png"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    source = opened(Run(str(folder)), report)
    shown = page_figures.figure(source, "figure3", "Figure 3.", "caption", "alt")
    parsed = Parsed(shown.encode())
    why = "has not been drawn" if content is None else "cannot be read"
    assert f"figure3.png {why}" in parsed.words
    assert f"distcorr report --figures -r {folder.name}" in parsed.words
    assert parsed.all("img") == []
    if content == b"":  # and the page is there
        assert "Figure 6." in built(folder, report).words


def test_any_damage_to_a_figure_is_survived(folder: Path, report: Report) -> None:
    path = folder / "report" / "figure3.png"
    whole_, source = path.read_bytes(), opened(Run(str(folder)), report)
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole_[: rng.integers(1, 20_000)])
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        shown = page_figures.figure(source, "figure3", "Figure 3.", "caption", "alt")
        assert "figure3.png cannot be read" in shown


def test_photographs_that_have_gone_are_counted(folder: Path, report: Report) -> None:
    for image in (folder / "toy").rglob("*.jpg"):
        image.unlink()
    parsed = Parsed(failures(opened(Run(str(folder)), report)).encode())
    assert re.search(r"\d+ photographs cannot be shown, for example .*missing", parsed.words)
    assert not [a for a in parsed.all("button") if a.get("class") == "card"]


def test_no_predictions_no_failures(folder: Path, report: Report) -> None:
    for name in ("predictions.parquet", "predictions-detect.parquet"):
        (folder / "report" / name).unlink()
    bare = dataclasses.replace(report, predictions=None, detections=None)
    assert "Nothing is predicted yet" in failures(opened(Run(str(folder)), bare))


def test_a_run_without_features_is_refused(tmp_path: Path, report: Report) -> None:
    with pytest.raises(DistcorrError, match="no build-db that is finished") as caught:
        page.build(Run(str(tmp_path)), report)
    assert "distcorr run" in caught.value.hint


def test_a_run_of_another_version_is_refused_with_what_to_do(folder: Path, report: Report) -> None:
    with open(folder / "config.toml", "a") as file:
        file.write("\n[compute2]\nold = 1\n")
    with pytest.raises(DistcorrError, match="not of this version") as caught:
        page.build(Run(str(folder)), report)
    assert "--run" in caught.value.hint


# -- the gallery ---------------------------------------------------------------------------------

NAMES = {"bird": ("L_Eye", "R_Eye", "Beak")}


def instance(name: str, category: str = "bird") -> Instance:
    keypoints = np.array([[10, 10], [60, 10], [35, 40]], np.float32)
    box = Box(0, 0, 100, 100)  # alpha 0.1: 10 px are right
    return Instance(name, f"{name}.jpg", category, "val", box, keypoints, np.ones(3, bool))


def predictions(points: dict[tuple[str, str, str], tuple[float, float] | None]) -> pa.Table:
    rows = []
    for (method, name, keypoint), at in points.items():
        x, y = instance(name).keypoints[NAMES["bird"].index(keypoint)].tolist()
        rows.append(
            {"method": method, "category": "bird", "instance": name, "image": f"{name}.jpg"}
            | {"keypoint": keypoint, "x": at and at[0], "y": at and at[1]}
            | {"true_x": x, "true_y": y, "scale": 100.0}
        )
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def wrong(points: dict[tuple[str, str, str], tuple[float, float] | None]) -> list[cases.Case]:
    objects = {name: instance(name) for _, name, _ in points}
    misled = {"NN transfer": cases.COPIED}
    found = predictions(points)
    return cases.wrong(found, ["flow"], objects, NAMES, 0.1, misled)


@pytest.mark.parametrize(
    ("at", "copied", "cause", "near"),
    [
        ((60.0, 19.0), None, cases.SWAP, "R_Eye"),  # at the other eye
        ((35.0, 44.0), None, cases.OTHER, "Beak"),
        ((10.0, 30.0), None, cases.JITTER, ""),
        ((10.0, 30.1), None, cases.MISS, ""),
        ((90.0, 90.0), (85.0, 90.0), cases.COPIED, ""),
        ((90.0, 90.0), (50.0, 90.0), cases.MISS, ""),
        (None, None, cases.NONE, ""),
    ],
)
def test_causes_by_places(
    at: tuple[float, float] | None, copied: tuple[float, float] | None, cause: str, near: str
) -> None:
    points = {("flow", "a", "L_Eye"): at}
    if copied:
        points["NN transfer", "a", "L_Eye"] = copied
    (case,) = wrong(points)
    assert (case.cause, case.near) == (cause, near)
    assert case.allowed == 10
    if at:
        assert case.error == pytest.approx(np.hypot(at[0] - 10, at[1] - 10) / 10)


@pytest.mark.parametrize("le", [True, False])
def test_causes_are_the_kinds_of_errors_that_tables_count(le: bool) -> None:
    rng = np.random.default_rng(3)
    points: dict[tuple[str, str, str], tuple[float, float] | None] = {
        ("flow", str(n), name): (float(x), float(y))
        for n in range(200)
        for name in NAMES["bird"]
        for x, y in [rng.integers(0, 80, 2)]
    }
    objects = {name: instance(name) for _, name, _ in points}
    found = cases.wrong(predictions(points), ["flow"], objects, NAMES, 0.1, {}, le=le)
    types = [NAMES["bird"].index(keypoint) for _, _, keypoint in points]
    kinds = error_types.classify(
        np.array(list(points.values())),
        instance("a").keypoints[types],
        np.full(len(points), 100.0),
        np.array([int(name) for _, name, _ in points]),
        np.array(types),
        error_types.mirror_partners(NAMES["bird"]),
        0.1,
        le=le,
    )
    wanted = {
        (name, keypoint): error_types.KINDS[kind]
        for (_, name, keypoint), kind in zip(points, kinds, strict=True)
        if kind != error_types.CORRECT
    }
    assert {(case.instance, case.keypoint): case.cause for case in found} == wanted
    assert len(set(wanted.values())) == 4


def test_what_is_right_is_no_failure() -> None:
    assert wrong({("flow", "a", "L_Eye"): (10.0, 20.0)}) == []  # on the bound
    assert wrong({("other", "a", "L_Eye"): (99.0, 99.0)}) == []


def test_other_methods_are_told_of_the_same_keypoint() -> None:
    points: dict[tuple[str, str, str], tuple[float, float] | None] = {
        ("flow", "a", "L_Eye"): (90.0, 90.0),
        ("flow", "b", "L_Eye"): (90.0, 90.0),
        ("NN transfer", "a", "L_Eye"): (1.0, 2.0),
        ("other", "a", "Beak"): (3.0, 4.0),
        ("other", "a", "L_Eye"): None,
    }
    found = cases.with_others(wrong(points), predictions(points))
    assert [case.others for case in found] == [(("NN transfer", (1.0, 2.0)),), ()]


def test_categories_take_turns_and_objects_come_once() -> None:
    objects = {f"{c}{n}": instance(f"{c}{n}", c) for c in ("bird", "cat") for n in range(6)}
    made = [
        cases.Case(*("flow", name, keypoint, (0.0, 0.0), (9.0, 9.0), 10.0), error, cases.MISS)
        for place, name in enumerate(sorted(objects))
        for keypoint, error in (("L_Eye", 30.0 - place), ("R_Eye", 3.0 - 0.1 * place))
    ]
    made.append(made[0]._replace(error=np.inf, cause=cases.NONE))
    found = cases.chosen(made, objects, 6)
    assert found == cases.chosen(made[::-1], objects, 6)
    assert [case.kind for case in found] == ["worst"] * 4 + ["typical"] * 2
    assert [case.instance for case in found[:4]] == ["bird0", "cat0", "bird1", "cat1"]
    assert len({case.instance for case in found}) == 6
    middle = np.median([case.error for case in made[:-1]])
    seen = {case.instance for case in found[:4]}
    rest = [case for case in made[:-1] if case.instance not in seen]
    nearest = min(abs(case.error - middle) for case in rest)
    assert abs(found[4].error - middle) == pytest.approx(nearest)
    assert cases.chosen([], objects, 6) == []


def test_cards_show_the_truth_and_the_prediction(drawn: Path, whole: Parsed) -> None:
    cards = [a for a in whole.all("button") if a.get("class") == "card"]
    assert 4 <= len(cards) <= 60
    assert {a["data-kind"] for a in cards} == {"worst", "typical"}
    assert len({a["data-category"] for a in cards}) == 3
    images = [a for a in whole.all("image") if str(a.get("id")).startswith("case")]
    assert len(images) == len(cards)
    assert all(max(int(a["width"] or 0), int(a["height"] or 0)) <= 520 for a in images)


# -- parts ---------------------------------------------------------------------------------------


def test_markup() -> None:
    assert tag("td", "a<b", class_="n", data_v="1", hidden=False) == (
        '<td class="n" data-v="1">a&lt;b</td>'
    )
    assert tag("p", Html("<b>x</b>"), None, 3, open=True) == "<p open><b>x</b>3</p>"
    assert tag("meta", name="a") == '<meta name="a">'
    assert number(-0.04) == "0.0"
    assert number(-1.25, 2, sign=True) == "−1.25"
    assert number(None) == "–"
    assert "[−1.0, 2.0]" in interval({"value": 1.0, "low": -1.0, "high": 2.0})
    assert interval({"psnr": None}, "psnr") == "–"
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["too", "many", "cells"]])


def test_bars_are_as_high_as_their_values() -> None:
    values = {
        ("a", "bird"): Bar(20.0, 10.0, 30.0, 40.0),
        ("b", "bird"): Bar(40.0),
        ("a", "cat"): Bar(None),
    }
    parsed = Parsed(bars(["bird", "cat"], ["a", "b"], values, "words").encode())
    heights = [float(a["height"] or 0) for a in parsed.all("rect")]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    whisker = next(a for a in parsed.all("line") if a.get("class") == "whisker")
    assert float(whisker["y1"] or 0) - float(whisker["y2"] or 0) == pytest.approx(
        heights[0], abs=0.2
    )
    top = float(parsed.all("rect")[1]["y"] or 0)
    mark = next(a for a in parsed.all("path") if a.get("class") == "paper")
    start = re.match(r"M[\d.]+ ([\d.]+)l4 4", str(mark["d"]))
    assert start is not None
    assert float(start[1]) + 4 == pytest.approx(top, abs=0.2)  # at 40, as the other bar's end
    assert "bird, a: 20.0 [10.0, 30.0], paper 40.0" in parsed.words


def test_pictures_become_smaller_and_charts_stay() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 2000, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, format="png")
    uri, width, height = page_figures.embedded(out.getvalue())
    assert uri.startswith("data:image/jpeg;base64,")
    assert (width, height) == (1500, 300)
    assert len(uri) < len(out.getvalue())
    out = io.BytesIO()
    Image.new("RGB", (800, 400), "white").save(out, format="png")
    uri, width, height = page_figures.embedded(out.getvalue())
    assert uri.startswith("data:image/png;base64,")
    assert (width, height) == (600, 300)


def test_cost_counts_tries_and_time(folder: Path, report: Report) -> None:
    source = opened(Run(str(folder)), report)
    key = source.stages["build-db"]["key"]
    for log in (folder / "logs").glob("*"):
        log.unlink()

    def line(shard: int, ended: float | None, error: str = "", **more: object) -> str:
        result: dict[str, Any] | None = {"rows": 5} | dict(more)
        if ended is not None:
            result |= {"seconds": 2.0, "ended": ended, "worker": f"vm:{shard}"}
        return json.dumps({"shard": shard, "error": error, "result": None if error else result})

    first = [line(0, 102.0), line(1, None, "broken"), line(2, None, "broken"), "{cut sho"]
    second = [line(1, 203.0)]
    logs = {"20260101-000000": first, "20260102-000000": second}
    for stamp, lines in logs.items():
        (folder / "logs" / f"build-db-{key}-{stamp}.jsonl").write_text("\n".join(lines))
    (folder / "logs" / f"build-db-00000000-{stamp}.jsonl").write_text(line(9, 1.0))  # another key
    (folder / "logs" / f"transfer-{source.stages['transfer']['key']}-{stamp}.jsonl").write_text(
        line(0, None, aligning=1.5)
    )
    work = page_cost.logged(source)
    assert [(w.shard, w.failed) for w in work if w.stage == "build-db"] == [
        *((0, False), (1, True), (2, True), (1, False))
    ]
    parsed = Parsed(page_cost.cost(source).encode())
    rows = int(source.stages["build-db"]["rows"])
    # work 2 + 2 s; the pause between the logs does not count; 2 workers, 1 mended, 1 failed
    assert f"4.0 {rows / 4:,.0f} 4.0 2 1 1 0 –" in parsed.words
    aligned = int(source.stages["transfer"]["rows"])
    assert f"1.5 {aligned / 1.5:,.0f} – – 0 0 0 –" in parsed.words
    spans = page_cost._spans(work)
    assert [(s.start, s.end) for s in spans] == [(0, 2), (2, 4)]


# -- LaTeX ---------------------------------------------------------------------------------------


def test_latex_tables_are_whole(drawn: Path, report: Report) -> None:
    names = {p.name for p in (drawn / "report").glob("*.tex")}
    assert names == {"table2.tex", "table3.tex", "table4.tex", "figure1.tex"}
    for name in names:
        text = (drawn / "report" / name).read_text()
        assert report.weights in text
        assert "NOT THE PAPER'S WEIGHTS OR DATA" in text
        spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
        assert spec is not None
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(body) > 2
        for line in body:
            assert len(re.findall(r"(?<!\\)&", line)) == len(spec[1]) - 1
        for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
            assert text.count(rule) == 1
    text = (drawn / "report" / "table2.tex").read_text()
    mean = {
        r["method"]: r["value"]
        for r in report.rows
        if (r["table"], r.get("category"), r.get("alpha")) == ("table2", "mean", 0.1)
    }
    best = max(mean, key=lambda method: mean[method])
    line = next(line for line in text.splitlines() if line.startswith(f"{best} &"))
    assert line.endswith(rf"\textbf{{{mean[best]:.1f}}} \\")


def test_latex_escapes_and_forgets_earlier_tables(folder: Path, report: Report) -> None:
    assert latex.escaped("a_b & 5 % {x} ~^\\") == (
        r"a\_b \& 5 \% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    rows = [row for row in report.rows if row["table"] != "table4"]
    (folder / "report" / "mine.tex").write_text("kept")
    names = latex.save(Run(str(folder)), dataclasses.replace(report, rows=rows))
    assert "report/table4.tex" not in names
    left = {p.name for p in (folder / "report").glob("*.tex")}
    assert left == {"mine.tex", *(name.partition("/")[2] for name in names)}


# -- the command ---------------------------------------------------------------------------------


def distcorr(*arguments: str) -> tuple[int, str, str]:
    common._shown.clear()
    done = CliRunner().invoke(app, arguments, prog_name="distcorr", env={"NO_COLOR": "1"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_report_writes_the_page_and_a_look_at_other_settings_does_not(folder: Path) -> None:
    before = (folder / page.NAME).read_bytes()
    (folder / page.NAME).unlink()
    code, _, said = distcorr("report", "-r", str(folder), "--set", "evaluation.keep=3")
    assert (code, "page" in said) == (0, False)
    assert not (folder / page.NAME).exists()
    code, printed, said = distcorr("report", "-r", str(folder), "--json")
    assert code == 0
    assert json.loads(printed)["rows"]
    assert f"page    {folder}/{page.NAME}" in said
    assert "figures" not in said  # nothing has changed: none is drawn anew
    assert (folder / page.NAME).read_bytes() == before


def test_a_page_that_cannot_be_written_costs_no_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[str]:
        raise DistcorrError("Cannot write there", "another folder")

    monkeypatch.setattr(page, "save", refuse)
    code, printed, said = distcorr("report", "-r", str(folder))
    assert code == 0
    assert "table2" in printed
    assert "no page: Cannot write there" in said


def test_of_saved_things_alone(folder: Path, report: Report) -> None:
    """Tables and photographs are enough for all but what the dialogs add to the cards."""
    before = built(folder, report)
    for name in ("transfer", "classify", "detect", "visualize"):
        for part in (folder / name).rglob("*.parquet"):
            part.unlink()
    for part in (folder / "store").rglob("*.parquet"):
        part.unlink()
    assert isinstance(opened(Run(str(folder)), report), Source)
    after = built(folder, report)
    for name in ("section", "figure", "button", "h2", "h3", "img"):
        told = [[a for a in of.all(name) if a or name != "figure"] for of in (before, after)]
        assert told[0] == told[1], name  # a figure of a dialog has no name
    assert "Score maps are not shown: " in after.words


def test_an_older_run_gains_flags_and_nothing_is_computed(
    copy: Path, toy_settings: Callable[..., list[str]]
) -> None:
    (path,) = (copy / "build-db").rglob("instances.parquet")
    table = pq.read_table(path)
    assert set(table["truncated"].to_pylist()) == {False}  # drawn whole
    pq.write_table(table.drop_columns("truncated"), path)
    older = Run(str(copy))
    stage = older.finished("build-db")
    assert stage is not None
    assert {i.truncated for i in FeatureStore(stage).instances} == {None}
    assert older.finished("detect") is not None  # as before: an old run stays readable
    said = run_all(copy, toy_settings("compute.address=inline"), ("build-db",))
    assert said["build-db"].computed == 0
    stage = Run(str(copy)).finished("build-db")
    assert stage is not None
    assert {i.truncated for i in FeatureStore(stage).instances} == {False}
    assert Run(str(copy)).finished("detect") is not None  # no key has changed
