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
        lines += [f"  {note}" for note in section["notes"]]
        for title, points in section["curves"].items():
            lines.append(f"  {title}")
            lines += [f"    {line:12} {shown}" for line, shown in curve_lines(points)]
    lines += ["", f"noise: fixed work on one core varies by {results['calibration_spread']:.1%} "
              f"(IQR/median); load {results['load_average']:.1f}"]
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
        (f"{measure['name']}\nvs {peer}", ratio, measure["targets"].get(peer))
        for section in results["sections"]
        for measure in section["measures"]
        for peer, ratio in measure["ratios"].items()
    ]
    curves = {title: rows for s in results["sections"] for title, rows in s["curves"].items()}
    heights = [max(1.5, 0.45 * len(bars))] + [4] * len(curves)
    figure, fields = plt.subplots(
        len(heights), 1, figsize=(10, sum(heights) + 1), height_ratios=heights, squeeze=False,
        layout="constrained",
    )
    _bars(fields[0][0], bars)
    for field, (title, rows) in zip(fields[1:, 0], curves.items(), strict=True):
        _curves(field, title, rows)
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
    field.invert_yaxis()
    field.axvline(1, color="gray", linewidth=0.8)
    field.set_xscale("log")
    field.set_title("times better than the peer (black: target)")


def _curves(field, title: str, rows: list[dict]) -> None:
    for line in dict.fromkeys(row["line"] for row in rows):
        points = [(row["x"], row["y"]) for row in rows if row["line"] == line]
        field.plot(*zip(*points, strict=True), marker="o", label=line)
    field.set_xscale("log")
    field.set_yscale("log")
    field.set_title(title)
    field.legend(fontsize=7)
