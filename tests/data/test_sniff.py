"""Which layout a file or folder has."""

import pytest

from distcorr.data.sniff import READERS, recognise
from distcorr.errors import MISSING, DistcorrError
from tests.data.cub_writer import write_cub
from tests.data.pairs_writer import write_pascal, write_spair, write_table, write_willow
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
    assert recognise(f"file://{tmp_path}/table/a.csv") == "table"
    assert recognise("s3://bucket/a.json?region=x") == "coco"


def test_a_broken_voc_is_still_voc(tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "notes.json").touch()
    assert recognise(str(tmp_path)) == "voc"


def test_pairs_are_not_voc_or_a_table_of_objects(tmp_path):
    for write, layout in (
        (write_spair, "spair-71k"),
        (write_pascal, "pf-pascal"),
        (write_willow, "pf-willow"),
        (write_table, "pairs"),
    ):
        assert recognise(write(tmp_path / layout)) == layout
    assert recognise(str(tmp_path / "pairs/pairs.csv")) == "pairs"


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
