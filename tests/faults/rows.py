"""Every row of the table of faults."""

from __future__ import annotations

import re

import fault_disks
import fault_numbers
import fault_outside
import fault_processes
from bench import Outcome, Row, last_line

ROWS = [*fault_disks.ROWS, *fault_numbers.ROWS, *fault_processes.ROWS, *fault_outside.ROWS]


def shown(row: Row, outcome: Outcome) -> list[str]:
    """The row of the table: the last line printed that says it, without where it was."""
    said = [line for line in outcome.text.splitlines() if re.search(row.line, line)]
    line = re.sub(r"/\S*/(?=test\b)", "…/", said[-1] if said else f"NOT SAID; {last_line(outcome.text)}")
    line = re.sub(r"^[\d-]+ [\d:]+  ", "", line)  # log.txt has the time
    return [row.fault, row.done, line, str(outcome.code), f"{outcome.seconds:.1f}", str(outcome.orphans), outcome.after]


HEADS = ["fault", "what was done", "line printed", "exit code", "seconds", "orphans", "started again"]
