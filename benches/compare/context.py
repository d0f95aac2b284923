"""What a section is given, and what it gives back."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from answers import Truth
from data import Events, events
from measure import Measure, Rounds


@dataclass
class Section:
    name: str
    title: str
    measures: list[Measure] = field(default_factory=list)
    # Single numbers that explain the measures, by what they are.
    facts: dict[str, float] = field(default_factory=dict)
    # What an engine could not do, where the rest of the section is worth having.
    failures: list[str] = field(default_factory=list)
    # Rows of a plot: {"line", "x", "y"} by the plot's title.
    curves: dict[str, list[dict]] = field(default_factory=dict)

    def as_json(self) -> dict:
        return {
            "name": self.name,
            "title": self.title,
            "measures": [measure.as_json() for measure in self.measures],
            "facts": self.facts,
            "failures": self.failures,
            "curves": self.curves,
        }


@dataclass
class Context:
    binary: Path
    cache: Path
    work: Path
    count: int
    seed: int
    smoke: bool
    rounds: Rounds

    def data(self, count: int | None = None) -> Events:
        return events(self.cache, self.seed, count or self.count)

    def truth(self, count: int | None = None) -> Truth:
        return Truth(self.data(count).parquet)

    def folder(self, name: str) -> Path:
        """A new, empty folder; what was there under this name is gone."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
