"""How a run was set up: commands, data, versions, every setting with its source."""

from __future__ import annotations

from distcorr import config as configuration
from distcorr.report import paper
from distcorr.report.page_html import Content, Html, command, details, join, table, tag
from distcorr.report.page_source import Source, shown


def setup(source: Source) -> Html:
    """Everything that is needed to repeat the run, and to cite it."""
    return join(
        (
            tag("h3", "Commands"),
            _commands(source),
            tag("h3", "Weights and data"),
            _data(source),
            tag("h3", "Versions"),
            _versions(source),
            tag("h3", "Settings"),
            _settings(source),
            tag("h3", "Citation"),
            tag("p", "Of the paper:"),
            _copied(paper.BIBTEX),
        )
    )


def _commands(source: Source) -> Html:
    name = source.name
    lines = {
        f"distcorr run -p {name}/config.toml -r {name}-again": "the same run in a new folder",
        f"distcorr run -r {name}": "what is missing or out of date in this one",
        f"distcorr report -r {name} --figures": "tables, figures and this page, from what is saved",
        f"distcorr config -r {name}": "every setting as TOML, with its source",
        f"distcorr status -v -r {name}": "shards, and what was left out",
    }
    items = (tag("li", command(line), " ", tag("small", why)) for line, why in lines.items())
    where = tag("p", f"In the folder that holds {name}/:")
    return join((where, tag("ul", *items, class_="plain")))


def _data(source: Source) -> Html:
    counts = source.counts()
    heads = list(counts[0]) if counts else []
    body: list[list[Content]] = [
        [f"{x:,}" if isinstance(x, int) else x for x in row.values()] for row in counts
    ]
    if len(counts) > 1:
        total: list[Content] = ["all"]
        total += [f"{sum(row[head] for row in counts):,}" for head in heads[1:]]
        body.append(total)
    stamp = join(
        (
            tag("b", "weights "),
            source.report.weights,
            tag("br"),
            tag("b", "data "),
            source.report.data,
        )
    )
    left = f"{len(source.store.dead)} instances could not be read." if source.store.dead else None
    return join(
        (
            tag("p", stamp),
            table(heads, body, "What is in the data set") if body else None,
            tag("p", left) if left else None,
        )
    )


def _versions(source: Source) -> Html:
    """A column for each stage; one if all are alike."""
    made = {name: entry.get("versions", {}) for name, entry in source.stages.items()}
    alike = len({tuple(sorted(each.items())) for each in made.values()}) == 1
    columns = {"all stages": next(iter(made.values()))} if alike else made
    names = list(dict.fromkeys(name for each in columns.values() for name in each))
    body = [[name, *(each.get(name, "–") for each in columns.values())] for name in names]
    right = [False] * (1 + len(columns))
    return table(["", *columns], body, numbers=right, class_="small")


def _settings(source: Source) -> Html:
    """All of them; what differs from the paper preset is marked."""
    preset = dict((n, v) for n, v, _ in configuration.settings(configuration.PRESETS["paper"]))
    body = []
    for name, value, origin in configuration.settings(source.config):
        same = preset[name] == value
        differs = None if same else tag("b", f"paper preset: {shown(preset[name])}")
        body.append([name, tag("td", tag("code", shown(value))), differs, origin])
    heads = ["setting", "value", "differs", "where the default comes from"]
    count = sum(row[2] is not None for row in body)
    words = "As the finished stages were made; evaluation as this page was."
    shown_table = table(heads, body, words, numbers=[False] * 4, sort=True, class_="settings")
    return details(f"{len(body)} settings, {count} unlike the paper preset", shown_table)


def _copied(text: str) -> Html:
    button = tag("button", "copy", type="button", class_="copy", data_copy=text, hidden=True)
    return tag("div", tag("pre", text), button, class_="copied")
