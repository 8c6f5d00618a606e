"""Seconds to index a tar of 1.28 million images, to take the index from the cache, and memory with 8 workers.

The tar is ILSVRC2012_img_train.tar in form: 1,000 tars in a tar, whose members are holes of a sparse file. The file is
in the page cache when it is indexed, as it has just been written; from a disk, its reads come on top.

    python benchmarks/index.py DIR                      # 1.3 GB in DIR
    python benchmarks/index.py DIR --member-bytes 110000   # ImageNet's mean: 138 GB long, 5 GB on disk
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import tarfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from vim_train.config.schema import DataConfig, DataName
from vim_train.data.sources import Source, open_source

MEMBERS, CLASSES = 1_281_167, 1000


def write_tar(path: Path, members: int, size: int) -> None:
    """Sparse where the members' contents are."""
    each = [members // CLASSES + (i < members % CLASSES) for i in range(CLASSES)]
    step = 512 + -(-size // 512) * 512
    head = tarfile.TarInfo("")
    head.size = size
    with open(path, "wb") as file:
        pos = 0
        for label, count in enumerate(each):
            wnid = f"n{label + 1_440_764:08d}"
            outer = tarfile.TarInfo(f"{wnid}.tar")
            outer.size = -(-(count * step + 1024) // 10240) * 10240
            file.seek(pos)
            file.write(outer.tobuf(tarfile.GNU_FORMAT))
            pos += 512
            for i in range(count):
                head.name = f"{wnid}_{i}.JPEG"
                file.seek(pos + i * step)
                file.write(head.tobuf(tarfile.GNU_FORMAT))
            pos += outer.size
        file.truncate(pos + 10240)


def opened(root: Path, refresh: bool = False) -> tuple[Source, float, float]:
    """The source, with seconds and CPU seconds it took."""
    # The held-out share of an unsplit set would cost a hash a name; with val/ there, the index is all that is timed.
    data = DataConfig(name=DataName.folder, root=str(root), allow_empty_classes=True)
    wall, cpu = time.perf_counter(), time.process_time()
    source = open_source(data, "train", refresh=refresh)
    return source, time.perf_counter() - wall, time.process_time() - cpu


def memory() -> dict[str, int]:
    """MiB of this process: resident, its share of what is shared, and its own alone."""
    with open("/proc/self/smaps_rollup") as file:
        found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in file if line.endswith("kB\n")}
    own = found["Private_Dirty"] + found["Private_Clean"]
    return {"resident": round(found["Rss"]), "share": round(found["Pss"]), "own": round(own)}


def work(source: Source, seed: int, reads: int, pipe: Connection) -> None:
    """Read at random, as a worker does, and tell how much memory that takes while the others do too."""
    for index in np.random.default_rng(seed).integers(len(source), size=reads).tolist():
        source.read(index)
        source.name(index)
    pipe.send(None)
    pipe.recv()
    pipe.send(memory())
    pipe.recv()


def workers(source: Source, count: int, reads: int) -> list[dict[str, int]]:
    """Memory of `count` forked readers, all at work."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for seed in range(count):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(source, seed, reads, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    for _ in range(2):
        found = [pipe.recv() for pipe in pipes]
        for pipe in pipes:
            pipe.send(None)
    for process in processes:
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--member-bytes", type=int, default=100)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--reads", type=int, default=20_000, help="images that each worker reads")
    args = parser.parse_args()
    root = args.dir / f"imagenet-{args.members}-{args.member_bytes}"
    path = root / "ILSVRC2012_img_train.tar"
    (root / "val" / "n01440764").mkdir(parents=True, exist_ok=True)
    (root / "val" / "n01440764" / "ILSVRC2012_val_00000293.JPEG").touch()
    os.environ.setdefault("VIM_TRAIN_CACHE", str(args.dir / "cache"))
    if not path.exists():
        write_tar(path, args.members, args.member_bytes)
    on_disk = path.stat().st_blocks * 512
    print(f"{platform.node()}: {path}: {path.stat().st_size / 1e9:.1f} GB, {on_disk / 1e9:.1f} on disk")
    source, wall, cpu = opened(root, refresh=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"build: {len(source):,} images in {wall:.1f} s ({cpu:.1f} CPU s), at most {peak:.0f} MiB resident")
    del source
    for _ in range(3):
        source, wall, cpu = opened(root)
        print(f"from the cache: {wall:.2f} s ({cpu:.2f} CPU s)")
    [index] = Path(os.environ["VIM_TRAIN_CACHE"]).glob("index/*.idx")
    print(f"index: {index.stat().st_size / 2**20:.0f} MiB; this process now: {memory()}")
    found = workers(source, args.workers, args.reads)
    print(f"{args.workers} workers, {args.reads:,} reads each, MiB: {found[0]} … {found[-1]}")
    print(f"all workers together: {sum(one['share'] for one in found)} MiB, shared pages counted once")


if __name__ == "__main__":
    main()
