"""Markup of the report page: text is escaped unless it is markup already."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Html(str):
    """Markup that is put into a page as it is; any other text is escaped."""


Content = Html | str | float | int | None


def tag(name: str, /, *content: Content, **attributes: str | int | float | bool | None) -> Html:
    """An element: ``tag("td", 3, class_="number", data_key="3")``.

    Args:
        name: of the element.
        content: markup, or what is escaped; None is left out.
        attributes: "class_" is class, "data_key" is data-key; None and False are left out.
    """
    words = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    start = Html(f"<{name}{words}>")
    return start if name in _VOID else Html(f"{start}{join(content)}</{name}>")


_VOID = ("br", "img", "meta", "input", "hr")


def join(content: Iterable[Content]) -> Html:
    """Content, one after the other."""
    return Html("".join(markup(each) for each in content if each is not None))


def markup(content: Content) -> Html:
    """Content as markup."""
    return content if isinstance(content, Html) else Html(html.escape(str(content), quote=False))


def table(
    heads: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    caption: Content = None,
    *,
    numbers: Sequence[bool] = (),
    sort: bool = False,
    class_: str = "",
) -> Html:
    """A table whose first column is the rows' heads.

    Args:
        heads: of the columns.
        rows: cells; a cell that is a whole ``td`` is taken as it is.
        caption: above.
        numbers: which columns stand to the right; by default all but the first.
        sort: whether its columns sort by a click.
        class_: of the table.
    """
    right = list(numbers) or [n > 0 for n in range(len(heads))]
    kinds = ["n" if each else None for each in right]
    head = join(tag("th", h, scope="col", class_=k) for h, k in zip(heads, kinds, strict=True))
    body = join(tag("tr", join(_cells(row, kinds))) for row in rows)
    words = f"{class_}{' sort' if sort else ''}".strip() or None
    whole = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", head)),
        tag("tbody", body),
        class_=words,
    )
    return tag("div", whole, class_="wide", tabindex=0, role="region", aria_label=_plain(caption))


def _plain(caption: Content) -> str:
    return "table" if caption is None or isinstance(caption, Html) else str(caption)[:80]


def _cells(row: Sequence[Content], kinds: Sequence[str | None]) -> Iterable[Html]:
    for n, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
        if isinstance(cell, Html) and cell.startswith("<td"):
            yield cell
        elif n == 0:
            yield tag("th", cell, scope="row", class_=kind)
        else:
            yield tag("td", cell, class_=kind)


def details(summary: Content, *content: Content, open_: bool = False) -> Html:
    """What is folded away until it is asked for."""
    return tag("details", tag("summary", summary), *content, open=open_)


def data_uri(content: bytes, kind: str) -> str:
    """A picture as part of the page; ``kind`` is "jpeg", "png" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def links(names: Sequence[str]) -> Html:
    """Links to files beside the page, named by their endings."""
    return join(tag("a", n.rpartition(".")[2].upper(), href=n, class_="file") for n in names)


def command(words: str) -> Html:
    """A command to copy."""
    button = tag("button", "copy", type="button", class_="copy", data_copy=words, hidden=True)
    return tag("span", tag("code", words), button, class_="command")


def number(value: float | None, places: int = 1, sign: bool = False) -> str:
    """A number with a real minus, or a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return (text if float(text) else text.lstrip("+-")).replace("-", "−")


def interval(row: Mapping[str, Any], value: str = "value", places: int = 1) -> Html:
    """A value and its interval."""
    prefix = "" if value == "value" else f"{value}_"
    if row.get(value) is None:
        return Html("–")
    ends = (number(row[f"{prefix}{end}"], places) for end in ("low", "high"))
    return join((number(row[value], places), " ", tag("small", f"[{', '.join(ends)}]")))
