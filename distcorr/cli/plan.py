"""``plan``: what a run will cost, before it is made."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    START,
    CategoryOption,
    DataOption,
    JsonOption,
    LimitOption,
    Options,
    PresetOption,
    SetOption,
    WeightsOption,
    app,
    existing,
    terminal,
)
from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from distcorr.config import Config
    from distcorr.data.run import Run
    from distcorr.report.plan import Forecast
    from distcorr.report.workload import Counts

NETWORK = "caffenet"  # of the paper, where neither weights nor a run say which


@app.command(rich_help_panel=START)
def plan(
    preset: PresetOption = "",
    settings: SetOption = None,
    data: DataOption = "",
    weights: WeightsOption = "",
    category: CategoryOption = None,
    limit: LimitOption = None,
    like: Annotated[
        str, typer.Option("--from", metavar="RUN", help="Use the rates that this run had.")
    ] = "",
    instances: Annotated[
        int, typer.Option(metavar="N", min=0, help="So many objects, without --data.")
    ] = 0,
    photographs: Annotated[
        int, typer.Option(metavar="N", min=0, help="In so many photographs; one object in each.")
    ] = 0,
    categories: Annotated[
        int, typer.Option(metavar="N", min=1, help="In so many categories of equal size.")
    ] = 20,
    cpus: Annotated[int, typer.Option(metavar="N", min=1, help="Cores that work.")] = 2,
    gpus: Annotated[int, typer.Option(metavar="N", min=0, help="GPUs that work.")] = 0,
    price_cpu: Annotated[
        float, typer.Option(metavar="$", min=0, help="Of a core for an hour.")
    ] = 0.0,
    price_gpu: Annotated[
        float, typer.Option(metavar="$", min=0, help="Of a GPU for an hour.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """What a run will cost: time, memory, disk and money of every stage.

    Example:  distcorr plan -p paper --instances 1000000 --cpus 64 --price-cpu 0.05
    """
    from distcorr.report.plan import Cluster, declared, forecast
    from distcorr.report.rates import Rates, measured

    run = existing(like) if like else None
    options = Options(like, preset, settings, data, weights, category, limit)
    config, _ = options.resolve()
    counts = _counts(config, run, instances, photographs, categories)
    rates = measured(run) if run else Rates()
    layers, tables = declared(config, _network(config)) if not run else _of_run(run, config)
    cluster = Cluster(cpus, gpus, price_cpu, price_gpu)
    found = forecast(config, counts, layers, tables, rates, cluster)
    if as_json:
        print(json.dumps(_plain(found), indent=1))
    else:
        _show(found)


def _counts(
    config: Config, run: Run | None, instances: int, photographs: int, categories: int
) -> Counts:
    """The data set's numbers: those given, else of the annotations, else of the run."""
    from distcorr.data import datasets
    from distcorr.data.features import FeatureStore
    from distcorr.report.workload import assumed, counted

    if instances:
        return assumed(instances, min(photographs or instances, instances), categories)
    stage, made = (run.current("build-db"), run.config()) if run else (None, None)
    if stage and made and made.dataset == config.dataset:
        return counted(FeatureStore(stage).instances)
    if config.dataset.name == "toy":
        raise DistcorrError(
            "distcorr plan needs to know how much data there is, and got neither.",
            "--data VOC counts its annotations; or give numbers: --instances 100000",
        )
    from distcorr.data.storage import Folder

    return counted(datasets.load(config.dataset, Folder("."), config.seed).instances)


def _network(config: Config) -> str:
    """Whose layers: of the weights if there are some, else as asked for, else the paper's."""
    from distcorr.data.weights import load_weights

    features = config.features
    if features.weights:
        return load_weights(features.weights, features.network, features.weights_sha256).network
    return NETWORK if features.network == "auto" else features.network


def _of_run(run: Run, config: Config) -> tuple[Any, tuple[str, ...]]:
    from distcorr.data.features import FeatureStore
    from distcorr.report.rates import layers_of

    stage = run.current("build-db")
    assert stage is not None  # or there were no rates
    store = FeatureStore(stage)
    return layers_of(store, config), tuple(store.tables)


def _plain(found: Forecast) -> dict[str, Any]:
    """As JSON has it: what is not known is null."""

    def row(values: dict[str, Any]) -> dict[str, Any]:
        nan = (k for k, v in values.items() if isinstance(v, float) and math.isnan(v))
        return values | dict.fromkeys(nan)

    return found._asdict() | {
        "stages": [row(stage._asdict()) for stage in found.stages],
        "tables": [size._asdict() for size in found.tables],
        "cluster": found.cluster._asdict(),
        "wall": found.wall,
        "dollars": found.dollars,
    }


def _show(found: Forecast) -> None:
    from distcorr.terminal import print_rows

    where = f"{found.cluster.cpus} CPUs" + (
        f" and {found.cluster.gpus} GPUs" if found.cluster.gpus else ""
    )
    print(
        f"{found.instances:,} instances in {found.photographs:,} photographs and "
        f"{found.categories} categories, on {where}\n"
    )
    print_rows(
        [
            {
                "stage": each.stage,
                "shards": each.shards,
                "work": duration(each.work),
                "wall": duration(each.wall),
                "longest shard": duration(each.longest),
                "GB": round(each.gigabytes, 2),
                "MB a worker": round(each.worker_mb),
                "MB driver": round(each.driver_mb),
                "$": round(each.dollars, 2),
                "rates": each.basis,
                "ends by": each.bound,
            }
            for each in found.stages
        ]
    )
    money = f", $ {found.dollars:,.2f}" if found.dollars else ""
    print(f"\ntogether {duration(found.wall)}{money}, the report not included\n")
    print_rows(
        [
            {
                "table": size.table,
                "of": size.rows_of,
                "rows": size.rows,
                "GB": None if size.gigabytes is None else float(f"{size.gigabytes:.3g}"),
            }
            for size in found.tables
        ]
    )
    print()
    for note in found.notes:
        terminal().say(note)


def duration(seconds: float) -> str:
    """As people say it: 45s, 12m05s, 3h20m, 4.2d."""
    if seconds < 99.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 99.5:
        return f"{int(minutes)}m{int(seconds % 60):02d}s"
    if hours < 72:
        return f"{int(hours)}h{int(minutes % 60):02d}m"
    return f"{hours / 24:.1f}d"
