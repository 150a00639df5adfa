"""``distcorr fetch`` as a user meets it; what it does is tested in tests/data/test_fetch.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distcorr.data.fetched import ITEMS
from tests.data.test_fetch import KEYPOINTS, NOISE, TAR, known, serve
from tests.test_cli import distcorr, refused

__all__ = ["known", "serve"]  # fixtures


def fetch(to: Path, name: str, *more: str) -> list[str]:
    return ["fetch", name, "--to", str(to), *more]


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, str]:
    contents = {"voc2011": TAR, "keypoints": KEYPOINTS, "caffenet": NOISE}
    for name, content in contents.items():
        (tmp_path / ITEMS[name].file).write_bytes(content)
    return {name: str(tmp_path / ITEMS[name].file) for name in contents}


def test_from_nothing_to_the_command_to_paste(tmp_path: Path, copies: dict[str, str]) -> None:
    to = tmp_path / "d"
    done = distcorr(*fetch(to, "voc2011", "--from", copies["voc2011"]))
    assert (done.returncode, done.stdout) == (0, "")
    assert f"next:  distcorr fetch keypoints --to {to}" in done.stderr
    done = distcorr(*fetch(to, "keypoints", "--from", copies["keypoints"], "--json"))
    found = json.loads(done.stdout)
    assert found["next"] == f"distcorr fetch caffenet --to {to}"
    assert "unverified" in done.stderr
    assert found["sha256"] in done.stderr
    assert set(found) == {
        *("name", "path", "source", "sha256", "verified"),
        *("files", "bytes", "present", "next"),
    }
    done = distcorr(*fetch(to, "caffenet", "--from", copies["caffenet"]))
    assert f"distcorr run -p paper --data {to} --weights {to}/bvlc_ref" in done.stderr
    assert "--dry-run" in done.stderr
    assert "is there already" in distcorr(*fetch(to, "voc2011")).stderr
    assert distcorr(*fetch(to, "voc2011", "-q")).stderr == ""


def test_verify(tmp_path: Path, copies: dict[str, str]) -> None:
    to = tmp_path / "d"
    distcorr(*fetch(to, "voc2011", "--from", copies["voc2011"]))
    whole = distcorr(*fetch(to, "voc2011", "--verify", "--json"))
    assert (whole.returncode, json.loads(whole.stdout)) == (0, {"files": 9, "problems": []})
    (to / "VOCdevkit/VOC2011/JPEGImages/3.jpg").unlink()
    bad = distcorr(*fetch(to, "voc2011", "--verify"))
    assert bad.returncode == 3
    assert bad.stdout == "VOCdevkit/VOC2011/JPEGImages/3.jpg: missing\n"
    assert "1 of 9 files" in bad.stderr
    as_json = distcorr(*fetch(to, "voc2011", "--verify", "--json"))
    assert as_json.returncode == 3
    assert len(json.loads(as_json.stdout)["problems"]) == 1


def test_wrong_words(tmp_path: Path, copies: dict[str, str]) -> None:
    refused(2, "Did you mean 'voc2011'", arguments=fetch(tmp_path, "voc2012"))
    refused(2, "64 hexadecimal", arguments=fetch(tmp_path, "keypoints", "--sha256", "x"))
    refused(2, "of this machine", arguments=["fetch", "voc2011", "--to", "s3://bucket/x"])
    arguments = fetch(tmp_path / "d", "voc2011", "--from", copies["caffenet"])
    refused(3, "wrong md5", "left as it is", arguments=arguments)
    arguments = fetch(tmp_path / "d", "voc2011", "--url", "http://127.0.0.1:1/x")
    refused(3, "127.0.0.1:1", "--from FILE", arguments=arguments)


def test_no_mirror_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ITEMS, "voc2011", replace(ITEMS["voc2011"], urls=()))
    refused(3, "0 of 0 mirrors", arguments=fetch(tmp_path / "d", "voc2011"))
