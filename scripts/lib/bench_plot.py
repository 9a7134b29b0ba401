# SPDX-License-Identifier: GPL-2.0-or-later
"""The plot of scripts/bench: SVG by hand, nothing needed to draw it."""

from xml.sax.saxutils import escape

COLOURS = {"alone-batch": "#c9d2da", "two": "#9aa5b1", "stock-tcp": "#e0a458",
           "stock-unix": "#c26d3a", "hold-tap": "#2a7f9e", "nfqueue": "#5bb3a5",
           "epoch": "#6c5b9e", "on-output": "#8f7fbd", "continuous": "#b3a7d6", "auto": "#3f7d4f"}
LABELS = {"alone-batch": "unprotected, in SCHED_BATCH", "two": "two unprotected VMs at once",
          "stock-tcp": "QEMU's COLO over TCP",
          "stock-unix": "QEMU's COLO over a unix socket", "hold-tap": "colo-proxy, hold-tap",
          "nfqueue": "colo-proxy, nfqueue", "epoch": "policy epoch",
          "on-output": "policy on-output", "continuous": "policy continuous", "auto": "policy auto"}
WIDTH, LEFT, RIGHT, TOP = 1120, 210, 40, 96
BAR, GAP = 11, 16
SCALE_MAX = 1.25


class Svg:
    def __init__(self, height):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="DejaVu Sans, Helvetica, Arial, '
            'sans-serif">', f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>']

    def text(self, x, y, text, size=12, anchor="start", colour="#222222", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
                          f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
                          f'{escape(text)}</text>')

    def line(self, x1, y1, x2, y2, colour="#222222", width=1.0, dash=""):
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                          f'stroke="{colour}" stroke-width="{width}"'
                          + (f' stroke-dasharray="{dash}"' if dash else "") + "/>")

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
                          f'height="{height}" fill="{colour}"/>')

    def end(self):
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def plot(data, variants):
    """The ratios with their spread, one group of bars for each load, and the pauses below."""
    shown = [name for name in variants if name != "alone"
             and any(name in row["variants"] for row in data["table"].values())]
    rows = [(name, row) for name, row in data["table"].items() if row["variants"]]
    pauses = pause_rows(data)
    group = max(BAR * len(shown), 22) + GAP
    bottom = TOP + group * len(rows)
    height = bottom + 60 + (60 + 22 * len(pauses) if pauses else 0)
    svg = Svg(height)
    svg.text(LEFT, 26, "What protection costs: throughput relative to the unprotected VM", 16,
             weight="bold")
    machine = data["machine"]
    svg.text(LEFT, 44, f"{rounds_text(data)}, whiskers: smallest and largest; "
             f"{machine['cpus']} CPUs, guest under TCG, {machine['date'][:10]}", 11,
             colour="#666666")
    legend(svg, shown)
    axis(svg, bottom)
    for index, (name, row) in enumerate(rows):
        draw_group(svg, TOP + (group - BAR * len(shown)) / 2 + group * index, name, row, shown)
    if pauses:
        draw_pauses(svg, bottom + 74, pauses)
    return svg.end()


def rounds_text(data):
    count = len(data["rounds"])
    return "one round" if count == 1 else f"median of {count} rounds"


def across(ratio):
    return LEFT + (WIDTH - LEFT - RIGHT) * min(ratio, SCALE_MAX) / SCALE_MAX


def legend(svg, shown):
    x = LEFT
    for name in shown:
        svg.bar(x, 58, 10, 10, COLOURS[name])
        svg.text(x + 14, 67, LABELS[name], 10.5)
        x += 30 + 5.9 * len(LABELS[name])


def axis(svg, bottom):
    for tick in range(0, 126, 20):
        x = across(tick / 100)
        svg.line(x, TOP - 6, x, bottom, "#dddddd" if tick != 100 else "#888888")
        svg.text(x, bottom + 16, f"{tick} %", 11, "middle", "#555555")
    x = across(0.6)
    svg.line(x, TOP - 6, x, bottom, "#b03030", 1.2, "5 4")
    svg.text(x, bottom + 32, "target for http with 4 connections and download", 10.5, "middle",
             "#b03030")


def draw_group(svg, y, name, row, shown):
    middle = y + BAR * len(shown) / 2
    svg.text(LEFT - 10, middle, name, 12, "end")
    if row["base"]:
        svg.text(LEFT - 10, middle + 14, f"100 % = {row['base']:.4g} {row['unit']}", 10, "end",
                 "#777777")
    for number, variant in enumerate(shown):
        cell = row["variants"].get(variant)
        if not cell:
            continue
        top = y + BAR * number
        end = across(cell["median"])
        svg.bar(LEFT, top + 1, end - LEFT, BAR - 2, COLOURS[variant])
        low, high = across(cell["min"]), across(cell["max"])
        svg.line(low, top + BAR / 2, high, top + BAR / 2, "#222222", 1.2)
        for x in (low, high):
            svg.line(x, top + 3, x, top + BAR - 3, "#222222", 1.2)
        label = f"{cell['median'] * 100:.0f} %" + (" failed" if cell["failed"] else "")
        svg.text(min(max(high, end) + 5, WIDTH - 34), top + BAR - 1.5, label, 9.5,
                 colour="#444444")


def pause_rows(data):
    """[(variant, text, median ms)]"""
    out = []
    for kind, text in (("quiet", ""), ("delayed", ", link 100 ms slower")):
        for variant, found in data["extra"].get(kind, {}).items():
            if "idle" in found:
                out.append((variant, LABELS[variant] + text,
                            found["idle"]["pause_us"]["p50"] / 1000))
    return out


def draw_pauses(svg, y, pauses):
    svg.text(LEFT, y, "How long a near-idle VM stands still for a checkpoint (median)", 14,
             weight="bold")
    most = max(pause for _, _, pause in pauses) or 1
    start = LEFT + 100
    for number, (variant, text, pause) in enumerate(pauses):
        top = y + 14 + 22 * number
        svg.text(start - 10, top + 11, text, 11, "end")
        width = (WIDTH - start - RIGHT - 60) * pause / most
        svg.bar(start, top, width, 14, COLOURS[variant])
        svg.text(start + width + 6, top + 11, f"{pause:.1f} ms", 11, colour="#444444")
