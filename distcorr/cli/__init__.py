"""The command line: parse, call, print. Heavy imports happen inside the commands."""

from distcorr.cli import (  # noqa: F401 (this registers the commands)
    ablate,
    data,
    doctor,
    evaluate_pairs,
    features,
    fetch,
    match,
    pck,
    pipeline,
    plan,
    predict,
    results,
    visualize,
)
from distcorr.cli.common import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``distcorr`` and ``python -m distcorr``."""
    app(prog_name="distcorr")
