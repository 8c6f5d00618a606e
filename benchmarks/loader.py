"""Training images per second of one core, from encoded JPEGs in memory: ours, timm's, torchvision's and FFCV's.

Seconds are CPU seconds of this process with one thread, so that another process on the machine does not count. What
that takes of the caches does: contestants take turns, and medians over the rounds are printed, also of the ratios
inside a round. The JPEGs have ImageNet's usual size, 500x375, made from the photographs of the tests (or of --photos).
FFCV itself is not run: its operations are, which are a full decode and a resize by area (by cv2, or by what is stated
where cv2 is missing), with the crops drawn beforehand at no cost.

    python benchmarks/loader.py
    python benchmarks/loader.py --photos DIR --rounds 9
    python benchmarks/loader.py --workers 2      # also wall time: processes and threads
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment, create_transform
from torchvision.transforms import v2

from vim_train.config.schema import AugmentConfig, DataConfig, EraseMode
from vim_train.data import fetch, transforms
from vim_train.data.decode import Mode
from vim_train.data.order import Stream, position_keys
from vim_train.data.pixels import pixel_library, pixel_status
from vim_train.data.pool import Pool
from vim_train.data.rng import preserved, seed_globals

SIZE = 224
SEED = 1
POLICY = "rand-m9-mstd0.5-inc1"
RECIPES = {
    "": AugmentConfig(),
    "full": AugmentConfig(auto_augment=POLICY, color_jitter=0.4, erase_prob=0.25, erase_mode=EraseMode.pixel),
}
DATA = DataConfig(img_size=SIZE)
CPU = torch.device("cpu")

Work = Callable[[], object]


class Encoded:
    """JPEGs in memory as a source."""

    native_mode: Mode = "RGB"

    def __init__(self, files: list[bytes]) -> None:
        self.files = files
        self.classes = ["everything"]
        self.labels = np.zeros(len(files), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return self.files[index]

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        return Image.open(io.BytesIO(self.files[index])).convert(mode)

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self) -> str:
        return ""


def make_jpegs(photos: Path, count: int, quality: int, subsampling: int) -> list[bytes]:
    paths = sorted(photos.glob("**/*.jpg"))
    if not paths:
        raise SystemExit(f"{photos} holds no .jpg")
    files = []
    for i in range(count):
        stream = io.BytesIO()
        picture = Image.open(paths[i % len(paths)]).convert("RGB").resize((500, 375), Image.Resampling.LANCZOS)
        picture.save(stream, "JPEG", quality=quality, subsampling=subsampling)
        files.append(stream.getvalue())
    return files


def keys(n: int) -> list[int]:
    found: list[int] = position_keys(SEED, Stream.AUGMENT, 0, np.arange(n)).tolist()
    return found


def make_fetch(source: Encoded, recipe: str) -> fetch.Fetch:
    return fetch.Fetch(source, transforms.train_transform(DATA, RECIPES[recipe]), "RGB", SIZE, SEED, replacements=0)


def run_ours(source: Encoded, recipe: str, *, native: bool = True, floats: bool = False) -> torch.Tensor:
    """One batch of the whole source, as a worker makes it; `floats`: normalised and erased too."""
    one, n = make_fetch(source, recipe), len(source)
    found = fetch.pixel_library
    if not native:
        fetch.pixel_library = lambda: None  # type: ignore[assignment]
    try:
        images = one[fetch.Request(0, np.arange(n), np.arange(n))].images
    finally:
        fetch.pixel_library = found
    assert images is not None
    if floats:
        images = transforms.Normalize(DATA.mean, DATA.std, CPU)(images)
        if RECIPES[recipe].erase_prob:
            transforms.Erase(RECIPES[recipe])(images, position_keys(SEED, Stream.ERASE, 0, np.arange(n)))
    return images


def timm_transform(recipe: str, prefetcher: bool) -> Callable[[Image.Image], torch.Tensor | NDArray[np.uint8]]:
    augment = RECIPES[recipe]
    whole = create_transform(
        SIZE,
        is_training=True,
        interpolation="bicubic",
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.auto_augment,
        re_prob=augment.erase_prob,
        re_mode="pixel",
        use_prefetcher=prefetcher,
    )
    for step in whole.transforms:
        if isinstance(step, auto_augment.RandAugment):
            for op in step.ops:  # Pillow 13 refuses the 0 bits that timm asks for at times
                if op.name.startswith("Posterize"):
                    op.aug_fn = transforms._posterize
    return whole


def run_timm(source: Encoded, transform: Callable[[Image.Image], object], *, seeded: bool = False) -> list[object]:
    done = []
    for index, key in enumerate(keys(len(source))):
        if seeded:
            seed_globals(key)
        done.append(transform(source.load(index)))
    return done


def torchvision_transform() -> Callable[[Image.Image], object]:
    """The training preset of torchvision's classification reference, on its default backend."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(mean=DATA.mean, std=DATA.std),
        ]
    )


def drawn_crops(source: Encoded) -> list[tuple[int, int, int, int, bool]]:
    """(left, top, width, height, flip) of every image, as our recipe draws them."""
    transform, found = transforms.train_transform(DATA, RECIPES[""]), []
    for index, key in enumerate(keys(len(source))):
        seed_globals(key)
        sketched = transform.sketch(source.load(index).size, "RGB", operations=True)
        assert sketched is not None
        found.append((*sketched[0].crop, sketched[0].flip_x))
    return found


def ffcv_operations(source: Encoded, crops: list[tuple[int, int, int, int, bool]]) -> tuple[str, Work]:
    try:
        import cv2
    except ImportError:
        return "FFCV's operations, by Pillow (no cv2)", partial(_ffcv_by_pillow, source, crops)
    cv2.setNumThreads(1)

    def run() -> list[NDArray[np.uint8]]:
        done = []
        for data, (left, top, width, height, flip) in zip(source.files, crops, strict=True):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            crop = image[top : top + height, left : left + width]
            resized = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
            done.append(resized[:, ::-1] if flip else resized)
        return done

    return f"FFCV's operations, by cv2 {cv2.__version__}", run


def _ffcv_by_pillow(source: Encoded, crops: list[tuple[int, int, int, int, bool]]) -> list[Image.Image]:
    done = []
    for index, (left, top, width, height, flip) in enumerate(crops):
        box = (left, top, left + width, top + height)
        resized = source.load(index).resize((SIZE, SIZE), Image.Resampling.BOX, box)
        done.append(resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else resized)
    return done


def measure(contestants: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, work in contestants.items():
            began = time.process_time()
            work()
            if round_number:  # the first warms up
                seconds[name].append(time.process_time() - began)
    return seconds


def times_faster(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds: what slows the machine down for a while slows both."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def compare(source: Encoded, rounds: int) -> None:
    ffcv_name, ffcv = ffcv_operations(source, drawn_crops(source))
    contestants: dict[str, Work] = {
        "timm as written": partial(run_timm, source, timm_transform("", prefetcher=False)),
        "timm, uint8 for its prefetcher": partial(run_timm, source, timm_transform("", prefetcher=True)),
        "torchvision's reference": partial(run_timm, source, torchvision_transform()),
        "lean Pillow": partial(run_ours, source, "", native=False),
        ffcv_name: ffcv,
        "vim-train": partial(run_ours, source, ""),
        "vim-train, normalised on the CPU": partial(run_ours, source, "", floats=True),
        "timm's full recipe": partial(run_timm, source, timm_transform("full", prefetcher=False)),
        "vim-train's full recipe": partial(run_ours, source, "full"),
        "vim-train's, normalised and erased on the CPU": partial(run_ours, source, "full", floats=True),
    }
    seconds = measure(contestants, rounds)
    for name, times in seconds.items():
        of = "timm's full recipe" if "full" in name or "erased" in name else "timm as written"
        each = statistics.median(times) / len(source)
        print(f"  {name:46} {1 / each:6.0f} /s {1000 * each:6.2f} ms {times_faster(times, seconds[of]):6.2f} x")
    print(f"  vim-train / FFCV's operations: {times_faster(seconds['vim-train'], seconds[ffcv_name]):.2f} x")
    for recipe in RECIPES:
        ours = run_ours(source, recipe).numpy()
        timms = run_timm(source, timm_transform(recipe, prefetcher=True), seeded=True)
        equal = sum(np.array_equal(a, np.asarray(b)) for a, b in zip(ours, timms, strict=True))
        print(f"  pixels equal to timm's ({recipe or 'plain'}): {equal} of {len(source)} images")


def requests(images: int, batch: int, batches: int) -> Iterator[fetch.Request]:
    for number in range(batches):
        positions = np.arange(number * batch, (number + 1) * batch) % images
        yield fetch.Request(0, positions, positions)


def run_processes(source: Encoded, workers: int, batch: int, batches: int) -> float:
    """Wall seconds of Pool with worker processes, after their start."""
    answers = iter(Pool(make_fetch(source, "full"), requests(len(source), batch, batches + workers), workers))
    for _ in range(workers):
        next(answers)
    began = time.perf_counter()
    for _ in answers:
        pass
    return time.perf_counter() - began


def run_threads(source: Encoded, workers: int, batch: int, batches: int) -> float:
    """Wall seconds of as many threads; draws take turns, since timm draws from global generators."""
    one, lock = make_fetch(source, "full"), threading.Lock()
    library = pixel_library()
    assert library is not None
    transform = transforms.train_transform(DATA, RECIPES["full"])

    def fill(out: NDArray[np.uint8], index: int, key: int) -> None:
        data = source.read(index)
        header = library.header(data)
        assert header is not None
        with lock:
            seed_globals(key)
            sketched = transform.sketch((header.width, header.height), "RGB", operations=True)
        assert sketched is not None
        library.from_jpeg(data, sketched[0], "RGB", out)

    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads, preserved():
        for request in requests(len(source), batch, batches):
            images = torch.empty((batch, 3, SIZE, SIZE), dtype=torch.uint8).numpy()
            list(threads.map(fill, images, request.indices.tolist(), one._keys(request) or []))
    return time.perf_counter() - began


def compare_workers(source: Encoded, workers: int, rounds: int) -> None:
    batch, batches = 32, 12
    rates: dict[str, list[float]] = {"processes": [], "threads": []}
    for _ in range(rounds):
        rates["processes"].append(batch * batches / run_processes(source, workers, batch, batches))
        rates["threads"].append(batch * batches / run_threads(source, workers, batch, batches))
    for name, found in rates.items():
        print(f"  {workers} {name:10} {statistics.median(found):6.0f} images/s of wall time, full recipe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path(__file__).parents[1] / "tests" / "photos")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="also compare so many processes and threads")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    versions = f"Pillow {PIL.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}"
    print(f"{platform.processor() or platform.machine()}, one core; {versions}")
    print(f"pixels: {pixel_status()}")
    for quality, subsampling, name in ((90, 2, "4:2:0"), (96, 0, "4:4:4")):
        source = Encoded(make_jpegs(arguments.photos, arguments.images, quality, subsampling))
        size = sum(map(len, source.files)) / len(source) / 1000
        print(f"500x375, quality {quality}, {name}, {size:.0f} kB, {len(source)} images, to {SIZE}x{SIZE}")
        compare(source, arguments.rounds)
        if arguments.workers:
            compare_workers(source, arguments.workers, arguments.rounds)


if __name__ == "__main__":
    main()
