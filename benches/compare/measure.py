"""Repeats what is compared, turn by turn, and keeps what came out.

A ratio is the peer's time divided by ours in the same round: a slow minute of the machine slows
both. More is better for us.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

OURS = "lambdalake"
CALIBRATION_STEPS = 400_000
# Fixed work between operations of milliseconds would take longer than they do.
CALIBRATION_PAUSE_SECONDS = 1.0


@dataclass
class Measure:
    """One thing that was timed, for us and for peers."""

    name: str
    unit: str
    samples: dict[str, list[float]]
    # Least ratio that we want to reach, by peer.
    targets: dict[str, float] = field(default_factory=dict)
    # Of throughputs more is better, of all else less.
    more_is_better: bool = False
    note: str = ""

    def median(self, engine: str = OURS) -> float:
        return statistics.median(self.samples[engine])

    def spread(self, engine: str = OURS) -> float:
        return spread(self.samples[engine])

    def peers(self) -> list[str]:
        return [engine for engine in self.samples if engine != OURS]

    def ratio(self, peer: str) -> float:
        """Median of the rounds' ratios; above 1 we are the better one."""
        pairs = zip(self.samples[OURS], self.samples[peer], strict=True)
        if self.more_is_better:
            return statistics.median(ours / theirs for ours, theirs in pairs)
        return statistics.median(theirs / ours for ours, theirs in pairs)

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "unit": self.unit,
            "more_is_better": self.more_is_better,
            "note": self.note,
            "engines": {
                engine: {
                    "median": self.median(engine),
                    "spread": self.spread(engine),
                    "samples": samples,
                }
                for engine, samples in self.samples.items()
            },
            "ratios": {peer: self.ratio(peer) for peer in self.peers()},
            "targets": self.targets,
        }


def spread(samples: list[float]) -> float:
    """Interquartile range by median; 0 of fewer than two samples."""
    median = statistics.median(samples)
    if len(samples) < 2 or median == 0:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / median


def percentile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Rounds:
    """Runs operations in turn, and times fixed work between them: the noise of the machine."""

    def __init__(self, repeat: int):
        self.repeat = repeat
        self.calibration: list[float] = []
        self.calibrated_at = -CALIBRATION_PAUSE_SECONDS

    def interleaved(
        self,
        operations: dict[str, Callable[[], float]],
        warm: bool = True,
        repeat: int | None = None,
        most_seconds: float = math.inf,
    ) -> dict[str, list[float]]:
        """What each operation returns: its seconds or its rate.

        With `warm` a first round is not kept. After `most_seconds` no new round begins.
        """
        samples: dict[str, list[float]] = {name: [] for name in operations}
        if warm:
            for operation in operations.values():
                operation()
        began = time.monotonic()
        for turn in range(repeat or self.repeat):
            if time.monotonic() - began > most_seconds:
                break
            # Who goes second may find a warmer machine: the order turns around.
            names = list(operations) if turn % 2 == 0 else list(reversed(operations))
            for name in names:
                self.calibrate()
                samples[name].append(operations[name]())
        return samples

    def calibrate(self) -> None:
        began = time.perf_counter()
        if began - self.calibrated_at < CALIBRATION_PAUSE_SECONDS:
            return
        total = 0
        for step in range(CALIBRATION_STEPS):
            total += step * step
        self.calibrated_at = time.perf_counter()
        self.calibration.append(self.calibrated_at - began)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def with_cpu(subject, work: Callable[[], float], used: list[float]) -> Callable[[], float]:
    """The same work; what CPU `subject`, a server or peer, needed for it is added to `used`."""

    def run() -> float:
        before = subject.usage().cpu_seconds
        seconds = work()
        used.append(subject.usage().cpu_seconds - before)
        return seconds

    return run
