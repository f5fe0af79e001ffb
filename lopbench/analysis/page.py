"""The report as one HTML file: figures and style inside, no scripts, nothing from a network.

Texts that come from results are anyone's: every one of them is escaped here, where it meets HTML.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from lopbench.analysis.tables import Table

#: a browser that holds to it loads nothing but what is in the file
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_NOTES = 8  # beyond, they are folded
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --line: #d9dce0; --page: #fff; --box: #f5f6f8;
  --warn: #fff4d6; --warn-line: #d9a400; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3abb5; --line: #3a4048; --page: #16191d;
  --box: #20252b; --warn: #3a3012; --warn-line: #c99a1e; --link: #7db7f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 1rem/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
nav { margin: .75rem 0 0; font-size: .95rem; }
nav a { display: inline-block; margin-right: 1rem; }
.soft, figcaption, dt { color: var(--soft); }
.lead { font-size: 1.1rem; }
.notes { background: var(--warn); border-left: 4px solid var(--warn-line); margin: 1.25rem 0; padding: .6rem 1rem; }
.notes summary { font-weight: 600; cursor: pointer; }
.notes ul { margin: .25rem 0; padding-left: 1.2rem; }
.notes li { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .75rem 0; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem; }
figcaption { font-size: .9rem; margin-top: .4rem; }
.scroll { overflow: auto; max-height: 36rem; margin: 1rem 0 .25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td { white-space: nowrap; }
.word { text-align: left; white-space: normal; overflow-wrap: break-word; max-width: 24rem; }
thead th { border-bottom: 2px solid var(--ink); }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em; }
pre { background: var(--box); padding: .7rem 1rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, table { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; max-height: none; }
  @page { margin: 18mm; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole file."""
    head = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
    ]
    return "\n".join([*head, *body, "</body>", "</html>", ""])


def heading(text: str, anchor: str) -> str:
    return f'<h2 id="{escape(anchor)}">{escape(text)}</h2>'


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def contents(anchors: Mapping[str, str]) -> str:
    """Links to the headings: {anchor: text}."""
    links = [f'<a href="#{escape(anchor)}">{escape(text)}</a>' for anchor, text in anchors.items()]
    return f"<nav>{''.join(links)}</nav>"


def notes(sentences: Sequence[str]) -> str:
    """What a reader has to know first, in a box, unfolded if there are few; nothing if there is nothing."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    unfolded = " open" * (len(sentences) <= MOST_NOTES)
    title = f"<summary>Before you read on ({len(sentences)})</summary>"
    return f'<details class="notes"{unfolded}>{title}<ul>{items}</ul></details>' * bool(sentences)


def facts(pairs: Mapping[str, str]) -> str:
    """Names and what they are, in two columns; those without are left out."""
    rows = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items() if value]
    return f"<dl>{''.join(rows)}</dl>"


def figure(svg: bytes, alternative: str, caption: str, links: Mapping[str, str]) -> str:
    """A figure inside the page; `alternative` says what it shows to those who can't see it. `links`: {text: path}."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    image = f'<img src="{source}" alt="{escape(alternative)}">'
    return f"<figure>{image}<figcaption>{escape(caption)} {_links(links)}</figcaption></figure>"


def table(content: Table, note: str, links: Mapping[str, str]) -> str:
    """A table, with a note and links below it."""
    kinds = ['class="word"' if place < content.texts else "" for place in range(len(content.headers))]
    head = "".join(
        f'<th scope="col" {kind}>{escape(text)}</th>' for kind, text in zip(kinds, content.headers, strict=True)
    )
    rows = "".join(f"<tr>{_row(cells, kinds)}</tr>" for cells in content.cells)
    parts = f"<caption>{escape(content.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{parts}</table></div><p class="soft">{escape(note)} {_links(links)}</p>'


def _row(cells: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(f"<td {kind}>{escape(text)}</td>" for kind, text in zip(kinds, cells, strict=True))


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _links(links: Mapping[str, str]) -> str:
    return " · ".join(f'<a href="{escape(path)}">{escape(text)}</a>' for text, path in links.items())
