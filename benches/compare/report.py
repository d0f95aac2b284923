"""Results as text and as plots."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
# The same results draw the same file.
matplotlib.rcParams |= {"svg.hashsalt": "lambdalake", "svg.fonttype": "none"}
import matplotlib.pyplot as plt


def table(results: dict) -> str:
    lines = []
    for section in results["sections"]:
        lines += ["", f"{section['title']} ({section['name']})"]
        lines += [f"  {line}" for measure in section["measures"] for line in _measure(measure)]
        lines += [f"  {name}: {number(value)}" for name, value in section["facts"].items()]
        lines += [f"  FAILED: {failure}" for failure in section["failures"]]
        for title, points in section["curves"].items():
            lines.append(f"  {title}")
            lines += [f"    {line:12} {shown}" for line, shown in curve_lines(points)]
    lines += [
        "",
        f"noise: fixed work on one core varies by {results['calibration_spread']:.1%} "
        f"(IQR/median); load {results['load_average']:.1f}",
    ]
    return "\n".join(lines)


def _measure(measure: dict) -> list[str]:
    lines = [f"{measure['name']} [{measure['unit']}]"]
    for engine, figures in measure["engines"].items():
        noise = f"±{figures['spread']:.0%}" if len(figures["samples"]) > 1 else ""
        line = f"  {engine:24} {number(figures['median']):>12}  {noise:5}"
        if engine in measure["ratios"]:
            line += f"   ratio {measure['ratios'][engine]:.2f}"
        if target := measure["targets"].get(engine):
            line += f" (target {target:g}: {verdict(measure, engine)})"
        lines.append(line)
    if measure["note"]:
        lines.append(f"  {measure['note']}")
    return lines


def curve_lines(points: list[dict]) -> list[tuple[str, str]]:
    """Each line of a plot as text: its name, and `x: y` of its points."""
    names = dict.fromkeys(point["line"] for point in points)
    return [
        (name, "  ".join(f"{p['x']:,}: {number(p['y'])}" for p in points if p["line"] == name))
        for name in names
    ]


def verdict(measure: dict, peer: str) -> str:
    return "met" if measure["ratios"][peer] >= measure["targets"][peer] else "MISSED"


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def plot(results: dict, path: Path) -> None:
    """Bars of all ratios, and a field for each set of curves."""
    bars = [
        (f"{section['name']}: {measure['name']}, vs {peer}", ratio, measure["targets"].get(peer))
        for section in results["sections"]
        for measure in section["measures"]
        for peer, ratio in measure["ratios"].items()
    ]
    curves = {title: points for s in results["sections"] for title, points in s["curves"].items()}
    rows = -(-len(curves) // 2)
    heights = [0.3 * len(bars) + 1] + [3.2] * rows
    figure = plt.figure(figsize=(12, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    if bars:
        _bars(figure.add_subplot(grid[0, :]), bars)
    for place, (title, points) in enumerate(curves.items()):
        _curves(figure.add_subplot(grid[1 + place // 2, place % 2]), title, points)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _bars(field, bars: list[tuple]) -> None:
    names = [name for name, _, _ in bars]
    colours = ["tab:green" if ratio >= (target or 1) else "tab:red" for _, ratio, target in bars]
    field.barh(range(len(bars)), [ratio - 1 for _, ratio, _ in bars], left=1, color=colours)
    for row, (_, _, target) in enumerate(bars):
        if target:
            field.plot([target, target], [row - 0.4, row + 0.4], color="black")
    field.set_yticks(range(len(bars)), names, fontsize=7)
    field.set_ylim(len(bars) - 0.5, -0.5)
    field.axvline(1, color="gray", linewidth=0.8)
    field.set_xscale("log")
    field.set_title("times better than the peer (black: target)")


def _curves(field, title: str, points: list[dict]) -> None:
    for line in dict.fromkeys(point["line"] for point in points):
        places = [(point["x"], point["y"]) for point in points if point["line"] == line]
        field.plot(*zip(*places, strict=True), marker="o", label=line)
    field.set_xscale("log")
    field.set_yscale("log")
    field.set_title(title, fontsize=9)
    field.legend(fontsize=7)
