"""Which layout a file or folder has."""

import pytest

from distcorr.data.sniff import READERS, recognise
from distcorr.errors import MISSING, DistcorrError
from tests.data.cub_writer import write_cub
from tests.data.voc_writer import Voc, good


def test_each_layout(tmp_path):
    made = Voc(tmp_path / "voc")
    good(made)
    write_cub(tmp_path / "cub" / "CUB_200_2011")
    for name in ("coco/annotations/a.json", "coco2/a.json", "table/a.csv", "table2/a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for folder in ("voc", "cub", "coco", "coco2", "table", "table2"):
        assert recognise(str(tmp_path / folder)) == folder.rstrip("2")
    assert recognise(str(tmp_path / "coco2/a.json")) == "coco"
    assert recognise(str(tmp_path / "table2/a.parquet")) == "table"
    assert recognise("s3://bucket/a.csv?region=x") == "table"


def test_a_broken_voc_is_still_voc(tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "notes.json").touch()
    assert recognise(str(tmp_path)) == "voc"


def test_none_and_several(tmp_path):
    with pytest.raises(DistcorrError, match="holds no annotations") as caught:
        recognise(str(tmp_path))
    assert caught.value.exit_code == MISSING
    assert all(name in caught.value.hint for name in READERS)
    with pytest.raises(DistcorrError, match="does not exist, or holds"):
        recognise(str(tmp_path / "nowhere"))
    (tmp_path / "a.json").touch()
    (tmp_path / "a.csv").touch()
    with pytest.raises(DistcorrError, match="coco or as table") as caught:
        recognise(str(tmp_path))
    assert "--name coco" in caught.value.hint
