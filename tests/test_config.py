from __future__ import annotations

import numpy as np
import pytest

from distcorr import config as configuration
from distcorr.config import PRESETS, Config, FlowConfig
from distcorr.errors import DistcorrError, did_you_mean


@pytest.mark.parametrize("name", PRESETS)
def test_dump_and_load_give_the_same_configuration(name: str) -> None:
    config = configuration.load(
        name, ["dataset.categories=['bird', 'cow']", "flow.beta=0.5", 'dataset.root="a \\"b\\" c"']
    )
    text = configuration.dump(config, comments=True)
    assert configuration.load(document=configuration.parse_toml(text.encode(), "x")) == config


def test_later_layers_win() -> None:
    document = {"preset": "paper", "flow": {"beta": 0.1, "shard": 7}}
    config = configuration.load("smoke", ["flow.beta=0.2"], document)
    assert (config.preset, config.flow.beta, config.flow.shard) == ("paper", 0.2, 7)


def test_the_papers_values() -> None:
    paper = PRESETS["paper"]
    assert (paper.neighbors.k, paper.flow.beta, paper.flow.features) == (
        25,
        3e-3,
        ("auto", "sift20"),
    )
    assert (paper.evaluation.order, paper.evaluation.keep) == ("deformation", 5)
    assert paper.evaluation.alphas == (0.1, 0.05, 0.025)


@pytest.mark.parametrize("targets", [0, 1, 2, 3, 7, 10, 11])
def test_chosen_targets_are_evenly_spaced(targets: int) -> None:
    members = list(range(10))
    chosen = FlowConfig(targets=targets).chosen(members)
    assert len(chosen) == (min(targets, 10) or 10)
    gaps = np.diff([-1 - chosen[0], *chosen, 19 - chosen[-1]])  # mirrored at both ends
    assert gaps.max() - gaps.min() <= 2
    assert FlowConfig(targets=targets).chosen([]) == []
    if targets in (0, 10, 11):
        assert chosen == members


def test_every_setting_says_where_its_default_comes_from() -> None:
    assert all(source.strip() for _, _, source in configuration.settings(Config()))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("flow.bta=1", "Did you mean 'flow.beta'?"),
        ("flow=1", "Unknown setting"),
        ("flow.beta", "KEY=VALUE"),
        ("flow.beta=0", "above 0, got 0.0"),
        ("flow.beta=nan", "above 0"),
        ("flow.beta=fast", "type float, got 'fast'"),
        ("evaluation.keep=2.5", "type int"),
        ("evaluation.keep=true", "type int"),
        ("evaluation.strict=1", "type bool"),
        ("evaluation.order=defromation", "Did you mean 'deformation'?"),
        ("flow.side=227", "0 (the network's input) or 500"),
        ("flow.features=[]", "one or more layers"),
        ("flow.units=cell", "Did you mean 'cells'?"),
        ("flow.direction=backward", "inverse, forward"),
        ("flow.truncation=-0.1", "flow.truncation must be 0, or a finite number above 0"),
        ("flow.truncation=inf", "flow.truncation must be 0, or a finite number above 0"),
        (
            "flow.truncation=0.1",
            "flow.truncation = 0.1 needs flow.solver = 'paper', got 'decoupled'",
        ),
        ("features.context=-1", "features.context must be 0 or more"),
        ("flow.targets=-1", "0 or more"),
        ("flow.order=data", "Unknown setting 'flow.order'"),
        ("evaluation.copying=nearst", "Did you mean 'nearest'?"),
        ("evaluation.keep=0", "1 or more"),
        ("neighbors.k=0", "1 or more, got 0"),
        ("seed=-1", "0 or more, got -1"),
        ("compute.gpus_per_worker=1.5", "a whole number"),
        ("evaluation.alphas=[]", "one or more"),
        ("evaluation.level=1.0", "between 0 and 1"),
        ("dataset.categories=[1]", "dataset.categories"),
        ("features.control=shuffled", "Did you mean 'shuffled-weights'?"),
    ],
)
def test_wrong_settings_say_what_was_expected(override: str, words: str) -> None:
    with pytest.raises(DistcorrError) as caught:
        configuration.load("paper", [override])
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_unknown_preset_and_broken_toml() -> None:
    with pytest.raises(DistcorrError, match="Did you mean 'paper'"):
        configuration.load("papper")
    with pytest.raises(DistcorrError, match=r"mine\.toml is not TOML"):
        configuration.parse_toml(b"a = = b", "mine.toml")


def test_difference_leaves_compute_out() -> None:
    old = configuration.load("paper")
    new = configuration.load("paper", ["flow.beta=0.01", "compute.workers=7"])
    assert configuration.difference(old, new) == ["flow.beta: 0.003 -> 0.01"]


def test_did_you_mean() -> None:
    assert did_you_mean("dogs", ["cat", "dog"]) == " Did you mean 'dog'?"
    assert did_you_mean("zebra", ["cat", "dog"]) == ""


def test_errors_survive_pickling() -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(DistcorrError("a", "b", 3)))
    assert (copy.message, copy.hint, copy.exit_code) == ("a", "b", 3)


def test_the_configuration_knows_every_solver() -> None:
    from distcorr.algorithms.flow import SOLVERS

    for solver in SOLVERS:
        assert configuration.load("paper", [f"flow.solver={solver}"]).flow.solver == solver
    assert PRESETS["paper"].flow.solver == SOLVERS[0]
