"""Prints what is known of the CUDA kernels without a GPU: `python tests/native/report.py`.

Errors against float64 by element type, whether the order of threads matters, what happens without each barrier, bytes
moved, and the budget of instructions. The tests of this folder hold these to their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import budget
import hostbuild
import hostcases
import sass
import torch
from hostcases import DTYPES, Case, Task
from hosterrors import examine
from hostrun import HostLibrary, TracedLibrary
from test_barriers import barriers, faults_without
from traffic import PROJECTIONS, traffic_of


def print_errors(libraries: dict[str, HostLibrary]) -> None:
    print("Host-executed kernels against float64: largest error, of a tensor's largest value")
    print(f"{'':24}{'cases':>7}{'io type':>11}{'fp32':>11}  same bits in 3 orders of threads")
    for dtype in DTYPES:
        show("scan", hostcases.scan_cases(dtype, count=100), hostcases.scan_task, *libraries.values())
        show("convolution", hostcases.conv_cases(dtype), hostcases.conv_task, libraries["mixed"])
        show("norm", hostcases.norm_cases(dtype), hostcases.norm_task, libraries["mixed"])


def show(title: str, cases: Iterable[Case], task: Callable[[Case], Task], *libraries: HostLibrary) -> None:
    cases = list(cases)
    results = [r for library in libraries for r in examine(library, cases, task)]
    io, fp32 = (max(getattr(r.errors, kind) for r in results) for kind in ("io", "fp32"))
    dtype = str(results[0].case.dtype).removeprefix("torch.")
    same = sum(r.same for r in results)
    print(f"{title:14}{dtype:10}{len(results):7}{io:11.1e}{fp32:11.1e}  {same} of {len(results)}")


def print_barriers(library: TracedLibrary) -> None:
    print("\nWithout each barrier")
    found = faults_without(library, hostcases.few_tasks())
    for barrier in barriers():
        print(f"{barrier!s:28}{found.get(barrier, 'never reached') or 'NOTHING GOES WRONG'}")


def print_traffic(library: TracedLibrary) -> None:
    print("\nBytes of a token-channel in bf16, 16 states, length 197, by count of loads and stores")
    print(f"{'':16}{'loaded':>8}{'stored':>8}{'total':>8}{'distinct':>10}  besides: B, C and parameters, from caches")
    traffic = traffic_of(library)
    for name, t in traffic.items():
        print(f"{name:16}{t.loaded:8.1f}{t.stored:8.1f}{t.total:8.1f}{t.distinct:10.1f}{t.shared:8.1f}")
    for way, products in PROJECTIONS.items():
        kernels = [t for name, t in traffic.items() if name.endswith(way)]
        distinct, total = (products + sum(getattr(t, kind) for t in kernels) for kind in ("distinct", "total"))
        print(f"{way}: {distinct:.1f} distinct, {total:.1f} in all, {products} of which are x_proj's and dt_proj's")


def main() -> None:
    torch.set_num_threads(1)
    if reason := hostbuild.missing():
        print(f"the kernels cannot be run on the host: {reason}")
    else:
        variants = (hostbuild.MIXED, hostbuild.LARGE, hostbuild.CHUNKED)
        *paths, traced = hostbuild.build(*variants, hostbuild.traced(hostbuild.MIXED))
        print_errors({variant.name: HostLibrary(path) for variant, path in zip(variants, paths, strict=True)})
        print_barriers(TracedLibrary(traced))
        print_traffic(TracedLibrary(traced))
    if reason := sass.missing():
        print(f"\nThe kernels cannot be compiled for GPUs: {reason}")
    else:
        print("\nCost of an element (one step of one channel in one direction) to a thread")
        kernels = budget.compile_all()
        print(budget.table(budget.costs(kernels)))
        spilling = [f"{k.name} on sm_{k.arch}" for k in kernels if k.spill_bytes]
        print(f"{len(kernels)} kernels, spills in {', '.join(spilling) or 'none'}, ", end="")
        print(f"atomic instructions in {', '.join(k.name for k in kernels if k.atomics) or 'none'}")


if __name__ == "__main__":
    main()
