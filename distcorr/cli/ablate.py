"""``ablate``: what the points that the paper leaves open are worth."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from distcorr import config as configuration
from distcorr.cli.common import (
    RESULTS,
    AddressOption,
    JsonOption,
    Options,
    QuietOption,
    RunOption,
    SetOption,
    app,
    existing,
    terminal,
)
from distcorr.errors import DistcorrError, did_you_mean

EXPERIMENTS = ("transfer", "beta")
TARGETS = 25  # per category; not in the paper: enough to see points, quick enough to try


@app.command("ablate", rich_help_panel=RESULTS)
def ablate_command(
    experiment: Annotated[
        str, typer.Argument(metavar="[transfer|beta]", help="Open points, or beta from training.")
    ] = "transfer",
    run: RunOption = "runs/smoke",
    targets: Annotated[
        int, typer.Option("--targets", metavar="N", help="Targets per category; 0 for all.")
    ] = TARGETS,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this variant; repeat for more."),
    ] = None,
    settings: SetOption = None,
    address: AddressOption = "",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Change one factor of section 3 at a time, and say what PCK gains or loses.

    transfer: open points of the alignment, on a subset of the run's targets. beta: the weight
    of deformation from training instances (leaving one photograph out), then both on the targets.

    Example:  distcorr ablate transfer -r runs/paper --targets 50
    """
    if experiment not in EXPERIMENTS:
        raise DistcorrError(
            f"There is no ablation {experiment!r}.{did_you_mean(experiment, EXPERIMENTS)}",
            f"ablations: {', '.join(EXPERIMENTS)}",
        )
    if targets < 0:
        raise DistcorrError(f"--targets must be 0 or more, got {targets}", "0 takes all")
    if only and experiment == "beta":
        raise DistcorrError("--only chooses among the variants of transfer.", "leave it out")
    opened = existing(run)
    config, _ = Options(run, "", settings, address=address).resolve()

    from distcorr.data.features import FeatureStore
    from distcorr.report.ablation import Ablation, save
    from distcorr.stages.ablate import chosen
    from distcorr.stages.cluster import Session
    from distcorr.stages.pipeline import Context, required
    from distcorr.terminal import print_rows

    variants = chosen(only or ())
    shown = terminal(quiet)
    with Session(config.compute) as session:
        context = Context(config, opened, session, shown)
        if experiment == "beta":
            rows = _beta(context, targets)
        else:
            rows = _compared(context, variants, targets)
    stamp = FeatureStore(required("build-db", "ablate", opened)).stamp
    changes = configuration.difference(configuration.load(config.preset), config)
    about = [line for line in changes if not line.startswith(("dataset.", "features.weights"))]
    level = config.evaluation.level
    built = Ablation(rows, stamp["weights"], stamp["data"], targets, level, about)
    names = save(built, opened, f"ablation-{experiment}")
    if as_json:
        print(built.to_json(), end="")
    else:
        print_rows(built.wide())
        print(f"\nweights: {built.weights}\ndata:    {built.data}")
        for note in built.notes:
            print(f"note:    {note}")
    for name in names:
        shown.say(f"table   {opened}/{name}")


def _compared(context: Any, variants: Any, targets: int) -> list[dict[str, Any]]:
    from distcorr.report.ablation import compare

    return compare(_scored(context, variants, targets), context.config.evaluation)


def _scored(context: Any, variants: Any, targets: int) -> list[Any]:
    from distcorr.report.ablation import score
    from distcorr.stages.ablate import run_variants

    made = run_variants(context, variants, targets, context.progress)
    seed = context.config.seed
    return [
        (m.variant.name, m.variant.point, score(m.run, m.config.evaluation, seed)) for m in made
    ]


def _beta(context: Any, targets: int) -> list[dict[str, Any]]:
    """The curve on training instances, then the targets with the paper's beta and the chosen."""
    from distcorr.report.ablation import best, compare
    from distcorr.stages.ablate import BETAS, DEFAULT, Variant, of_betas

    curve = of_betas(dict.fromkeys((context.config.flow.beta, *BETAS)))  # the run's own first
    scored = _scored(context, curve, targets)
    rows = [
        row | {"variant": f"train {row['variant']}"}
        for row in compare(scored, context.config.evaluation)
    ]
    settings = {variant.name: variant.settings[:1] for variant in curve}
    flows = {m: name for m, name in best(scored).items() if m.endswith("flow")}
    finals = [Variant(DEFAULT)]
    for name in dict.fromkeys(flows.values()):
        whose = ", ".join(method for method in flows if flows[method] == name)
        finals.append(Variant(f"{name}, best for {whose}", "O11", settings[name]))
    rows += [
        row | {"variant": f"test {row['variant']}"}
        for row in _compared(context, tuple(finals), targets)
    ]
    return rows
