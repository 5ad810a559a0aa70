"""What notebooks show of populations, in plain HTML without scripts: the heaviest drafts, and how they grew.

A notebook may be light or dark whatever the system is, and may be shown where style sheets are dropped. So colours are mixed
from the colour of the text around, lines and bars have the one accent that is legible on both, and every text is in the markup
itself. Nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from exptilt.draft import Draft, shortened
from exptilt.keys import Floats
from exptilt.markup import Child, Html, element, joined
from exptilt.populations.growth import Card, Column, Columns, Walk

_MOST_DRAFTS, _MOST_CARDS, _MOST_COLUMNS, _MOST_CHAINS = 8, 6, 9, 8
_CARD, _GAP, _WIRE = 58, 6, 24  # pixels: the height of a card, between two cards, between two columns
_WIDE, _HIGH, _LEFT, _LOW = 560, 120, 44, 22  # pixels of the plot of a chain, and of the labels at its left and below
_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")
_STYLE = """
.exptilt{--soft:color-mix(in srgb,currentColor 68%,transparent);--line:color-mix(in srgb,currentColor 18%,transparent);
--tint:color-mix(in srgb,currentColor 6%,transparent);--accent:#4482d6;--pale:color-mix(in srgb,var(--accent) 14%,transparent);
font:14px/1.5 system-ui,-apple-system,"Segoe UI","Liberation Sans",sans-serif;font-variant-numeric:tabular-nums;
max-width:62rem;padding:.3rem .1rem;text-align:left;color:var(--jp-content-font-color1,var(--vscode-editor-foreground,inherit))}
.exptilt div,.exptilt span,.exptilt summary{box-sizing:border-box;overflow-wrap:anywhere}
.exptilt .xt-text{font:12.5px/1.55 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;white-space:pre-wrap;
unicode-bidi:isolate;max-height:9.5em;overflow:auto;display:block}
.exptilt .xt-chosen{background:var(--tint);border-left:3px solid var(--accent);padding:.45rem .8rem;border-radius:0 6px 6px 0}
.exptilt .xt-facts{color:var(--soft);margin:.5rem 0 .2rem;display:flex;flex-wrap:wrap;gap:0 1.2rem}
.exptilt .xt-facts b{font-weight:600;color:var(--jp-content-font-color1,var(--vscode-editor-foreground,currentColor))}
.exptilt .xt-head{font-weight:600;margin:.9rem 0 .35rem}
.exptilt .xt-soft{color:var(--soft);font-weight:400}
.exptilt .xt-note{border-left:3px solid #b8860b;padding:.05rem .7rem;margin:.4rem 0;max-width:48rem}
.exptilt .xt-bar{display:inline-block;width:4.2rem;height:.42rem;border-radius:3px;background:var(--line);overflow:hidden;
vertical-align:.08rem;margin-right:.5rem}
.exptilt .xt-bar span{display:block;height:100%;background:var(--accent);border-radius:3px}
.exptilt .xt-shares{display:grid;grid-template-columns:fit-content(16rem) max-content;gap:.1rem 1rem;margin:.5rem 0}
.exptilt .xt-shares .xt-bar{width:9rem}
.exptilt .xt-scroll{overflow-x:auto;max-width:100%;padding-bottom:.3rem}
.exptilt table.xt-table{border-collapse:collapse;margin:.2rem 0;font-size:13px;width:auto;border:0}
.exptilt .xt-table thead tr th,.exptilt .xt-table tbody tr td{background:none;border:0;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;max-width:34rem;white-space:normal;font-size:13px}
.exptilt .xt-table thead tr th{color:var(--soft);font-weight:400}
.exptilt .xt-table tbody tr,.exptilt .xt-table tbody tr:hover{background:none}
.exptilt .xt-table .xt-n{text-align:right;white-space:nowrap}
.exptilt .xt-table .xt-words{min-width:9rem}
.exptilt .xt-tree{display:flex;align-items:flex-start;width:max-content}
.exptilt .xt-column{width:11.5rem;display:flex;flex-direction:column;flex:none}
.exptilt .xt-title{height:22px;font-size:12px;white-space:nowrap;overflow:hidden}
.exptilt .xt-card{border:1px solid var(--line);border-radius:6px;padding:.2rem .5rem;overflow:hidden}
.exptilt .xt-card.xt-path{border:2px solid var(--accent);background:var(--pale);padding:calc(.2rem - 1px) calc(.5rem - 1px)}
.exptilt .xt-card .xt-text{white-space:normal;overflow:hidden;font-size:12px;line-height:17px;height:34px}
.exptilt .xt-card .xt-share{font-size:11px;line-height:14px;color:var(--soft);display:block;white-space:nowrap}
.exptilt .xt-gap{width:4.5rem;text-align:center;color:var(--soft);font-size:12px;flex:none;align-self:center}
.exptilt svg{display:block;overflow:visible;flex:none;max-width:none}
.exptilt .xt-wire{fill:none;stroke:currentColor;opacity:.3}
.exptilt .xt-wire.xt-path{stroke:var(--accent);stroke-width:2;opacity:1}
.exptilt .xt-plot text{font-size:12px;fill:var(--soft)}
.exptilt .xt-curve{fill:none;stroke:var(--accent);stroke-width:1.6;stroke-linejoin:round;opacity:.75}
.exptilt .xt-grid{stroke:var(--line)}
.exptilt img{display:block;height:4.5rem;min-width:2rem;image-rendering:pixelated;border-radius:3px;margin:0}
.exptilt .xt-card img{height:2.1rem;display:inline-block}
.exptilt .xt-answer{font-size:1.6rem;font-weight:600;line-height:1.3}
.exptilt .xt-advice{max-width:48rem;margin:.1rem 0 .7rem}
.exptilt details{margin:.6rem 0 .2rem}
.exptilt summary{cursor:pointer;color:var(--soft)}
"""


def framed(*children: Child) -> str:
    """The pieces of a record with their style sheet, as `_repr_html_` returns them."""
    return joined(Html(f"<style>{_STYLE}</style>"), element("div", *children, class_="exptilt")).source


def head(title: str, note: str = "") -> Html:
    """The heading of a piece."""
    return element("div", title, element("span", f" {note}", class_="xt-soft") if note else None, class_="xt-head")


def facts(*told: tuple[str, str]) -> Html:
    """Numbers with their names, on one line where it is wide enough."""
    return element("div", *(element("span", f"{name} ", element("b", value)) for name, value in told), class_="xt-facts")


def passage(text: str, *, chosen: bool = False) -> Html:
    """A response as it is, which scrolls where it is long; its picture where it is one."""
    if _PICTURE.fullmatch(text):
        return element("img", src=text, alt="the picture that was drawn")
    return element("div", text or "(empty)", class_="xt-text xt-chosen" if chosen else "xt-text", dir_="auto")


def bar(share: float) -> Html:
    """A share of the whole as a bar."""
    return element("span", element("span", style=f"width:{100 * share:.1f}%"), class_="xt-bar", aria_hidden="true")


def number(value: float) -> str:
    """A number of three digits, as people write it."""
    return f"{value:.3g}".replace("-", "−")


def table(names: Sequence[tuple[str, str]], rows: Sequence[Sequence[Child]]) -> Html:
    """A table that scrolls where it is too wide. names: the head of each column, and its class."""
    heads = [element("th", name, class_=kind) for name, kind in names]
    cells = [[element("td", cell, class_=kind) for cell, (_, kind) in zip(row, names, strict=True)] for row in rows]
    body = element("tbody", *(element("tr", *row) for row in cells))
    return element("div", element("table", element("thead", element("tr", *heads)), body, class_="xt-table"), class_="xt-scroll")


# ------------------------------------------------------------------------------------------------------------ drafts


def heaviest(drafts: Sequence[Draft], weights: Floats, rewards: Floats, *, opened: bool) -> Html:
    """The different drafts with the most weight. opened: whether they are shown at once."""
    total: dict[str, float] = {}
    rated: dict[str, float] = {}
    for draft, weight, reward in zip(drafts, weights.tolist(), rewards.tolist(), strict=True):
        name = draft.glimpse
        total[name] = total.get(name, 0.0) + weight
        rated.setdefault(name, reward)
    shown = sorted(total, key=lambda name: -total[name])[:_MOST_DRAFTS]
    rows = [[joined(bar(total[name]), f"{total[name]:.1%}"), number(rated[name]), passage(name)] for name in shown]
    found = table([("weight", "xt-n"), ("reward", "xt-n"), ("text", "xt-words")], rows)
    left = len(total) - len(shown)
    rest = element("div", f"and {left} with less weight: to_pandas() has all", class_="xt-soft") if left else None
    count = f"{len(drafts)} draft{'s' * (len(drafts) != 1)}, {len(total)} different"
    return joined(element("details", element("summary", count), found, rest, open=opened))


# ------------------------------------------------------------------------------------------------------------ growth


def drawn(grown: Columns | Walk | None, rewards: Floats) -> Html | None:
    """How the population grew; None where there is nothing to draw. rewards: of its rows."""
    if isinstance(grown, Walk):
        return _walk(grown, rewards) if grown.steps > 1 else None
    return None if grown is None else _tree(grown)


def _tree(grown: Columns) -> Html:
    title, unit = ("Tree", "candidates") if grown.kind == "candidates" else ("Generations", "particles")
    parts: list[Child] = []
    before: int | None = None
    for place in _places(len(grown.columns)):
        if before is not None and place > before + 1:
            parts.append(element("div", f"… {place - before - 1} more …", class_="xt-gap"))
        elif before is not None:
            parts.append(_wires(grown.columns[before], grown.columns[place]))
        parts.append(_column(grown.columns[place], grown.columns[place - 1] if place else None))
        before = place
    note = f"{len(grown.columns)} step{'s' * (len(grown.columns) != 1)}; bars are shares among the {unit}, the path is marked"
    return joined(head(title, note), element("div", element("div", *parts, class_="xt-tree"), class_="xt-scroll"))


def _places(count: int) -> list[int]:
    """The columns that are shown: the first and the last ones."""
    front = (_MOST_COLUMNS + 1) // 2
    return [*range(count)] if count <= _MOST_COLUMNS else [*range(front), *range(count - _MOST_COLUMNS + front, count)]


def _kept(column: Column) -> list[int]:
    """The cards that are shown: those on the path, then the heaviest, in their order."""
    ranked = sorted(range(len(column.cards)), key=lambda place: (not column.cards[place].path, -column.cards[place].share))
    return sorted(ranked[:_MOST_CARDS])


def _column(column: Column, before: Column | None) -> Html:
    kept = _kept(column)
    cards = [_card(column.cards[place], before) for place in kept]
    left = len(column.cards) - len(kept)
    more = element("div", f"and {left} more", class_="xt-title xt-soft") if left else None
    title = element("div", column.title, element("span", f" {column.note}", class_="xt-soft"), class_="xt-title")
    return element("div", title, *cards, more, class_="xt-column")


def _card(card: Card, before: Column | None) -> Html:
    parent = before.cards[card.parent].text if before is not None and card.parent >= 0 else ""
    if _PICTURE.fullmatch(card.text):
        said: Html = element("img", src=card.text, alt="a picture")
    else:
        added = card.text.removeprefix(parent).replace("\n", " ⏎ ")
        said = element("span", shortened(added, 42) if added else "(ended before)", class_="xt-text", dir_="auto")
    share = element("span", bar(card.share), f"{card.share:.0%}", class_="xt-share")
    style = f"height:{_CARD}px;margin-bottom:{_GAP}px"
    kind = "xt-card xt-path" if card.path else "xt-card"
    return element("div", said, share, class_=kind, style=style, title=shortened(card.text, 400))


def _wires(before: Column, column: Column) -> Html:
    """Curves from the cards of a column to their parents in the column before, as far as both are shown."""
    rows, olds = _kept(column), _kept(before)
    high = 22 + max(len(rows), len(olds)) * (_CARD + _GAP)

    def middle(row: int) -> float:
        return 22 + row * (_CARD + _GAP) + _CARD / 2

    curves = [
        (column.cards[place].path, middle(olds.index(column.cards[place].parent)), middle(row))
        for row, place in enumerate(rows)
        if column.cards[place].parent in olds
    ]
    half = _WIRE / 2
    paths = [
        element("path", d=f"M0 {up:g}C{half:g} {up:g} {half:g} {down:g} {_WIRE} {down:g}", class_=f"xt-wire{' xt-path' * path}")
        for path, up, down in sorted(curves)
    ]
    return element("svg", *paths, width=_WIRE, height=high, viewBox=f"0 0 {_WIRE} {high}", aria_hidden="true")


def _walk(walk: Walk, rewards: Floats) -> Html:
    """The rewards along the chains."""
    values = [reward for reward in rewards.tolist() if reward > float("-inf")]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    lines = [_grid(value, low, high) for value in sorted({low, high})]
    curves = [element("path", d=_curve(walk, rewards, chain, low, high), class_="xt-curve") for chain in _chains(walk)]
    ends = [
        element("text", f"step {step}", x=x, y=_HIGH - 5, text_anchor=anchor)
        for step, x, anchor in ((walk.burn_in, _LEFT, "start"), (walk.burn_in + walk.steps - 1, _WIDE - 8, "end"))
    ]
    said = f"Rewards along {walk.chains} chains of {walk.steps} steps, between {number(low)} and {number(high)}"
    size = {"viewBox": f"0 0 {_WIDE} {_HIGH}", "style": f"width:100%;max-width:{_WIDE}px;height:auto"}
    plot = element("svg", *lines, *curves, *ends, role="img", aria_label=said, class_="xt-plot", **size)
    title = "Chain" if walk.chains == 1 else "Chains"
    return joined(head(title, "the reward of each state; a flat line is a state that was held"), plot)


def _chains(walk: Walk) -> range:
    return range(min(walk.chains, _MOST_CHAINS))


def _grid(value: float, low: float, high: float) -> Html:
    y = _height(value, low, high)
    label = element("text", number(value), x=_LEFT - 8, y=y + 4, text_anchor="end")
    return joined(element("line", x1=_LEFT, x2=_WIDE - 8, y1=y, y2=y, class_="xt-grid"), label)


def _curve(walk: Walk, rewards: Floats, chain: int, low: float, high: float) -> str:
    states = rewards[chain :: walk.chains].tolist()
    step = (_WIDE - 8 - _LEFT) / max(1, walk.steps - 1)
    return "".join(_moves(states, step, low, high))


def _moves(states: Sequence[float], step: float, low: float, high: float) -> Iterator[str]:
    """The parts of a curve: a new height where the state changed, and flat lines between."""
    for place, reward in enumerate(states):
        x, y = _LEFT + place * step, _height(max(reward, low), low, high)
        yield f"{'L' if place else 'M'}{x:.1f} {y:.1f}H{min(_WIDE - 8, x + step):.1f}"


def _height(value: float, low: float, high: float) -> float:
    room = _HIGH - _LOW - 20
    return round(10 + (room / 2 if high == low else room * (1 - (value - low) / (high - low))), 1)
