"""docs/compare.md, from a results file."""

from report import curve_lines, number, verdict

METHOD = """\
# Compared with ClickHouse and DuckDB

This page is generated: `benches/compare/run --page RESULTS [MORE]`. How it is measured, what is not
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


def markdown(results: dict, more: list[dict]) -> str:
    """Everything of one run, and of more runs whether they reach the targets."""
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
        *[_setting(other) for other in more],
        _targets(results, more),
        "![ratios and growth](compare.svg)\n",
    ]
    parts += [_section(section) for section in results["sections"]]
    return "\n".join(parts)


def _setting(results: dict) -> str:
    return (
        f"And {results['events']:,} events, {results['repeat']} rounds, commit "
        f"{results['machine']['commit']}, noise {results['calibration_spread']:.0%}.\n"
    )


def _targets(results: dict, more: list[dict]) -> str:
    runs = [results, *more]
    counts = "".join(f" {run['events']:,} events | |" for run in runs)
    lines = [
        "## Targets",
        "",
        f"| measure | against | target |{counts}",
        "|---|---|---|" + "---|---|" * len(runs),
    ]
    reached = [{key: cells for key, _, cells in _reached(run)} for run in runs]
    for key, target, _ in _reached(results):
        cells = "".join(f" {of_run.get(key, '| ')} |" for of_run in reached)
        lines.append(f"| {key[0]} | {key[1]} | {target:.3g} |{cells}")
    return "\n".join([*lines, ""])


def _reached(results: dict):
    """For each target what is measured against whom, the target, and two cells of a table."""
    for section in results["sections"]:
        for measure in section["measures"]:
            for peer, target in measure["targets"].items():
                key = (f"{section['name']}: {measure['name']}", peer)
                yield key, target, f"{measure['ratios'][peer]:.2f} | {verdict(measure, peer)}"


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
