# SPDX-License-Identifier: GPL-2.0-or-later
"""The plot of scripts/bench checkpoint: pauses, bytes and processor time, on logarithmic scales."""
import math

from lib.bench_plot import BAR, GAP, LEFT, RIGHT, WIDTH, Svg, rounds_text

COLOURS = {"alone": "#9aa5b1", "stock": "#c26d3a", "ours": "#2a7f9e", "epoch": "#5bb3a5",
           "auto": "#8a6fb0"}
HEAD = 84
# title, figure, its whisker's figure, lowest and highest of the scale
PANELS = (
    ("Pause of the VM, median; whisker: 99th percentile (ms)", "pause p50", "pause p99", 0.5, 1000),
    ("Until the checkpoint is committed, median; whisker: 99th percentile (ms)", "commit p50",
     "commit p99", 0.5, 10000),
    ("Bytes on the replication link by checkpoint (KB)", "link", None, 1, 100000),
    ("Processor time of daemons and QEMUs without vCPUs by checkpoint (ms)", "CPU", None, 1, 1000),
)


def across(value, low, high):
    share = math.log(max(value, low) / low) / math.log(high / low)
    return LEFT + (WIDTH - LEFT - RIGHT - 60) * min(share, 1)


def values_of(data, figure):
    """{(link, guest): {variant: spread}}"""
    return {(row["link"], row["guest"]): row["variants"] for row in data["costs"]
            if row["figure"] == figure}


def plot(data, variants, guests, links):
    panels = [(panel, values_of(data, panel[1])) for panel in PANELS]
    shown = [name for name in variants
             if any(name in found for _, rows in panels for found in rows.values())]
    group = max(BAR * len(shown), 12) + GAP / 2
    height = HEAD + sum(60 + group * len(rows) for _, rows in panels)
    svg = Svg(math.ceil(height))
    svg.text(LEFT, 26, "What a checkpoint costs: one every 250 ms", 16, weight="bold")
    machine = data["machine"]
    svg.text(LEFT, 44, f"{rounds_text(data)}, {machine['cpus']} CPUs, 256 MB guest under TCG, "
             f"{machine['date'][:10]}", 11, colour="#666666")
    x = LEFT
    for name in shown:
        svg.bar(x, 56, 10, 10, COLOURS[name])
        svg.text(x + 14, 65, variants[name][0], 10.5)
        x += 40 + 6 * len(variants[name][0])
    top = HEAD
    for panel, rows in panels:
        top = draw_panel(svg, top, panel, rows, shown, (guests, links, group, data))
    return svg.end()


def draw_panel(svg, top, panel, rows, shown, how):
    title, _, whisker, low, high = panel
    guests, links, group, data = how
    svg.text(LEFT, top + 16, title, 13, weight="bold")
    top += 26
    bottom = top + group * len(rows)
    for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        x = across(10 ** power, low, high)
        svg.line(x, top, x, bottom, "#dddddd")
        svg.text(x, bottom + 13, f"{10 ** power}", 10, "middle", "#555555")
    upper = values_of(data, whisker) if whisker else {}
    for number, (where, found) in enumerate(rows.items()):
        y = top + group * number
        link, guest = where
        text = guests[guest][0] + ("" if link == "direct" else f", link {links[link][0]}")
        svg.text(LEFT - 8, y + BAR * len(shown) / 2 + 4, text, 9.5, "end")
        for index, name in enumerate(shown):
            if name not in found:
                continue
            value = found[name]["median"]
            at = y + BAR * index
            svg.bar(LEFT, at + 1, across(value, low, high) - LEFT, BAR - 2, COLOURS[name])
            end = across(upper.get(where, {}).get(name, found[name])["median"], low, high)
            if whisker:
                svg.line(across(value, low, high), at + BAR / 2, end, at + BAR / 2, "#222222", 1.2)
            svg.text(end + 5, at + BAR - 1.5, f"{value:.0f}" if value >= 100 else f"{value:.3g}", 9, colour="#444444")
    return bottom + 34
