"""Runs the sections of the comparison and writes what came out."""

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import page
import report
from context import Context
from measure import Rounds, spread
from peers import THREADS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SECTIONS = ["ingest", "recompute", "merged", "adhoc", "requests", "footprint", "growth"]
SMOKE_EVENTS = 20_000


def main() -> int:
    arguments = _arguments()
    if arguments.page:
        results, *more = [json.loads(path.read_text()) for path in arguments.page]
        (ROOT / "docs/compare.md").write_text(page.markdown(results, more))
        report.plot(results, ROOT / "docs/compare.svg")
        return 0
    # Ended from outside, we still end our servers and remove our folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="lambdalake-compare-", dir=arguments.work))
    try:
        results = _run(arguments, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(report.table(results))
    report.plot(results, arguments.out / "results.svg")
    print(f"\nwritten: {arguments.out}/results.json, results.svg")
    for name, failure in results["failures"].items():
        print(f"FAILED: {name}: {failure}", file=sys.stderr)
    return 1 if results["failures"] else 0


def _run(arguments: argparse.Namespace, work: Path) -> dict:
    rounds = Rounds(1 if arguments.smoke else arguments.repeat)
    count = SMOKE_EVENTS if arguments.smoke else arguments.events
    cache = Path(os.environ["LAMBDALAKE_COMPARE_CACHE"])
    binary = arguments.binary.resolve()
    context = Context(binary, cache, work, count, arguments.seed, arguments.smoke, rounds)
    results = {
        "machine": _machine(binary, arguments.commit),
        "events": count,
        "repeat": rounds.repeat,
        "seed": arguments.seed,
        "threads": THREADS,
        "sections": [],
        "failures": {},
    }
    context.data()
    for name in arguments.only:
        rounds.calibrate()
        began = time.perf_counter()
        try:
            section = importlib.import_module(f"sections.{name}").run(context)
            results["sections"].append(section.as_json())
            if section.failures:
                results["failures"][name] = "; ".join(section.failures)
        except Exception as error:  # the other sections are worth having; the exit code tells
            traceback.print_exc()
            results["failures"][name] = str(error)
        for leftover in work.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        results["calibration_spread"] = spread(rounds.calibration)
        results["load_average"] = os.getloadavg()[0]
        # After each section: a long run that is broken off has its figures so far.
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def _machine(binary: Path, commit: str) -> dict:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ours = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "processor": _processor(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "versions": {"lambdalake": ours.stdout.split()[-1]}
        | {name: version(name) for name in ("chdb", "chdb-core", "duckdb")},
    }


def _head() -> str:
    command = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benches/compare/run", description="Compares Lambdalake with ClickHouse and DuckDB."
    )
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/lambdalake")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--repeat", type=int, default=5, help="rounds of each measure")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=_sections, default=SECTIONS, help=",".join(SECTIONS))
    parser.add_argument(
        "--work", type=Path, help="where temporary folders are made: the disk that is measured"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "target/compare", help="folder of the results"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="everything once with few events: does it work, are answers equal",
    )
    parser.add_argument(
        "--page",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="only write docs/compare.md from a results file, and the targets of others beside it",
    )
    parser.add_argument(
        "--commit", default=_head(), help="what the binary was built from; HEAD by default"
    )
    arguments = parser.parse_args()
    if not arguments.page and not arguments.binary.exists():
        parser.error(f"{arguments.binary} is not there: cargo build --release")
    return arguments


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
