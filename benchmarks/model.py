"""Images a second of Vim-Ti beside DeiT-Ti and beside the same Vim on a plain PyTorch scan; where Vim's time goes.

    python benchmarks/model.py [--batch 8] [--size 224] [--repeats 7] [--plain-repeats 2] [--threads N]

All subjects run in one process, in turns, on the same inputs, in fp32; figures are medians. DeiT uses PyTorch's fused
attention. Forward is inference without gradients; forward+backward is a step of training without the optimiser.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vim_train.cli.malloc import keep_freed_memory
from vim_train.cli.threads import let_threads_sleep

PARTS = {
    "GEMM": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "scan": ("vim_train::bimamba_scan",),
    "conv": ("vim_train::bimamba_conv",),
    "norm": ("vim_train::add_rms_norm",),
    "patch": ("aten::mkldnn_convolution", "aten::convolution", "aten::_convolution", "aten::thnn_conv2d"),
}


@dataclass
class Subject:
    name: str
    run: Callable[[bool], None]  # whether with backward
    repeats: int
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    def rate(self, batch: int, backward: bool) -> float:
        return batch / statistics.median(self.seconds[backward])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--plain-repeats", type=int, default=2, help="of the plain PyTorch scan; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def make_subjects(arguments: argparse.Namespace) -> list[Subject]:
    import timm
    import torch

    from vim_train import ops

    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    targets = torch.randint(1000, (arguments.batch,))

    def subject(name: str, model: torch.nn.Module, backend: str, repeats: int) -> Subject:
        def run(backward: bool) -> None:
            ops.set_backend(backend)
            model.train(backward)
            if not backward:
                with torch.inference_mode():
                    model(images)
                return
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.nn.functional.cross_entropy(model(images), targets))

        return Subject(name, run, repeats)

    deit = timm.create_model("deit_tiny_patch16_224", img_size=arguments.size)
    vim = timm.create_model("vim_tiny_patch16_224", img_size=arguments.size)
    native = ops.active_backend("cpu")
    subjects = [
        subject("deit_tiny (fused attention)", deit, native, arguments.repeats),
        subject(f"vim_tiny ({native})", vim, native, arguments.repeats),
    ]
    if arguments.plain_repeats:
        subjects.append(subject("vim_tiny (plain PyTorch loop)", vim, "reference", arguments.plain_repeats))
    return subjects


def measure(subjects: list[Subject], backward: bool) -> None:
    for subject in subjects:
        subject.run(backward)  # warm-up
    for turn in range(max(subject.repeats for subject in subjects)):
        for subject in subjects:
            if turn < subject.repeats:
                start = time.perf_counter()
                subject.run(backward)
                subject.seconds[backward].append(time.perf_counter() - start)


def shares(run: Callable[[bool], None]) -> dict[str, float]:
    """Share of the forward's time by part, per cent, from PyTorch's profiler (time in an operator itself)."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run(False)
    spent = dict.fromkeys((*PARTS, "other"), 0.0)
    for event in profiled.key_averages():
        part = next((name for name, keys in PARTS.items() if event.key.startswith(keys)), "other")
        spent[part] += event.self_cpu_time_total
    total = sum(spent.values())
    return {part: 100 * value / total for part, value in spent.items()}


def main() -> None:
    arguments = parse_arguments()
    let_threads_sleep()
    malloc = "tuned" if keep_freed_memory() else "default"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import torch

    torch.set_num_threads(arguments.threads)
    subjects = make_subjects(arguments)
    print(f"{processor()}, {arguments.threads} threads, {platform.system()} {platform.machine()}, malloc {malloc}")
    print(f"torch {torch.__version__}, fp32, batch {arguments.batch}, {arguments.size} pixels")
    for backward in (False, True):
        measure(subjects, backward)

    print(f"\n{'images/s':<32}{'forward':>10}{'of deit':>9}{'fwd+bwd':>10}{'of deit':>9}   forward ms, min-max")
    for subject in subjects:
        row = f"{subject.name:<32}"
        for backward in (False, True):
            rate, deit = (s.rate(arguments.batch, backward) for s in (subject, subjects[0]))
            row += f"{rate:>10.2f}{rate / deit:>9.2f}"
        low, high = min(subject.seconds[False]), max(subject.seconds[False])
        print(f"{row}   {1e3 * low:.0f}-{1e3 * high:.0f}")
    spent = ", ".join(f"{part} {share:.0f} %" for part, share in shares(subjects[1].run).items())
    print(f"\nvim_tiny forward: {spent}")


if __name__ == "__main__":
    main()
