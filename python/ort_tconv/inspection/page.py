"""An inspection as one HTML page that needs nothing else: no script, no other file, no network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ..base import text
from .results import InspectionData, Site

# Colours of bars, on light pages and on dark ones.
_BARS = {
    "conventional": ("#b3440e", "#f49a62"),
    "direct": ("#7a6200", "#d9bc4a"),
    "plan": ("#1f5fae", "#79b0f2"),
}
_LIGHT, _DARK = (
    " ".join(f"--{name}: {colors[index]};" for name, colors in _BARS.items()) for index in (0, 1)
)
_STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}"
    + """
body { font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; }
th { border-bottom: 2px solid; } td { border-bottom: 1px solid #8886; overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bar { background: #8883; height: .55rem; min-width: 6rem; margin: .15rem 0 .1rem; }
.bar i { display: block; height: 100%; }
small { opacity: .8; } code { font-size: .85em; }
/* On a narrow screen a node is a block, and each value has the name of its column before it. */
@media (max-width: 46rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border-bottom: 2px solid #8888; padding: .6rem 0; }
  td { border: 0; padding: .2rem 0 .2rem 8.5rem; min-height: 1.45em; }
  td::before { content: attr(data-column); float: left; margin-left: -8.5rem; opacity: .75; }
  td:first-child { padding-left: 0; } td:first-child::before { content: none; }
  .n { text-align: left; white-space: normal; }
}
"""
)


def page(inspection: InspectionData) -> str:
    """The page; every string from the model is escaped."""
    facts = [
        ("plans for", f"{inspection.isa}, {inspection.threads} thread(s)"),
        *(
            (f"input {name}", text.dims(shape) + text.guesses(inspection.guessed.get(name, ())))
            for name, shape in inspection.inputs.items()
        ),
        *((key, str(value)) for key, value in inspection.machine.items()),
    ]
    known = any(site.macs for site in inspection.sites)
    body = [
        f"<h1>{escape(inspection.model)}</h1>",
        "<dl>",
        *(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts),
        "</dl>",
        f"<p>{escape(inspection.summary)}</p>" if known else "",
        _table(inspection.sites),
        *(f"<p><b>Note:</b> {escape(note)}</p>" for note in inspection.notes),
        "<p><small>Conventional: the input with zeros inserted, then convolved; of another form, "
        "as the model has it. Direct: every input element with every tap, once. Plan: what the "
        "chosen plan executes. Never built: what the conventional method writes between its "
        "steps, and the column buffer of stock ONNX Runtime.</small></p>",
    ]
    title = escape(f"{inspection.model}: transposed convolutions")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


_COLUMNS = ("node", "shape", "multiply-adds", "never built", "plan", "share of time")


def _table(sites: Iterable[Site]) -> str:
    rows = [_row(site) for site in sites]
    if not rows:
        return "<p>No transposed convolution was found.</p>"
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    head, body = f"<thead><tr>{head}</tr></thead>", "\n".join(rows)
    return f"<table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table>"


def _row(site: Site) -> str:
    where = "" if site.where == "graph" else f"<br><small>in {escape(site.where)}</small>"
    rewrite = f" by {escape(', '.join(site.rewrites))}" if site.rewrites else ""
    node = (
        f"<b>{escape(site.node)}</b>{where}<br><small>{escape(site.op_type)}, "
        f"{escape(site.state)}{rewrite}</small>"
    )
    reason = f"<small>{escape(site.reason)}</small>" if site.reason else ""
    if site.macs is None or site.bytes is None or site.plan is None:
        return _cells([node, text.dims(site.x_shape)]) + f"<td colspan=4>{reason}</td></tr>"
    shape = (
        f"{text.dims(site.x_shape)}<br>→ {text.dims(site.y_shape)}<br><small>"
        f"{escape(text.kernel(site.attributes, site.w_shape))} {escape(site.dtype)}</small>"
    )
    most = max(site.macs.conventional, site.macs.direct, site.macs.plan) or 1.0
    macs = "".join(
        f"{text.count(value)} {name}{_bar(value / most, name)}"
        for name, value in (
            ("conventional", site.macs.conventional),
            ("direct", site.macs.direct),
            ("plan", site.macs.plan),
        )
    )
    never = f"{text.size(site.bytes.intermediate)}<br><small>between steps</small>"
    if site.bytes.column_buffer:
        never += f"<br>{text.size(site.bytes.column_buffer)}<br><small>column buffer</small>"
    plan = (
        f"{escape(text.planned(site.plan))}<br><details><summary><small>more</small></summary>"
        f"<code>{escape(site.plan['text'])}</code></details>{reason}"
    )
    share = f"{text.percent(site.share)}{_bar(site.share or 0.0, 'plan')}"
    return _cells([node, shape, macs, never, plan, share]) + "</tr>"


def _cells(contents: list[str]) -> str:
    """The beginning of a row; the class says which columns are numbers."""
    numbers = ("never built", "share of time")
    return "<tr>" + "".join(
        f'<td data-column="{name}"{" class=n" if name in numbers else ""}>{content}</td>'
        for name, content in zip(_COLUMNS, contents)
    )


def _bar(fraction: float, name: str) -> str:
    style = f"width:{100 * fraction:.1f}%;background:var(--{name})"
    return f'<div class="bar"><i style="{style}"></i></div>'
