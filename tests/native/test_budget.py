"""What nvcc makes of the kernels keeps within its budget."""

from __future__ import annotations

import budget
import pytest
import sass
from hostbuild import only
from sass import Kernel

pytestmark = pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return budget.compile_all(*only("bf16"))


def _assert_sound(kernels: list[Kernel]) -> None:
    assert [f"{k.name} on sm_{k.arch}" for k in kernels if k.atomics] == []
    assert [f"{k.name} on sm_{k.arch}: {k.spill_bytes} bytes" for k in kernels if k.spill_bytes] == []


def test_nothing_spills_or_is_atomic(kernels: list[Kernel]) -> None:
    _assert_sound(kernels)


@pytest.mark.full
def test_nothing_spills_or_is_atomic_in_any_element_type() -> None:
    _assert_sound(budget.compile_all())


def test_an_element_costs_no_more_than_its_budget(kernels: list[Kernel]) -> None:
    costs = budget.costs(kernels)
    assert len(costs) == len(budget.SCANS) * len(sass.ARCHS), [k.name for k in kernels]
    for cost in costs:
        exponentials, expected = cost.per_element(r"MUFU\.EX2"), 16 * cost.scan.passages
        assert expected <= exponentials <= expected + 4, f"the code is misread: {cost.scan}, {exponentials}"
        assert cost.scan.limit is None or cost.per_element() <= cost.scan.limit, budget.table(costs)
