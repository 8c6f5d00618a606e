"""Canaries: no key or password of the environment is in any file that a run writes."""

import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import arguments

pytestmark = pytest.mark.full

CANARIES = {
    "WANDB_API_KEY": "c0ffee00" * 5,
    "HF_TOKEN": "hf_canaryTokenOfTheHub",
    "MY_PASSWORD": "canary-my-password",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+secret/access",
    "OLD_TOKEN_2": "canary-second-token",
}
IN_URL = "canary-in-url"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours, with the canaries, and with nothing that keeps W&B out of the home folder."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    return ours | CANARIES | {"HOME": str(home), "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"} | more


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below a folder: its bytes, those of the members of archives, and its name."""
    for path in sorted(folder.rglob("*")):
        yield str(path), os.fsencode(path.name)
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            yield str(path), data
            if data[:2] == b"\x1f\x8b":
                yield str(path), gzip.decompress(data)
            if zipfile.is_zipfile(io.BytesIO(data)):
                with zipfile.ZipFile(path) as archive:
                    yield from ((f"{path}: {name}", archive.read(name)) for name in archive.namelist())
        if path.suffix == ".wandb":  # a log in blocks, which may cut a word in two
            yield str(path), inspect(path)


def inspect(file: Path) -> bytes:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def found(folder: Path, *more: str) -> list[str]:
    """Where a canary is, as it is or as JSON or a URL writes it."""
    words = [*CANARIES.values(), *more]
    forms = {form.encode() for word in words for form in (word, json.dumps(word)[1:-1], word.replace("/", "%2F"))}
    return sorted({place for place, data in contents(folder) if any(form in data for form in forms)})


def test_a_run_writes_none(tmp_path: Path, photos: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    secret = CANARIES["MY_PASSWORD"]
    root = tmp_path / f"photos-{secret}"
    root.symlink_to(photos)
    run = arguments(
        work, root, "schedule.epochs=2", "eval.every=1ep", "logger.every=1st", "run.name=told",
        "logger.wandb.mode=offline",
        f"data.root={tmp_path}/photos-${{oc.env:MY_PASSWORD}}",
        "logger.wandb.tags=[${oc.env:HF_TOKEN},typed-" + CANARIES["OLD_TOKEN_2"] + "]",
        "logger.wandb.project=of-${oc.env:MY_PASSWORD}", "logger.wandb.entity=${oc.env:HF_TOKEN}",
    )  # fmt: skip
    env = environment(home, WANDB_BASE_URL=f"https://user:{IN_URL}@127.0.0.1:9")
    train = [sys.executable, "-m", "vim_train.cli.train", *run]
    done = subprocess.run(train, env=env, cwd=work, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list(work.glob("told/wandb/offline-run-*/*.wandb")), done.stdout
    assert found(tmp_path / "work", IN_URL) + found(home, IN_URL) == []
    told = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("looking through")]
    assert [line for line in told if any(word in line for word in [*CANARIES.values(), IN_URL])] == []
