"""Run by test_sanitizers.py in a process of its own: some of everything, through the library of the first argument and
in the element type of the second.
"""

import sys
from pathlib import Path

import torch
from hostcases import few_tasks
from hostrun import RANDOM, HostLibrary, serving

DTYPES = {"float": torch.float32, "bf16": torch.bfloat16}

torch.set_num_threads(1)
library = HostLibrary(Path(sys.argv[1]))
tasks = few_tasks(DTYPES[sys.argv[2]])
with serving(library):
    library.set_order(RANDOM)
    for task in tasks:
        task.run()
print(len(tasks), "clean")
