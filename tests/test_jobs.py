"""Cluster files are checked by schemas, job scripts say how they are run, uploads stay small."""

from __future__ import annotations

import ast
import copy
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from distcorr.cli.common import ORDER

ROOT = Path(__file__).parents[1]
JOBS = sorted((ROOT / "jobs").glob("*.py"))
UPLOAD = 100 << 20  # bytes that Ray's job server takes of a working directory
RAY = re.search(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


# -- job scripts -----------------------------------------------------------------------------


def test_every_stage_has_a_job_and_so_has_the_whole_paper() -> None:
    assert [path.stem for path in JOBS] == sorted(
        [*(s.replace("-", "_") for s in ORDER), "reproduce"]
    )


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_job_scripts_say_how_they_are_run(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"ray job submit --working-dir . -- python jobs/{path.name}" in doc
    for words in (r"^Resources: ", r"^Duration: (measured|estimated) ", r"^Cost: estimated "):
        assert re.search(words, doc, re.MULTILINE), words
    assert "Safe to submit again" in doc


def test_a_job_script_without_arguments_says_what_it_wants() -> None:
    path = ROOT / "jobs" / "reproduce.py"
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "usage: python " in done.stderr
    assert "RUN DATA WEIGHTS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_a_job_is_its_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr("distcorr.cli.app", called.append)
    three = path.stem in ("build_db", "reproduce")
    arguments = ["s3://b/run", *(["s3://b/voc", "s3://b/net.npz"] if three else []), "-q"]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    exec(compile(path.read_text(), path, "exec"), {"__name__": "__main__"})
    [[command, *words]] = called
    assert command == ("run" if path.stem == "reproduce" else path.stem.replace("_", "-"))
    assert words[words.index("--run") + 1] == "s3://b/run"
    assert words[-1] == "-q"
    if three:
        assert words[words.index("--data") + 1] == "s3://b/voc"
        assert words[words.index("--weights") + 1] == "s3://b/net.npz"


# -- ray up ----------------------------------------------------------------------------------


@pytest.fixture
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return config


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """As Ray itself does it before it starts anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_cluster_yaml_is_valid(cluster: dict[str, Any]) -> None:
    prepared = validated(cluster)
    types = prepared["available_node_types"]
    assert types[prepared["head_node_type"]]["resources"]["CPU"] == 0, "the head runs no work"
    workers = {name: t for name, t in types.items() if name != prepared["head_node_type"]}
    assert any(t["resources"].get("GPU") for t in workers.values())
    assert any("GPU" not in t["resources"] for t in workers.values())
    for node in workers.values():
        assert node["min_workers"] == 0 < node["max_workers"]
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("export RAY_AUTH_MODE=token;" in c for c in prepared[commands])
    assert "/home/ray/.ray/auth_token" in prepared["file_mounts"]
    starts = " ".join(prepared["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts


def test_the_validator_can_fail(cluster: dict[str, Any]) -> None:
    cluster["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validated(cluster)


# -- Kubernetes ------------------------------------------------------------------------------


@pytest.fixture
def rayjob() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "rayjob.yaml").read_text())
    return config


def check_rayjob(job: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests/cluster/rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(job)


def test_rayjob_yaml_is_valid(rayjob: dict[str, Any]) -> None:
    check_rayjob(rayjob)
    spec = rayjob["spec"]
    cluster = spec["rayClusterSpec"]
    assert RAY is not None
    assert cluster["rayVersion"] == RAY[1]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"]
    assert spec["shutdownAfterJobFinishes"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "the head runs no work"
    gpus = [
        g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", "0")
        for g in cluster["workerGroupSpecs"]
    ]
    assert sorted(gpus) == ["0", "1"]
    assert all(g["minReplicas"] == 0 < g["maxReplicas"] for g in cluster["workerGroupSpecs"])


def test_its_entrypoint_is_a_command_of_ours(rayjob: dict[str, Any]) -> None:
    program, *words = rayjob["spec"]["entrypoint"].split()
    assert program == "distcorr"
    done = subprocess.run(
        [sys.executable, "-m", "distcorr", *words[:1], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
    )
    known = re.split(r"[\s,]+", done.stdout)
    assert [w for w in words if w.startswith("-") and w not in known] == []


def misspelt(job: dict[str, Any]) -> None:
    job["spec"]["shutdownAfterJobFinish"] = job["spec"].pop("shutdownAfterJobFinishes")


def number_for_text(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def deep(job: dict[str, Any]) -> None:
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["template"]["spec"]["containers"][0]["resource"] = {}


def unknown_mode(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def no_cluster(job: dict[str, Any]) -> None:
    del job["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("change", [misspelt, number_for_text, deep, unknown_mode, no_cluster])
def test_the_schema_catches(
    rayjob: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    changed = copy.deepcopy(rayjob)
    change(changed)
    with pytest.raises(jsonschema.ValidationError):
        check_rayjob(changed)


# -- the image -------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, which has no continued lines."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    kept = [line for line in lines if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in kept)]


def test_the_image_is_of_the_ray_that_is_tested() -> None:
    (image,) = [rest for word, rest in instructions() if word == "FROM"]
    assert RAY is not None
    assert re.fullmatch(rf"rayproject/ray:{re.escape(RAY[1])}-py3(11|12|13)-gpu", image)
    assert {word for word, _ in instructions()} <= {"FROM", "WORKDIR", "COPY", "RUN"}


def test_what_the_image_copies_is_there_and_enough_to_install() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = []
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = [w for w in rest.split() if not w.startswith("--")]
            copied += [source.removeprefix("./") for source in sources]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, "the build would not see it"
    project = (ROOT / "pyproject.toml").read_text()
    readme = re.search(r'^readme = "(.*)"', project, re.MULTILINE)
    assert readme is not None
    assert {"pyproject.toml", "constraints.txt", "distcorr", readme[1]} <= set(copied)
    runs = " ".join(rest for word, rest in instructions() if word == "RUN")
    extra = re.search(r'"\.\[(\w+)\]"', runs)
    assert extra is not None
    assert re.search(rf"^{extra[1]} = ", project, re.MULTILINE), "an extra that there is"


# -- ray job submit --working-dir . ----------------------------------------------------------


def test_what_a_checkout_uploads_is_small_and_whole(tmp_path: Path) -> None:
    """By Ray's own packing: data, weights, runs and .git stay here, the package goes."""
    from ray._private.runtime_env.packaging import create_package

    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout)
    for name in ("distcorr", "jobs", "tests"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, checkout / name, ignore=leave)
    large = [".git/objects/pack/x.pack", ".venv/lib/big.so", "runs/paper/store/grids/x.parquet"]
    large += ["VOCdevkit/VOC2011/JPEGImages/x.jpg", "net.caffemodel", "my/weights.npz", "VOC.tar"]
    for name in large:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        with (checkout / name).open("wb") as file:
            file.truncate(2 * UPLOAD)  # takes no room on disk
    (checkout / "my_feats.py").write_text("")  # an extractor of the user's own
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True)
    assert package.stat().st_size < UPLOAD / 50
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
    shipped = [p.relative_to(ROOT) for p in (ROOT / "distcorr").rglob("*") if p.is_file()]
    wanted = {str(p) for p in shipped if "__pycache__" not in p.parts}
    assert wanted <= names
    assert names >= {"my_feats.py", *(f"jobs/{path.name}" for path in JOBS)}
    assert not names & set(large)
    assert not [name for name in names if name.startswith("tests/")]
