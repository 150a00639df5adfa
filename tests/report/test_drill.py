"""Behind single failures: votes whose median is the prediction, maps whose maximum it is."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distcorr.algorithms.crop import from_square
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.report import cases, detection, page_cost, page_drill, score_maps
from distcorr.report.cases import Case
from distcorr.report.detection import PRIOR, WITH
from distcorr.report.page_failures import failures
from distcorr.report.page_source import Source, opened
from distcorr.report.predictions import finished as finished_of
from distcorr.report.predictions import predictions
from distcorr.report.score_maps import Heat, heats
from distcorr.report.tables import Report
from distcorr.report.votes import votes
from tests.report.test_page import Parsed


@pytest.fixture(scope="module")
def run(drawn: Path) -> Run:
    return Run(str(drawn))


@pytest.fixture(scope="module")
def source(run: Run) -> Source:
    return opened(run, Report([], "weights", "data", [], 0.95))


def of_table(rows: list[dict[str, Any]]) -> list[Case]:
    """A case of every prediction, right or wrong."""
    return [
        Case(
            *(row["method"], row["instance"], row["keypoint"], (row["x"], row["y"])),
            *((row["true_x"], row["true_y"]), 0.1 * row["scale"], 1.0, cases.MISS),
        )
        for row in rows
        if row["x"] is not None
    ]


# -- votes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"keep": 2}, {"strict": True}, {"order": "similarity"}])
def test_the_median_of_those_that_are_asked_is_the_prediction(
    run: Run, source: Source, settings: dict[str, object]
) -> None:
    evaluation = dataclasses.replace(source.config.evaluation, **settings)  # type: ignore[arg-type]
    made = finished_of(run, evaluation)
    table = predictions(run, evaluation).to_pylist()
    found = [c for c in of_table(table) if c.method in made.methods]
    said = votes(made, found)
    assert len(said) == len(found) > 50
    for case in found:
        own = said[case.method, case.instance, case.keypoint]
        asked = np.array([vote.at for vote in own if vote.asked])
        np.testing.assert_allclose(np.median(asked, axis=0), case.at)
        assert len(asked) <= evaluation.keep
        for vote in own:
            known = source.instances[vote.neighbor]
            k = source.store.keypoint_names[known.category].index(case.keypoint)
            assert (vote.at is None) == (not known.visible[k])
            if vote.at is not None:
                off = np.hypot(vote.at[0] - case.true[0], vote.at[1] - case.true[1])
                assert vote.error == pytest.approx(off / case.allowed)
        if evaluation.order == "deformation":
            energies = [vote.energy for vote in own]
            assert energies == sorted(energies)


def test_other_methods_have_no_votes(run: Run, source: Source) -> None:
    table = [r for r in predictions(run).to_pylist() if r["method"] == "NN transfer"]
    assert votes(finished_of(run), of_table(table)) == {}


# -- score maps ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detected(run: Run, source: Source) -> tuple[list[Case], dict[tuple[str, str, str], Heat]]:
    made = detection.opened(run)
    table = detection.predictions(made.detected, made.etas).to_pylist()
    found = cases.with_others(
        [c for c in of_table(table) if c.method.endswith(WITH)],
        detection.predictions(made.detected, made.etas),
    )
    said, lacking = heats(run, made, source.store, found)
    assert lacking == []
    return found, said


def test_the_largest_response_is_the_prediction(
    detected: tuple[list[Case], dict[tuple[str, str, str], Heat]],
) -> None:
    found, said = detected
    assert len(said) == len(found) > 50
    for case in found:
        heat = said[case.method, case.instance, case.keypoint]
        assert heat.response is not None
        at = heat.centres.reshape(-1, 2)[heat.response.argmax()]
        np.testing.assert_allclose(from_square(at, heat.box, heat.side), case.at, atol=1e-6)
        assert heat.scores is not None
        assert heat.scores.min() >= 0
        assert heat.scores.max() <= 1
        prior = dict(case.others).get(PRIOR)
        assert heat.peak == prior
        assert (heat.prior is None) == (prior is None)
        if prior and heat.prior is not None:
            at = heat.centres.reshape(-1, 2)[heat.prior.argmax()]
            np.testing.assert_allclose(from_square(at, heat.box, heat.side), prior, atol=1e-6)


def test_a_box_scored_anew_is_the_map_that_was_kept(
    run: Run,
    source: Source,
    detected: tuple[list[Case], dict[tuple[str, str, str], Heat]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, (found, before) = detection.opened(run), detected
    kept = {
        (m.instance, m.keypoint): m
        for layer, category in made.detected.pairs
        for m in made.detected.maps(layer, category)
    }
    mine = [case for case in found if (case.instance, case.keypoint) in kept]
    assert mine
    monkeypatch.setattr(score_maps, "_kept", lambda *_: {})
    anew, _ = heats(run, made, source.store, mine)
    for case in mine:
        key = case.method, case.instance, case.keypoint
        of = kept[case.instance, case.keypoint]
        np.testing.assert_allclose(anew[key].scores, 1 / (1 + np.exp(-of.scores)), rtol=1e-5)
        np.testing.assert_allclose(anew[key].response, before[key].response, rtol=1e-5)
        both = (anew[key].prior, before[key].prior)
        assert (both[0] is None) == (both[1] is None) == np.isnan(of.mean).any()
        if both[0] is not None:
            expected = np.exp(-np.square(of.centres - of.mean).sum(axis=2) / (2 * of.sigma**2))
            np.testing.assert_allclose(both, [expected] * 2)


def test_a_prior_of_another_neighbour_is_not_shown(
    run: Run,
    source: Source,
    detected: tuple[list[Case], dict[tuple[str, str, str], Heat]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where an object's own photograph is in both splits: it was left out when predicting."""
    found, _ = detected
    peaks = score_maps._peaks

    def moved(*of: object) -> dict[tuple[str, str], tuple[float, float]]:
        return {key: (x + 50, y) for key, (x, y) in peaks(*of).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(score_maps, "_peaks", moved)
    said, _ = heats(run, detection.opened(run), source.store, found[:5])
    assert all(heat.peak and heat.prior is heat.response is None for heat in said.values())
    assert all(heat.scores is not None for heat in said.values())


def test_without_the_features_the_prior_is_what_is_shown(
    run: Run,
    source: Source,
    detected: tuple[list[Case], dict[tuple[str, str, str], Heat]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, before = detected
    monkeypatch.setattr(score_maps, "_table", lambda *_: "")
    said, lacking = heats(run, detection.opened(run), source.store, found)
    assert lacking == ["The store has no block10: most of its cards show the prior."]
    without = [key for key, heat in said.items() if heat.scores is None]
    assert 0 < len(without) < len(said) == len(found)
    for key in without:
        assert said[key].response is None
        np.testing.assert_array_equal(said[key].prior, before[key].prior)


def test_without_portable_detectors_what_is_kept_is_shown(
    source: Source, detected: tuple[list[Case], dict[tuple[str, str, str], Heat]], copy: Path
) -> None:
    run, (found, before) = Run(str(copy)), detected
    said, lacking = heats(run, detection.opened(run), source.store, found)
    assert len(lacking) == 3
    assert lacking[0].endswith("are not shown: detectors/butterfly.npz is not there.")
    assert 0 < len(said) < len(before)


# -- on the page ---------------------------------------------------------------------------------


def test_the_dialogs_say_it(drawn: Path, source: Source) -> None:
    parsed = Parsed((drawn / "report" / "index.html").read_bytes())
    methods = [a["data-method"] for a in parsed.all("button") if a.get("class") == "card"]
    tables = [a for a in parsed.all("table") if a.get("class") == "votes"]
    assert len(tables) == sum(not str(m).endswith(WITH) for m in methods) > 0
    rows = [a for a in parsed.all("tr") if "data-vote" in a]
    dots = [a for a in parsed.all("circle") if "data-vote" in a]
    assert len(rows) == len(dots) > 3 * len(tables)
    assert all(a["tabindex"] == "0" for a in rows)
    maps = [a for a in parsed.all("svg") if a.get("class") == "heat"]
    assert len(maps) >= 2 * sum(str(m).endswith(WITH) for m in methods) > 0
    ids = {a["id"] for a in parsed.all("image") if "id" in a}
    assert {str(a["href"])[1:] for a in parsed.all("use")} <= ids
    assert " at ✕, " in parsed.words


def test_what_has_gone_is_said(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "run")
    for name in ("transfer", "detect"):
        for part in (tmp_path / "run" / name).rglob("*.parquet"):
            part.unlink()
    run = Run(str(tmp_path / "run"))
    table = [run.folder.read_table(f"report/{n}.parquet") for n in ("predictions",)]
    told = Report([], "weights", "data", [], 0.95, table[0])
    parsed = Parsed(failures(opened(run, told)).encode())
    assert "Votes of neighbours are not shown: " in parsed.words
    assert "Score maps are not shown: " in parsed.words
    assert [a for a in parsed.all("button") if a.get("class") == "card"]
    assert not [a for a in parsed.all("tr") if "data-vote" in a]


def test_a_neighbour_that_cannot_be_read_costs_its_picture(
    run: Run, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_of(run)
    case = next(c for c in of_table(predictions(run).to_pylist()))
    (said,) = votes(made, [case]).values()
    vote = next(each for each in said if each.asked)
    assert page_drill._thumb(source, case, vote) is not None
    monkeypatch.setitem(vars(source), "photographs", Folder("/nowhere"))
    assert page_drill._thumb(source, case, vote) is None
    row = Parsed(page_drill._row(source, case, 0, vote).encode())
    assert vote.neighbor in row.words


def test_heat_maps_are_pictures_of_the_values() -> None:
    values = np.array([[0.0, 1.0, 0.5], [0.25, 0.75, 1.0]])
    with Image.open(io.BytesIO(page_drill._png(values))) as picture:
        light = np.asarray(picture.convert("L"), int)
    assert light.shape == (2, 3)
    order = np.argsort(values.ravel(), kind="stable")
    assert (np.diff(light.ravel()[order]) >= 0).all()
    assert light.ravel()[order[0]] < 20 < 200 < light.ravel()[order[-1]]
    assert len(set(light.ravel().tolist())) == 5
    with Image.open(io.BytesIO(page_drill._png(np.ones((2, 2))))) as picture:
        assert set(np.asarray(picture).ravel().tolist()) == {0}


# -- cost ----------------------------------------------------------------------------------------


def test_what_twice_the_workers_save_is_near_the_best_order() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        tasks, workers = rng.integers(1, 20, 6).tolist(), int(rng.integers(1, 4))
        best = min(
            max(sum(t for t, w in zip(tasks, of, strict=True) if w == n) for n in range(workers))
            for of in itertools.product(range(workers), repeat=len(tasks))
        )
        found = page_cost.makespan(tasks, workers)
        assert best <= found <= best * (4 / 3 - 1 / (3 * workers)) + 1e-9
    assert page_cost.makespan([3, 3, 2, 2, 2], 2) == 7  # by hand; the best is 6


def test_logs_of_every_stage_say_the_same(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "run")
    source = opened(Run(str(tmp_path / "run")), Report([], "w", "d", [], 0.95))
    logs = tmp_path / "run" / "logs"
    for old in logs.glob("*"):
        old.unlink()

    def write(stage: str, lines: list[dict[str, Any]]) -> None:
        name = f"{stage}-{source.stages[stage]['key']}-20260101-000000.jsonl"
        (logs / name).write_text("\n".join(map(json.dumps, lines)))

    new = {"seconds": 4.0, "ended": 104.0, "worker": "vm:1", "peak_mb": 700.4}
    older = {"rows": 5, "aligning": 1.5, "seconds": 9.0}  # what stands at the top counts
    lines = [{"shard": 0, "error": "", "result": older} | new]
    lines.append({"shard": 1, "error": "broken", "result": None} | new | {"peak_mb": 900.6})
    lines.append({"shard": 1, "error": "", "result": {"rows": 1}} | new | {"worker": "vm:2"})
    lines.append({"shard": 2, "error": "", "result": {"rows": 1}} | new | {"seconds": 6.0})
    lines.append({"shard": 3, "error": "", "result": {}, "seconds": None, "ended": None})
    write("transfer", lines)
    write("classify", [{"shard": 0, "error": "", "result": {"rows": 5, "training": 2.0}}])
    work = page_cost.logged(source)
    assert [w.seconds for w in work if w.stage == "transfer"] == [4, 4, 4, 6, None]
    assert {w.stage for w in work if w.partly} == {"classify"}
    parsed = Parsed(page_cost.cost(source).encode())
    rows = int(source.stages["transfer"]["rows"])
    # 4 + 4 + 6 s of two workers from 98 to 104; one mended, none failed; the most memory
    assert f"14.0 {rows / 14:,.0f} 6.0 2 1 0 0 901" in parsed.words
    said = "transfer: 3 tasks, 8.0 s by 2, 6.0 s by 4: 2.0 s less. The longest task alone takes so"
    assert said in parsed.words
    assert "Of classify the logs have the main part of the work alone." in parsed.words
