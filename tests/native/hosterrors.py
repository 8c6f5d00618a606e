"""How far the results of kernels are from float64, and whether the order of threads shows in them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from hostcases import Case, Task, Tensors
from hostrun import ORDERS, HostLibrary, serving
from torch import Tensor

# Of a tensor's largest value, for results in the io dtype: one rounding, and dz is made of two. Others are fp32's.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}

_FLOOR = 0.1  # of the largest value of all tensors: that of one alone may be a sum that cancels


class Errors(dict[str, float]):
    """Of a case's tensors, by name, in units of their largest values; infinite where one holds no number."""

    @property
    def io(self) -> float:
        """The largest of those in the io dtype."""
        return max(error for name, error in self.items() if _IO.match(name))

    @property
    def fp32(self) -> float:
        return max(error for name, error in self.items() if not _IO.match(name))


_IO = re.compile(r"(out|dz|u|u_b|dx|normed|(du|ddelta)\.\d)$")


def errors_of(got: Tensors, want: Tensors) -> Errors:
    assert got.keys() == want.keys()
    floor = _FLOOR * max(float(t.abs().max()) for t in want.values())
    errors = Errors()
    for name, t in want.items():
        error = float((got[name].double() - t).abs().max()) / max(float(t.abs().max()), floor)
        errors[name] = error if error == error else math.inf
    return errors


class Result(NamedTuple):
    case: Any
    errors: Errors
    same: bool  # the bits in all orders of threads

    @property
    def right(self) -> bool:
        tolerance = TOLERANCES[self.case.dtype]
        return self.same and self.errors.io <= tolerance and self.errors.fp32 <= TOLERANCES[torch.float32]

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"{self.case}\n  {'' if self.same else 'results depend on the order of threads; '}{errors}"


def examine(library: HostLibrary, cases: Iterable[Case], task_of: Callable[[Case], Task]) -> Iterator[Result]:
    """Runs the cases through a library, in every order of threads."""
    with serving(library):
        for case in cases:
            task = task_of(case)
            results = []
            for order in ORDERS:
                library.set_order(order, seed=1)
                results.append(task.run())
            yield Result(case, errors_of(results[0], task.want), all(same_bits(results[0], r) for r in results))


def same_bits(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(_bits(t), _bits(b[name])) for name, t in a.items())


def _bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int32 if t.element_size() == 4 else torch.int16)
