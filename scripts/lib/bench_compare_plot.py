# SPDX-License-Identifier: GPL-2.0-or-later
"""The plot of scripts/bench compare: packets a second on a logarithmic scale."""
import math

from lib.bench_plot import BAR, GAP, LEFT, RIGHT, TOP, WIDTH, Svg

COLOURS = {"core": "#2a7f9e", "served": "#5bb3a5", "qemu": "#c26d3a", "sockets": "#e0a458"}
LABELS = {"core": "gate + shadow + codec, called", "served": "the same behind QEMU's sockets",
          "qemu": "QEMU's colo-compare", "sockets": "QEMU's sockets, nothing compared"}
LOWEST, HIGHEST = 1e4, 1e7


def across(pps):
    share = math.log(max(pps, LOWEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return LEFT + (WIDTH - LEFT - RIGHT - 40) * min(share, 1)


def plot(data):
    """One group of bars for each case."""
    rows = data["table"]
    group = BAR * len(COLOURS) + GAP
    bottom = TOP + group * len(rows)
    svg = Svg(bottom + 40)
    svg.text(LEFT, 26, "Packets compared a second on one processor", 16, weight="bold")
    count = len(data["rounds"])
    svg.text(LEFT, 44, f"{'one round' if count == 1 else f'median of {count} rounds'}, "
             f"{data['machine']['qemu']}, {data['machine']['date'][:10]}", 11, colour="#666666")
    x = LEFT
    for name, label in LABELS.items():
        svg.bar(x, 58, 10, 10, COLOURS[name])
        svg.text(x + 14, 67, label, 10.5)
        x += 40 + 5.9 * len(label)
    for power in range(4, 8):
        x = across(10 ** power)
        svg.line(x, TOP - 6, x, bottom, "#dddddd")
        svg.text(x, bottom + 16, f"{10 ** power // 1000} k", 11, "middle", "#555555")
    for index, row in enumerate(rows):
        draw_group(svg, TOP + GAP / 2 + group * index, row)
    return svg.end()


def draw_group(svg, y, row):
    flows = f"{row['flows']:,} flow{'s' if row['flows'] > 1 else ''}"
    svg.text(LEFT - 10, y + 18, f"{flows}, {row['payload']} bytes", 12, "end")
    svg.text(LEFT - 10, y + 32, "cut differently" if row["different"] else "cut alike", 10, "end",
             "#777777")
    for number, name in enumerate(COLOURS):
        pps = row[name]["pps"]
        if not pps:
            continue
        top = y + BAR * number
        svg.bar(LEFT, top + 1, across(pps) - LEFT, BAR - 2, COLOURS[name])
        svg.text(across(pps) + 5, top + BAR - 1.5, f"{pps / 1000:.0f} k", 9.5, colour="#444444")
