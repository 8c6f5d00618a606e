"""A run of Weights & Biases: online or not, its id, how it begins. What is here may raise and may wait."""

import atexit
import configparser
import importlib
import netrc
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from vim_train.config.redact import find_secrets, redact
from vim_train.config.schema import WandbConfig, WandbMode
from vim_train.report.summary import write_whole
from vim_train.report.text import one_line

_INIT_TIMEOUT = 10.0  # seconds; W&B's own 90 would keep the lines of a short run from being written
_OFFLINE_TIMEOUT = 90.0  # only a busy machine needs them
_FINISH_TIMEOUT = 20.0  # W&B would wait for ever, a batch system after SIGTERM some 30 seconds
_FLUSH = "x_transaction_log_flush_interval"
_ENVIRONMENT_MODES = {
    "online": WandbMode.online, "run": WandbMode.online, "shared": WandbMode.online,
    "offline": WandbMode.offline, "dryrun": WandbMode.offline,
    "disabled": WandbMode.disabled,
}  # fmt: skip


def import_wandb() -> None:
    """Import W&B and what it imports later. Raises whatever that raises.

    On the training thread: a data worker forked while another thread imports would keep that module locked for ever.
    """
    importlib.import_module("wandb")
    for later in ("requests", "yaml"):
        with suppress(ImportError):
            importlib.import_module(later)


def start(cfg: WandbConfig, run_dir: Path, config: Mapping[str, object], offline: Callable[[str], None]) -> Any:
    """Start, or where the run directory has an id resume, the run; online falls back to offline.

    Args:
        config: what the run's page shows as its configuration.
        offline: told why, where online was asked for and cannot be.
    """
    if choose_mode(cfg.mode) is WandbMode.online:
        if has_key():
            try:
                return _init("online", cfg, run_dir, config)
            except Exception as error:
                offline(one_line(error))
                leave()  # else the offline run finds its id in use
        else:
            offline("no key is set; `wandb login` sets one")  # W&B would ask for it and wait
    return _init("offline", cfg, run_dir, config)


def leave() -> None:
    """Give up a run that failed, so that nothing of it happens when Python exits."""
    with suppress(Exception, SystemExit):
        sys.modules["wandb"].teardown(1)
    os.environ.pop("WANDB_SERVICE", None)  # another program's: the next run gets a process of its own
    forget()


def forget() -> None:
    """Take W&B's hooks off Python's exit: they wait without end for a W&B that does not answer."""
    atexit.unregister(_HookOfWandb())  # type: ignore[arg-type]


class _HookOfWandb:
    """Equal to any function of W&B's, which keeps its hooks to itself."""

    def __eq__(self, other: object) -> bool:
        return str(getattr(other, "__module__", "")).startswith("wandb.")

    __hash__ = None  # type: ignore[assignment]


def place(run: Any) -> str:
    """Where the run can be looked at, or the command that uploads it."""
    if run.settings.mode == "offline":
        return f"wandb sync {_relative(Path(run.dir).parent)}"
    return str(run.url)


def choose_mode(mode: WandbMode) -> WandbMode:
    """auto: what WANDB_MODE says, else online where a key is set, else offline. Other modes stay as they are."""
    if mode is not WandbMode.auto:
        return mode
    asked = _ENVIRONMENT_MODES.get(os.environ.get("WANDB_MODE", "").lower())
    return asked or (WandbMode.online if has_key() else WandbMode.offline)


def has_key() -> bool:
    """Whether a W&B key is set: in the environment, in netrc, or in W&B's settings file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    files = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for file in files:
        try:
            if netrc.netrc(os.path.expanduser(file)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    settings = configparser.ConfigParser(interpolation=None)
    folder = os.environ.get("WANDB_CONFIG_DIR", os.path.expanduser("~/.config/wandb"))
    try:
        settings.read(Path(folder) / "settings")
    except (OSError, configparser.Error, UnicodeDecodeError):
        return False
    return settings.has_option("default", "api_key")


def finish_timeout() -> float | None:
    """Seconds that W&B may take to send the rest at the end; None: as long as it needs."""
    return _seconds("WANDB_FINISH_TIMEOUT", _FINISH_TIMEOUT) or None


def run_id(run_dir: Path) -> str:
    """The id of the run in this directory, the same in every process that goes on with it.

    It is WANDB_RUN_ID where that is set (a sweep's agent does), else made up at the first start and kept in the
    directory, before W&B hears of it: a kill at any moment leaves one run. Raises OSError if it cannot be kept.
    """
    if asked := os.environ.get("WANDB_RUN_ID"):
        return asked
    file = run_dir / "wandb" / "id"
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch(r"[0-9a-f]{12}", kept := file.read_text().strip()):
            return kept
    new = secrets.token_hex(6)
    file.parent.mkdir(exist_ok=True)
    write_whole(file, new + "\n")
    return new


def _init(mode: Literal["online", "offline"], cfg: WandbConfig, run_dir: Path, config: Mapping[str, object]) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")  # the setting alone leaves lines about logging in
    import wandb

    timeout = _seconds("WANDB_INIT_TIMEOUT", _INIT_TIMEOUT) if mode == "online" else _OFFLINE_TIMEOUT
    settings = wandb.Settings(silent=True, console="off", init_timeout=timeout, finish_timeout=finish_timeout() or 0.0)
    if hasattr(settings, _FLUSH):
        setattr(settings, _FLUSH, 1.0)  # seconds of lines that a kill may cost, instead of 15
    hidden = find_secrets()
    shown: dict[str, Any] = {"project": cfg.project, "entity": cfg.entity, "tags": cfg.tags, "config": dict(config)}
    typed = sys.argv
    try:
        sys.argv = redact(typed, hidden)  # the arguments are a part of what W&B tells of a run
        run = wandb.init(
            **redact(shown, hidden),
            name=run_dir.name,
            dir=run_dir,
            mode=mode,
            id=run_id(run_dir),
            resume="allow",
            settings=settings,
        )
    finally:
        sys.argv = typed
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _seconds(variable: str, default: float) -> float:
    try:
        return float(os.environ.get(variable, default))
    except ValueError:
        return default


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
