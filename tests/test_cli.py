"""The command line as a user meets it: help, exit codes, JSON, and wrong input of every kind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.cli import app, common
from distcorr.data.run import Run

Settings = Callable[..., list[str]]
GOLDEN = Path(__file__).parent / "golden"
COMMANDS = ("", "run", "build-db", "neighbors", "transfer", "classify", "responses")
COMMANDS += ("detect", "visualize", "predict", "status", "report", "pck", "config")
COMMANDS += ("ablate", "match", "features", "store", "store ls", "store verify", "plan")
COMMANDS += ("data", "data check", "fetch", "doctor", "evaluate-pairs")


def distcorr(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The command: in this process, which has imported all, or with ``options`` in its own."""
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "distcorr", *arguments]
    if options:
        environment = os.environ | environment | options.pop("env", {})  # type: ignore[operator]
        return subprocess.run(command, capture_output=True, text=True, env=environment, **options)  # type: ignore[call-overload]
    common._shown.clear()  # a terminal writes to the streams that it found
    done = CliRunner().invoke(app, arguments, prog_name="distcorr", env=environment)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception  # a traceback is what users must never see
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def sets(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, toy_settings: Settings) -> Path:
    """A finished toy run, made by the command."""
    folder = tmp_path_factory.mktemp("cli") / "toy"
    done = distcorr(
        "run", "-r", str(folder), "--address", "inline", *sets(toy_settings()), cwd=folder.parent
    )
    assert done.returncode == 0, done.stderr
    assert "block10 flow" in done.stdout
    assert "Traceback" not in done.stderr
    return folder


def test_run_leaves_a_report(toy: Path) -> None:
    assert {p.name for p in (toy / "report").iterdir()} >= {
        "tables.json",
        "table2.csv",
        "table3.csv",
        "figure3.png",
        "figure4.png",
        "figure5.png",
    }
    picture = np.asarray(Image.open(toy / "report" / "figure3.png").convert("L"))
    assert picture.std() > 30  # something is drawn


def test_figure5_of_a_category(toy: Path) -> None:
    from distcorr.report import charts

    before = (toy / "report" / "figure5.png").read_bytes()
    classified = charts.opened(Run(str(toy))).classified
    category = next(c for c in classified.categories if c != charts._usual(classified))
    done = distcorr("report", "-r", str(toy), "-c", category)
    assert done.returncode == 0, done.stderr
    assert (toy / "report" / "figure5.png").read_bytes() != before
    refused(2, "nonsense", arguments=["report", "-r", str(toy), "-c", "nonsense"])


def test_a_report_leaves_nothing_of_an_earlier_one(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(toy, folder)
    files = {path.name for path in (folder / "report").iterdir()}
    assert {"figure4.csv", "figure4.png", "table3.csv"} <= files
    (folder / "report" / "mine.csv").write_text("kept")
    done = distcorr(
        "report", "-r", str(folder), "--figures", "--set", "evaluation.c=1e-8"
    )  # which responses did not use
    assert done.returncode == 0, done.stderr
    tables = (folder / "report" / "tables.json").read_text()
    assert "Figure 4 is left out, being by another C" in tables
    left = {path.name for path in (folder / "report").iterdir()}
    assert files - left == {"figure4.csv", "figure4.png", "figure4.svg"}
    assert "mine.csv" in left


def test_a_c_that_was_not_trained(toy: Path) -> None:
    arguments = ["report", "-r", str(toy), "--set", "evaluation.c=0.5"]
    refused(2, "evaluation.c must be a C that was trained", "1e-06", arguments=arguments)
    arguments = ["run", "-r", str(toy), "--set", "evaluation.c=0.5"]  # before anything is done
    refused(2, "evaluation.c must be a C that was trained", "1e-06", arguments=arguments)
    done = distcorr("report", "-r", str(toy), "--set", "evaluation.c=1e-6", "--json")
    rows = [r for r in json.loads(done.stdout)["rows"] if r["table"] == "table3"]
    assert {row["c"] for row in rows if row["method"] != "most frequent type"} == {1e-6}


def test_report_as_json_and_csv(toy: Path, tmp_path: Path) -> None:
    done = distcorr("report", "-r", str(toy), "--json", "--csv", str(tmp_path / "csv"))
    assert done.returncode == 0
    parsed = json.loads(done.stdout)
    assert parsed == json.loads((toy / "report" / "tables.json").read_text())
    assert {"rows", "weights", "data", "notes", "level"} == set(parsed)
    assert {"table", "method", "category", "alpha", "value", "low", "high", "n"} == set(
        parsed["rows"][0]
    )
    assert (tmp_path / "csv" / "table2.csv").read_bytes() == (
        toy / "report" / "table2.csv"
    ).read_bytes()


def test_status(toy: Path) -> None:
    done = distcorr("status", "-r", str(toy), "--json")
    assert [(row["stage"], row["finished"]) for row in json.loads(done.stdout)] == [
        ("build-db", True),
        ("neighbors", True),
        ("transfer", True),
        ("classify", True),
        ("responses", True),
        ("detect", True),
        ("visualize", True),
    ]
    assert "18/18 shards" in distcorr("status", "-r", str(toy)).stdout


def test_a_run_repeats_itself_from_its_own_settings(toy: Path) -> None:
    done = distcorr("transfer", "-r", str(toy), "--address", "inline", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["computed"] == 0


def test_dry_run_writes_nothing(toy: Path, tmp_path: Path, toy_settings: Settings) -> None:
    files = {p: p.stat().st_mtime_ns for p in toy.rglob("*")}
    done = distcorr("run", "-r", str(toy), "-n", "--set", "flow.beta=0.01")
    assert done.returncode == 0, done.stderr
    assert re.search(r"build-db +0 of 18 shards to do", done.stdout)
    assert re.search(r"transfer +12 of 12 shards to do", done.stdout)
    assert {p: p.stat().st_mtime_ns for p in toy.rglob("*")} == files


def test_config_shows_values_and_sources() -> None:
    done = distcorr("config", "-p", "paper", "--set", "flow.beta=0.01")
    assert re.search(r"beta = 0\.01 +# sec\. 3", done.stdout)
    assert json.loads(distcorr("config", "--json").stdout)["preset"] == "smoke"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_agreed(command: str, request: pytest.FixtureRequest) -> None:
    """The set of options is frozen; write the file anew where a change is meant (delete it)."""
    done = distcorr(*command.split(), "--help")
    assert done.returncode == 0
    text = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip() + "\n"
    golden = GOLDEN / f"help-{command.replace(' ', '-') or 'distcorr'}.txt"
    if not golden.exists():
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
        pytest.fail(f"{golden} did not exist and was written: read it, then run again")
    assert text == golden.read_text()


# -- features and stores -----------------------------------------------------------------------


def test_features_prints_table_1() -> None:
    done = distcorr("features", "caffenet")
    assert done.returncode == 0
    (conv4,) = [line.split() for line in done.stdout.splitlines() if line.startswith("conv4 ")]
    assert conv4 == ["conv4", "384", "131", "16", "17", "13", "131/16"]
    names = [row["name"] for row in json.loads(distcorr("features", "--json").stdout)]
    assert "alexnet" in names


def test_a_store_is_listed_and_verified(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "run")
    rows = json.loads(distcorr("store", "ls", "-r", str(tmp_path / "run"), "--json").stdout)
    assert {"grids-block10", "grids-sift20", "points-block10"} <= {
        row["table"].rpartition("-")[0] for row in rows
    }
    store = str(tmp_path / "run" / "store")
    assert distcorr("store", "ls", "--store", store).stdout.count("\n") == len(rows) + 1
    whole = distcorr("store", "verify", "--store", store)
    assert (whole.returncode, whole.stdout) == (0, "")
    part = min(Path(store).glob("grids-block10-*/*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 255
    part.write_bytes(content)
    bad = distcorr("store", "verify", "--store", store)
    assert bad.returncode == 3
    assert part.name in bad.stdout
    assert "--remove" in bad.stderr
    mended = distcorr("store", "verify", "--store", store, "--remove")
    assert mended.returncode == 0
    assert not part.exists()
    again = distcorr("build-db", "-r", str(tmp_path / "run"), "--address", "inline", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0]["computed"] == 1
    assert part.read_bytes() != bytes(content)
    assert distcorr("store", "verify", "--store", store).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("features", "alexnt"), "Did you mean 'alexnet'"),
        (("features", "caffenet", "--weights", "nowhere.npz"), "there is no such file"),
        (("features", "os:path"), "os:path"),
        (("store", "ls", "--store", "nowhere"), "There is no store"),
        (("store", "verify", "-r", "nowhere"), "There is no run"),
    ],
)
def test_wrong_features_and_stores(arguments: tuple[str, ...], message: str) -> None:
    done = distcorr(*arguments)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


# -- wrong input -------------------------------------------------------------------------------


def refused(code: int, *words: str, arguments: list[str], **options: object) -> str:
    done = distcorr(*arguments, **options)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["biuld-db"], 2, ["Did you mean 'build-db'"]),
        (["run", "-p", "papr"], 2, ["Did you mean 'paper'", "hint:"]),
        (["run", "-p", "nowhere.toml"], 2, ["no configuration file nowhere.toml"]),
        (["run", "--set", "flow.bta=1"], 2, ["Did you mean 'flow.beta'"]),
        (["run", "--limit", "some"], 2, ["--limit"]),
        (["status", "-r", "nowhere"], 2, ["no run in", "nowhere"]),
        (["report", "-r", "nowhere"], 2, ["no run in"]),
        (["transfer", "-r", "nowhere"], 2, ["needs the output of build-db", "distcorr build-db"]),
        (["run", "-p", "paper", "--data", "x"], 3, ["weights"]),
    ],
)
def test_wrong_words(tmp_path: Path, arguments: list[str], code: int, words: list[str]) -> None:
    refused(code, *words, arguments=arguments, cwd=tmp_path)


@pytest.fixture
def voc(toy: Path, tmp_path: Path) -> Path:
    shutil.copytree(toy / "toy", tmp_path / "voc")
    return tmp_path / "voc"


def lite(voc: Path, tmp_path: Path, *more: str) -> list[str]:
    network = ["--set", "features.network=efficientnet-lite0"]
    where = ["--data", str(voc), "-r", str(tmp_path / "run"), "--address", "inline"]
    return ["build-db", "-p", "paper", *where, *network, *more]


def test_missing_folder(tmp_path: Path) -> None:
    refused(3, "nowhere", arguments=lite(tmp_path / "nowhere", tmp_path))


def test_unknown_category(voc: Path, tmp_path: Path) -> None:
    refused(2, "Did you mean 'fish'", arguments=lite(voc, tmp_path, "-c", "fihs"))


def test_unwritable_run_folder(voc: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    refused(2, "is a file", arguments=lite(voc, tmp_path))


def test_relative_run_folder_in_a_ray_job(tmp_path: Path) -> None:
    environment = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    refused(2, "would vanish", "s3://", arguments=["run"], env=environment, cwd=tmp_path)


def test_no_ray_at_the_address(voc: Path, tmp_path: Path) -> None:
    arguments = lite(voc, tmp_path)
    arguments[arguments.index("inline")] = "127.0.0.1:1"
    refused(2, "Cannot reach Ray at 127.0.0.1:1", "--address local", arguments=arguments)


def test_a_dry_run_draws_nothing(tmp_path: Path) -> None:
    done = distcorr("run", "-n", "-r", str(tmp_path / "run"))
    assert done.returncode == 0
    assert "draws the toy set first" in done.stdout
    assert not (tmp_path / "run").exists()


def test_data_and_weights_leave_a_reader_and_network_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('preset = "paper"\n[dataset]\nname = "birds:load"\n')
    arguments = ["-p", str(mine), "--data", "x", "-r", str(tmp_path / "run")]
    refused(3, "weights", arguments=["build-db", *arguments])
    weights = ["--set", "features.network=efficientnet-lite0"]
    refused(2, "birds:load", arguments=["build-db", *arguments, *weights])
    mine.write_bytes(b"\xff\xfe")
    refused(2, "mine.toml is not TOML", arguments=["build-db", *arguments])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["nowhere.npz"]),
        (b"not weights", ["weights.npz"]),
    ],
)
def test_bad_weights(voc: Path, tmp_path: Path, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / ("weights.npz" if content else "nowhere.npz")
    if content:
        path.write_bytes(content)
    arguments = ["build-db", "-p", "paper", "--data", str(voc), "--weights", str(path)]
    refused(3, *words, arguments=[*arguments, "-r", str(tmp_path / "run")])


def test_weights_of_the_wrong_network(voc: Path, tmp_path: Path) -> None:
    path = tmp_path / "caffenet.npz"
    np.savez(path, **{"conv1.weight": np.zeros((64, 3, 11, 11)), "conv1.bias": np.zeros(64)})
    arguments = ["build-db", "-p", "paper", "--data", str(voc), "--weights", str(path)]
    refused(2, "wrong network", arguments=[*arguments, "-r", str(tmp_path / "run")])


def test_weights_with_another_checksum(voc: Path, tmp_path: Path) -> None:
    arguments = lite(voc, tmp_path, "--set", "features.weights_sha256=abc")
    refused(3, "checksum", "abc", arguments=arguments)


def test_broken_files_are_counted_and_named(voc: Path, tmp_path: Path) -> None:
    """A cut photograph, a missing one and malformed XML cost what they hold, and no more."""
    photographs = sorted((voc / "VOCdevkit/VOC2011/JPEGImages").glob("*.jpg"))
    photographs[0].write_bytes(photographs[0].read_bytes()[:500])
    photographs[1].unlink()
    broken = sorted((voc / "VOCdevkit/VOC2011/Annotations").glob("*.xml"))[2]
    broken.write_text("<annotation><object>")
    done = distcorr(*lite(voc, tmp_path, "--set", "features.shard=4"))
    assert "Traceback" not in done.stderr, done.stderr
    for name in (photographs[0].name, photographs[1].name, broken.name):
        assert name in done.stderr + distcorr("status", "-v", "-r", str(tmp_path / "run")).stdout
