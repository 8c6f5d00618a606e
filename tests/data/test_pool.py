"""Workers that die or hang are named in one line; signals to the process group do not touch them."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from multiprocessing import resource_sharer
from multiprocessing.context import ForkProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import vim_train
from vim_train.config.errors import HungError, WorkerError
from vim_train.config.schema import TrainConfig
from vim_train.data.pool import Pool, _start_worker
from vim_train.data.sources import open_source
from vim_train.data.stream import TrainStream

CPU = torch.device("cpu")


class Trap:
    """Grey images; loading number 17 does `spring`."""

    classes: list[str]

    def __init__(self, spring: str) -> None:
        self.classes, self.native_mode, self.labels = ["a"], "L", np.zeros(32, dtype=np.int64)
        self._spring = spring

    def __len__(self) -> int:
        return 32

    def read(self, index: int) -> bytes | None:
        return None

    def load(self, index: int, mode: str = "RGB") -> Image.Image:
        if index == 17 and self._spring == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 17 and self._spring in ("hang", "dawdle"):
            time.sleep(60 if self._spring == "hang" else 1)
        if self._spring == "group":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return Image.new("L", (8, 8))

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self) -> str:
        return ""


@pytest.fixture
def config(fashion_config: TrainConfig) -> TrainConfig:
    fashion_config.augment.auto_augment = None
    fashion_config.data.workers = 2
    return fashion_config


def run(spring: str, cfg: TrainConfig, timeout_s: float) -> None:
    cfg.run.hang_timeout_s = timeout_s
    one = TrainStream(Trap(spring), cfg, 1, CPU)  # type: ignore[arg-type]
    for _ in one.batches(0, 6):
        pass


def test_a_worker_that_dies_is_named_with_its_image(config: TrainConfig) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(WorkerError, match=r"^a data worker died \(out of memory\?\) at image 17; ") as caught:
        run("die", config, timeout_s=1)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_worker_that_hangs_is_named_with_its_image_and_stack(config: TrainConfig) -> None:
    words = r"^the data workers gave nothing for 1 s \(run.hang_timeout_s\); they are at .*image 17"
    with pytest.raises(HungError, match=words) as caught:
        run("hang", config, timeout_s=1)
    assert "\n" not in str(caught.value)
    assert ", at image 17\n" in caught.value.stacks
    assert re.search(r'test_pool.py", line \d+ in load', caught.value.stacks)
    assert not multiprocessing.active_children()


def test_a_slow_worker_is_waited_for(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vim_train.data.loader.POLL_S", 0.1)
    run("dawdle", config, timeout_s=30)


class Echo(Dataset[int]):
    """Answers a number with itself."""

    source = None

    def __getitem__(self, number: int) -> int:
        return number


class EchoTensor(Echo):
    """The same in a tensor, which workers hand over through a connection of their own."""

    def __getitem__(self, number: int) -> torch.Tensor:  # type: ignore[override]
        return torch.full((4,), number)


def test_a_worker_that_dies_while_it_hands_over_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ident: object) -> object:
        [worker] = multiprocessing.active_children()
        threading.Timer(0.2, worker.kill).start()  # its connections break before it has ended
        raise EOFError

    pool = Pool(EchoTensor(), [1, 2, 3], 1, timeout_s=60)  # type: ignore[arg-type]
    batches = iter(pool)
    assert next(batches).tolist() == [1] * 4
    monkeypatch.setattr(resource_sharer._resource_sharer, "get_connection", broken)  # type: ignore[attr-defined]
    with pytest.raises(WorkerError, match=r"^a data worker died \(out of memory\?\) between two images; "):
        next(batches)
    assert not multiprocessing.active_children()


class DiesInTorch(Echo):
    """Killed in the instant that torch's own loop asks whether it is to end."""

    def __getitem__(self, number: int) -> int:
        frame = sys._getframe()
        while "done_event" not in frame.f_locals:
            assert frame.f_back is not None
            frame = frame.f_back
        # multiprocessing's Event holds a lock of the training process while it is asked
        with getattr(frame.f_locals["done_event"], "_cond", nullcontext()):
            os.kill(os.getpid(), signal.SIGKILL)
        return number


def test_a_worker_killed_inside_torch_does_not_hold_the_training_process() -> None:
    with pytest.raises(WorkerError, match=r"^a data worker died \(out of memory\?\) between two images; "):
        list(Pool(DiesInTorch(), [1, 2, 3], 1, timeout_s=60))  # type: ignore[arg-type]
    assert not multiprocessing.active_children()
    abandoned = Pool(DiesInTorch(), [1, 2, 3], 1, persistent=True, timeout_s=60)  # type: ignore[arg-type]
    abandoned._iterator = abandoned._start()
    [worker] = multiprocessing.active_children()
    worker.join()
    abandoned.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of torch's, in its half-made iterator
def test_workers_do_not_outlive_a_start_that_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    start, begun = ForkProcess.start, []

    def only_once(process: ForkProcess) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(process)
        start(process)

    monkeypatch.setattr(ForkProcess, "start", only_once)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(Pool(Echo(), [1, 2, 3], 2, timeout_s=60))  # type: ignore[arg-type]
    assert len(begun) == 1
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("goes_on", [True, False])
def test_workers_that_are_kept_may_be_late_but_not_stopped(goes_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two evaluations torch asks them whether they go on."""
    monkeypatch.setattr("vim_train.data.loader.POLL_S", 0.1)
    pool = Pool(Echo(), [1, 2, 3], 1, persistent=True, timeout_s=60 if goes_on else 1)  # type: ignore[arg-type]
    assert list(pool) == [1, 2, 3]
    [worker] = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    if goes_on:
        waker = threading.Timer(0.5, os.kill, (worker.pid, signal.SIGCONT))
        waker.start()
        assert list(pool) == [1, 2, 3]
        waker.join()
    else:
        with pytest.raises(HungError, match=r"^the data workers gave nothing for 1 s "):
            list(pool)
    pool.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("when", ["while it rests", "while it is asked"])
def test_a_kept_worker_that_dies_is_not_waited_for(when: str) -> None:
    pool = Pool(Echo(), [1, 2, 3], 2, persistent=True, timeout_s=600)  # type: ignore[arg-type]
    assert list(pool) == [1, 2, 3]
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    if when == "while it rests":
        worker.kill()
    else:
        os.kill(worker.pid, signal.SIGSTOP)
        threading.Timer(0.5, worker.kill).start()
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"^a data worker died \(out of memory\?\) between two images; "):
        list(pool)
    assert time.monotonic() < began + 60
    assert not multiprocessing.active_children()


def test_signals_to_the_group_pass_workers_by(config: TrainConfig) -> None:
    run("group", config, timeout_s=10)


def test_workers_end_with_the_training_process(photo_config: TrainConfig, photo_root: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import multiprocessing, os, sys, time\n"
        "import torch\n"
        "from vim_train.config.errors import WorkerError\n"
        "from vim_train.config.schema import *\n"
        "from vim_train.data.sources import open_source\n"
        "from vim_train.data.stream import TrainStream\n"
        "cfg = TrainConfig()\n"
        "cfg.data = DataConfig(name=DataName.fashion, img_size=28, batch_size=32, lane=8, mean=[0.5], std=[0.5])\n"
        "cfg.model.in_chans = 1\n"
        "batches = TrainStream(open_source(cfg.data, 'train'), cfg, 10, torch.device('cpu')).batches(0, 100000)\n"
        "next(batches)\n"
        "print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "time.sleep(60)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(vim_train.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)


def test_a_worker_whose_training_process_is_gone_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Its thread that hands images over would print how the connection broke."""

    def worker(error: BaseException) -> None:
        _start_worker(torch.zeros(1, 2, dtype=torch.int64), 2, os.getppid(), 0)
        sys.excepthook(type(error), error, None)

    for error in (ConnectionResetError(104, "reset by peer"), EOFError(), ValueError("of our own making")):
        process = multiprocessing.get_context("fork").Process(target=worker, args=(error,))
        process.start()
        process.join()
    assert capfd.readouterr().err.splitlines() == ["ValueError: of our own making"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _own_mounts() -> bool:
    try:
        trial = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"]
        return subprocess.run(trial, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _own_mounts(), reason="/dev/shm cannot be made small here")
def test_too_little_shared_memory_is_one_line_with_the_cure(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "from vim_train.config.errors import WorkerError\n"
        "from vim_train.config.schema import *\n"
        "from vim_train.data.sources import open_source\n"
        "from vim_train.data.stream import TrainStream\n"
        "cfg = TrainConfig()\n"
        "cfg.data = DataConfig(name=DataName.fashion, img_size=224, batch_size=64, lane=8, mean=[0.5], std=[0.5])\n"
        "cfg.model.in_chans, cfg.data.workers = 1, 2\n"
        "try:\n"
        "    list(TrainStream(open_source(cfg.data, 'train'), cfg, 10, torch.device('cpu')).batches(0, 8))\n"
        "except WorkerError as error:\n"
        "    print(error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(vim_train.__file__).parent.parent)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=4m none /dev/shm && exec {sys.executable} {script}"],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
    )
    assert done.stdout == (
        "no shared memory left for the data workers (/dev/shm has 4 MiB): take fewer data.workers or a smaller "
        "data.batch_size, or give the container more (--ipc=host, --shm-size=8g)\n"
    ), done.stderr


def test_the_source_may_be_read_where_workers_are_started_by_spawn(photo_config: TrainConfig) -> None:
    """What a worker is sent must survive pickling, for platforms without fork."""
    import pickle

    one = TrainStream(open_source(photo_config.data, "train"), photo_config, 4, CPU)
    copy = pickle.loads(pickle.dumps(one._fetch))
    [request, *_] = one._requests(0, 1)
    assert torch.equal(copy[request].images, one._fetch[request].images)
