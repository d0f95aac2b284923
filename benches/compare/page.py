"""docs/compare.md, from a results file."""

from report import curve_lines, number, verdict

METHOD = """\
# Compared with ClickHouse and DuckDB

This page is generated: `benches/compare/run --page RESULTS`. How it is measured, what is and is not
comparable, and how to repeat it: [the comparison](../benches/compare/README.md).

<!-- not run: builds, and takes many minutes -->
```sh
cargo build --release
benches/compare/run
```

All engines ran on one machine, in the same run, in turns, with {threads} threads. Their answers
were held against exact ones first: counts, sums, minima and maxima must be equal, sketches within
their error. A ratio is the peer's time by ours, or our rate by the peer's: above 1 we are better.
It is the median of the ratios of the rounds. ± is the distance of the quartiles by the median.

| | |
|---|---|
| date, commit | {date}, {commit} |
| machine | {cores} cores ({processor}), {memory_gib} GiB, {system} |
| versions | {versions} |
| events, rounds, seed | {events:,}, {repeat}, {seed} |
| noise | fixed work on one core varied by {noise:.0%}; load average {load:.1f} |
"""


def markdown(results: dict) -> str:
    machine = results["machine"]
    parts = [
        METHOD.format(
            threads=results["threads"],
            events=results["events"],
            repeat=results["repeat"],
            seed=results["seed"],
            noise=results["calibration_spread"],
            load=results["load_average"],
            **machine | {"versions": ", ".join(f"{n} {v}" for n, v in machine["versions"].items())},
        ),
        _targets(results),
        "![ratios and growth](compare.svg)\n",
    ]
    parts += [_section(section) for section in results["sections"]]
    return "\n".join(parts)


def _targets(results: dict) -> str:
    rows = [
        f"| {section['name']}: {measure['name']} | {peer} | {target:.3g} "
        f"| {measure['ratios'][peer]:.2f} | {verdict(measure, peer)} |"
        for section in results["sections"]
        for measure in section["measures"]
        for peer, target in measure["targets"].items()
    ]
    head = ["## Targets", "", "| measure | against | target | ratio | |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def _section(section: dict) -> str:
    lines = [f"## {section['title']}", ""]
    if section["measures"]:
        lines += ["| measure | engine | median | | ratio |", "|---|---|---|---|---|"]
        lines += [row for measure in section["measures"] for row in _rows(measure)]
        lines.append("")
    if section["facts"]:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {name} | {number(value)} |" for name, value in section["facts"].items()]
        lines.append("")
    for failure in section["failures"]:
        # What an engine says may hold anything; as code it is text.
        lines += [f"Failed: `{failure}`", ""]
    for title, points in section["curves"].items():
        lines += [f"| {title[0].upper()}{title[1:]} | |", "|---|---|"]
        lines += [f"| {line} | {shown} |" for line, shown in curve_lines(points)]
        lines.append("")
    return "\n".join(lines)


def _rows(measure: dict) -> list[str]:
    rows = []
    for engine, figures in measure["engines"].items():
        name = measure["name"] if not rows else ""
        noise = f"±{figures['spread']:.0%}" if len(figures["samples"]) > 1 else ""
        ratio = f"{measure['ratios'][engine]:.2f}" if engine in measure["ratios"] else ""
        rows.append(
            f"| {name} | {engine} | {number(figures['median'])} {measure['unit']} | {noise} | {ratio} |"
        )
    return rows
