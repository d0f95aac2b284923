"""What a process costs: CPU and memory, as Linux counts them."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    cpu_seconds: float
    rss_bytes: int
    peak_rss_bytes: int

    @staticmethod
    def of(pid: int) -> "Usage":
        # After the name, which may hold blanks; utime and stime are fields 14 and 15 of proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return Usage(
            (int(fields[11]) + int(fields[12])) / TICKS,
            int(status["VmRSS"].split()[0]) * 1024,
            int(status["VmHWM"].split()[0]) * 1024,
        )


def size_on_disk(folder: Path) -> int:
    """Bytes of all files in a folder, by their lengths."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
