"""Foreign files run no code and lead nowhere else; clusters ask for a token."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distcorr.config import ComputeConfig
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.weights import load_weights
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.cluster import Session
from distcorr.uris import refuse_password, without_secrets
from tests.data.voc_writer import Voc, good

SOURCES = sorted((Path(__file__).parents[1] / "distcorr").rglob("*.py"))


# -- code in files ---------------------------------------------------------------------------


class Bomb:
    """What a pickle of it does to whoever loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def bombs(mark: Path) -> dict[str, bytes]:
    """Weight files with a bomb, by name."""
    archive, member, nested = io.BytesIO(), io.BytesIO(), io.BytesIO()
    conv1 = np.zeros((2, 3, 3, 3), np.float32)
    np.savez(archive, **{"conv1.weight": conv1, "fc6.weight": np.array([Bomb(mark)], object)})
    np.savez(member, **{"conv1.weight": conv1})
    with zipfile.ZipFile(member, "a") as file:
        file.writestr("evil.npy", pickle.dumps(Bomb(mark)))
    torch.save({"_conv_stem.weight": torch.zeros(2), "x": Bomb(mark)}, nested)
    plain = pickle.dumps(Bomb(mark))
    return {
        "alexnet-array.npz": archive.getvalue(),
        "alexnet-member.npz": member.getvalue(),
        "alexnet-plain.npz": plain,
        "net.pth": nested.getvalue(),
        "old.pth": plain,
        "alexnet.caffemodel": plain,
    }


@pytest.mark.parametrize("name", bombs(Path("x")))
def test_weights_run_no_code(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    content = bombs(mark)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DistcorrError) as caught:
        load_weights(str(tmp_path / name))
    assert caught.value.exit_code == MISSING
    assert not mark.exists()


def test_the_bombs_are_live(tmp_path: Path) -> None:
    content = bombs(tmp_path / "mark")["net.pth"]
    torch.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("state", [[torch.zeros(2)], torch.zeros(2), {"a": 1, "b": "text"}])
def test_a_checkpoint_that_is_no_dictionary_of_arrays(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(DistcorrError, match="damaged or not what their name says"):
        load_weights(str(tmp_path / "net.pth"))


def calls(tree: ast.AST) -> dict[str, list[ast.Call]]:
    """Every call by the words that name it, ``np.load``."""
    found: dict[str, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.setdefault(ast.unparse(node.func), []).append(node)
    return found


UNSAFE = {"eval", "exec", "os.system", "os.popen", "yaml.load", "torch.jit.load", "shelve.open"}
UNSAFE |= {"joblib.load", "shutil.unpack_archive"}
UNSAFE |= {f"{m}.{f}" for m in ("pickle", "cloudpickle", "marshal") for f in ("load", "loads")}
DEMANDS = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}


def test_no_source_reads_code_from_files_or_writes_where_an_archive_says() -> None:
    found = []
    for path in SOURCES:
        for name, made in calls(ast.parse(path.read_text())).items():
            option, wanted = DEMANDS.get(name, ("shell", None))
            for call in made:
                given = [ast.literal_eval(k.value) for k in call.keywords if k.arg == option]
                right = given == ([] if wanted is None else [wanted])
                if name in UNSAFE or name.endswith((".extractall", ".extract")) or not right:
                    found.append(f"{path.name}:{call.lineno} {name}")
    assert found == []


# -- names that lead elsewhere ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", ".."])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "inside").mkdir()
    folder = Folder(tmp_path / "inside")
    attempts: list[Callable[[], object]] = [
        lambda: folder.read(name),
        lambda: folder.read_table(name),
        lambda: folder.write(name, b""),
        lambda: folder.delete(name),
        lambda: folder.exists(name),
        lambda: folder.sizes(name),
        lambda: folder / name,
    ]
    for attempt in attempts:
        with pytest.raises(DistcorrError, match="leads out of the folder"):
            attempt()
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_names_with_dots_are_names(tmp_path: Path) -> None:
    Folder(tmp_path).write("a..b/.c", b"1")
    assert Folder(tmp_path).read("a..b/.c") == b"1"


@pytest.mark.parametrize("image", ["../../../secret", "{root}/secret", "..", "../JPEGImages/x"])
def test_annotations_cannot_name_a_photograph_outside(tmp_path: Path, image: str) -> None:
    voc = Voc(tmp_path / "voc")
    good(voc)
    image = image.format(root=tmp_path)
    voc.lists("train.txt", "2011_000001", image)
    for name in ("secret.jpg", "secret.xml"):
        (tmp_path / name).write_bytes(b"<annotation/>")
    keypoints = (voc.annotations / "bird/2011_000001_1.xml").read_text()
    other = keypoints.replace("<image>2011_000001</image>", f"<image>{image}</image>")
    assert other != keypoints
    (voc.annotations / "bird/2011_000009_1.xml").write_text(other)
    dataset = voc.load()
    assert [i.id for i in dataset.instances] == ["2011_000001#0"]
    assert any("without a VOC file" in warning for warning in dataset.warnings)


def test_entities_of_foreign_annotations_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("stolen")
    voc = Voc(tmp_path / "voc")
    good(voc)
    file = voc.annotations / "bird/2011_000001_1.xml"
    head = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]>'
    stolen = file.read_text().replace('name="Left_Eye"', 'name="Left_Eye">&e;</keypoint><keypoint')
    (voc.annotations / "bird/2011_000001_2.xml").write_text(head + stolen)
    assert "stolen" not in str(voc.load())


def test_a_manifest_cannot_name_a_store_outside(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.record("build-db", {"key": "k", "store": "../elsewhere"})
    with pytest.raises(DistcorrError, match="leads out of the folder"):
        run.current("build-db")


# -- passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/x",
        "s3://key:sec/ret@bucket/x",
        "s3://key:123/ret@bucket/x",
        "S3://key:se@cret@bucket",
        "gs://user:secret@bucket/x?scheme=http",
        "hdfs://user:secret@host:8020/x",
        "abfs://account:key/with+slash@container/x",
    ],
)
def test_passwords_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(DistcorrError, match="password in it") as caught:
        refuse_password(uri)
    said = str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")
    assert not [word for word in ("sec", "ret", "123", "slash", "bucket") if word in said]
    with pytest.raises(DistcorrError, match="password in it"):
        Folder(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a:b@c",
        "gs://anonymous@bucket/x",
        "hdfs://user@host:8020/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "runs/a:b@c",
        "C:/runs",
        "",
    ],
)
def test_other_uris_are_taken(uri: str) -> None:
    refuse_password(uri)


def test_what_is_shown_of_a_uri() -> None:
    shown = without_secrets("hdfs://user:secret@host:8020/x?token=secret")
    assert shown == "hdfs://host:8020/x"


# -- Ray -------------------------------------------------------------------------------------


def test_a_ray_of_our_own_has_a_token_no_dashboard_and_loopback_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    given: dict[str, Any] = {}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    Session(ComputeConfig(address="local")).connect()
    assert given["include_dashboard"] is False
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"  # binds loopback
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ.get("RAY_AUTH_MODE") is None  # on, as Ray has it
    assert not list(tmp_path.iterdir()), "no token is left in the home folder"
