"""What nvcc makes of the kernels, without a GPU: registers and spills from `ptxas -v`, instructions from cuobjdump, and
the ways that control takes through them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "vim_train" / "ops" / "csrc" / "cuda"
ARCHS = (80, 90)

# ---- tools -----------------------------------------------------------------------------------------------------------


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, beside nvcc, or in the wheel of triton, which torch brings."""
    places = [os.environ.get("PATH", "")]
    if nvcc := shutil.which("nvcc"):
        places.append(str(Path(nvcc).resolve().parent))
    if (triton := find_spec("triton")) and triton.origin:
        places.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return shutil.which(name, path=os.pathsep.join(places))


def missing() -> str | None:
    """Why kernels cannot be compiled and read here, or None."""
    tools = ("nvcc", "cuobjdump", "nvdisasm", "c++filt")  # cuobjdump runs nvdisasm
    return next((f"no {name}" for name in tools if find_tool(name) is None), None)


def nvcc_flags() -> list[str]:
    """Those of the build."""
    line = re.search(r"set\(cuda_flags (.+)\)", (CUDA / "CMakeLists.txt").read_text())
    assert line, "CMakeLists.txt names no cuda_flags"
    return ["-std=c++17", *line[1].split()]


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instruction:
    address: int
    predicated: bool
    opcode: str  # with its modifiers: MUFU.EX2
    operands: str

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"(?:^|[ ,(])0x([0-9a-f]+)\)?$", self.operands)
        return int(found[1], 16) if self.name in ("BRA", "CALL", "BRX", "JMP") and found else None

    @property
    def falls_through(self) -> bool:
        if self.name in ("EXIT", "BRA", "JMP", "RET", "BRX"):
            return self.predicated or bool(re.match(r"!?U?P\d", self.operands)) or ".DIV" in self.opcode
        return True


@dataclass
class Kernel:
    """A kernel as compiled for one architecture."""

    name: str  # demangled, without its parameters
    arch: int
    registers: int = 0
    stack_bytes: int = 0
    spill_bytes: int = 0
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def atomics(self) -> list[Instruction]:
        return [i for i in self.instructions if i.name.startswith(("ATOM", "RED")) and i.name != "REDUX"]


def compile_kernels(source: Path, arch: int) -> list[Kernel]:
    """Every kernel of a .cu file."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder) / "kernels.cubin")
        options = [*nvcc_flags(), f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v", '-DVT_CUDA_ARCHS=""']
        log = _run([str(find_tool("nvcc")), *options, "-o", cubin, str(source)])
        return list(_read_kernels(_run([str(find_tool("cuobjdump")), "-sass", cubin]), log, arch))


def _read_kernels(listing: str, log: str, arch: int) -> Iterator[Kernel]:
    numbers = {}
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = (int(n) for n in re.findall(r"(\d+) bytes (?:stack|spill)", part))
        numbers[part.split("'")[0]] = (int(re.findall(r"Used (\d+) registers", part)[0]), stack, stores + loads)
    parts = re.split(r"\n\s*Function : (\S+)\n", listing)[1:]
    for symbol, text in zip(parts[::2], parts[1::2], strict=True):
        kernel = Kernel(_demangled(symbol), arch, *numbers[symbol])
        for found in re.finditer(r"/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", text):
            kernel.instructions.append(Instruction(int(found[1], 16), bool(found[2]), found[3], found[4]))
        yield kernel


def _demangled(symbol: str) -> str:
    text = _run([str(find_tool("c++filt")), symbol]).strip()
    return re.sub(r"\(anonymous namespace\)::|vt::|^void ", "", text).split("(")[0]


def _run(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


# ---- control flow ----------------------------------------------------------------------------------------------------

Nodes = frozenset[int]
TurnsOf = Callable[[Counter[str]], int | None]


class Flow:
    """Blocks of instructions between jumps, by the index of their first, and the ways between them."""

    def __init__(self, instructions: list[Instruction]) -> None:
        index = {i.address: n for n, i in enumerate(instructions)}
        starts = {0, *(n + 1 for n, i in enumerate(instructions) if i.target is not None or not i.falls_through)}
        starts |= {index[i.target] for i in instructions if i.target is not None}
        order = sorted(n for n in starts if n < len(instructions))
        self.blocks: dict[int, list[Instruction]] = {}
        self.after: dict[int, list[int]] = {}
        for start, end in zip(order, [*order[1:], len(instructions)], strict=True):
            self.blocks[start] = instructions[start:end]
            last = instructions[end - 1]
            self.after[start] = [end] if last.falls_through and end < len(instructions) else []
            # BRA.DIV leaves for code that serves a warp whose lanes have come apart: none of ours has before a shuffle.
            if last.target is not None and ".DIV" not in last.opcode:
                self.after[start].append(index[last.target])
        self.calls: set[int] = set()  # blocks that end in a call of a function
        self._return_from_calls()
        for start in self.blocks.keys() - _reachable(self.after, 0, set()):
            del self.blocks[start], self.after[start]

    def _return_from_calls(self) -> None:
        """A call whose code ends in a RET comes back, to what follows it; one whose code does not is but a jump."""
        for start, block in self.blocks.items():
            if block[-1].name == "CALL":
                callee = self.after[start][-1]
                code = _reachable(self.after, callee, set())
                if any(self.blocks[n][-1].name == "RET" for n in code):
                    self.calls.add(start)
                    self.after[start] = self.after[start][:-1]

    def loops(self, nodes: Iterable[int], without: int | None = None) -> list[Nodes]:
        """The outermost loops among `nodes`: strongly connected sets, where no way leads back to `without`."""
        nodes = set(nodes)
        after = {n: [m for m in self.after[n] if m in nodes and m != without] for n in nodes}
        before: dict[int, list[int]] = {n: [] for n in nodes}
        for n, following in after.items():
            for m in following:
                before[m].append(n)
        found, placed = [], set[int]()
        for root in reversed(_finishing_order(after)):  # Kosaraju's algorithm
            if root in placed:
                continue
            part = _reachable(before, root, placed)
            placed |= part
            if len(part) > 1 or root in after[root]:
                found.append(frozenset(part))
        return found

    def count(self, nodes: Iterable[int]) -> Counter[str]:
        """Opcodes, each instruction once."""
        return Counter(i.opcode for n in nodes for i in self.blocks[n])

    def entries(self, loop: Nodes) -> list[int]:
        return sorted({m for n, following in self.after.items() if n not in loop for m in following if m in loop})

    def one_turn(self, loop: Nodes, turns_of: TurnsOf) -> Counter[str] | None:
        """The opcodes on the longest way once around; `turns_of` says from those of an inner loop's turn how many it
        makes, or None: no way goes through it. None where there is no way."""
        ways = (self._one_turn(loop, entry, turns_of) for entry in self.entries(loop))
        return max((way for way in ways if way is not None), key=Counter.total, default=None)

    def _one_turn(self, loop: Nodes, entry: int, turns_of: TurnsOf) -> Counter[str] | None:
        inner_loops = self.loops(loop, without=entry)
        part_of = {n: frozenset({n}) for n in loop} | {n: inner for inner in inner_loops for n in inner}
        ways: dict[Nodes, Counter[str] | None] = {}  # the longest from a part to the end of the turn

        def way(part: Nodes) -> Counter[str] | None:
            if part not in ways:
                following = {m for n in part for m in self.after[n] if m in loop} - part
                rests = [Counter[str]() if m == entry else way(part_of[m]) for m in following]
                rest = max((r for r in rests if r is not None), key=Counter.total, default=None)
                cost = self._cost(part, part in inner_loops, turns_of)
                ways[part] = None if rest is None or cost is None else cost + rest
            return ways[part]

        if loop == {entry}:
            return self.count(loop)
        return way(part_of[entry])

    def _cost(self, part: Nodes, is_loop: bool, turns_of: TurnsOf) -> Counter[str] | None:
        if not is_loop:
            return self.count(part)
        turn = self.one_turn(part, turns_of)
        turns = None if turn is None else turns_of(turn)
        return None if turns is None else Counter({opcode: turns * count for opcode, count in turn.items()})


def _finishing_order(after: dict[int, list[int]]) -> list[int]:
    """Nodes in the order in which a depth-first search leaves them."""
    order: list[int] = []
    seen = set[int]()
    for root in sorted(after):
        stack = [] if root in seen else [(root, iter(after[root]))]
        seen.add(root)
        while stack:
            node, following = stack[-1]
            step = next((m for m in following if m not in seen), None)
            if step is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(step)
                stack.append((step, iter(after[step])))
    return order


def _reachable(after: dict[int, list[int]], root: int, barred: set[int]) -> set[int]:
    found, waiting = set[int](), [root]
    while waiting:
        node = waiting.pop()
        if node not in found and node not in barred:
            found.add(node)
            waiting += after[node]
    return found
