"""Weights & Biases, kept at arm's length: whatever it raises is one warning, and training goes on without it."""

import configparser
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from vim_train.config.schema import WandbConfig, WandbMode
from vim_train.report.redact import find_secrets, redact
from vim_train.report.text import one_line

_INIT_TIMEOUT = 10.0  # seconds; W&B's own 90 would hold up training where the server is out of reach
_FINISH_TIMEOUT = 20.0  # W&B would wait for ever, a batch system after SIGTERM some 30 seconds
_ENVIRONMENT_MODES = {
    "online": WandbMode.online, "run": WandbMode.online, "shared": WandbMode.online,
    "offline": WandbMode.offline, "dryrun": WandbMode.offline,
    "disabled": WandbMode.disabled,
}  # fmt: skip


class WandbLogger:
    """A W&B run that logs `step` as an ordinary value and as the axis of every chart.

    So a resumed run may log steps again after a kill: W&B's own step counter would drop them.
    """

    def __init__(self, cfg: WandbConfig, run_dir: Path, name: str, warn: Callable[[str], None]) -> None:
        """Args: warn: told once, in one line, when W&B fails or falls back to offline."""
        self._cfg = cfg
        self._dir = run_dir
        self._name = name
        self._warn = warn
        self._run: Any = None
        self.run_id: str | None = None

    @property
    def place(self) -> str | None:
        """Where the run can be looked at, or the command that uploads it; None if W&B is off."""
        if self._run is None:
            return None
        if self._run.settings.mode == "offline":
            return f"wandb sync {_relative(Path(self._run.dir).parent)}"
        return str(self._run.url)

    def open(self, config: Mapping[str, object]) -> None:
        """Start, or with `run_id` set resume, the run; online falls back to offline."""
        mode = choose_mode(self._cfg.mode)
        if mode is WandbMode.disabled:
            return
        if mode is WandbMode.online:
            try:
                self._init("online", config)
                return
            except Exception as error:
                self._warn(redact(f"W&B is offline: {one_line(error)}", find_secrets()))
                self._warn = lambda message: None
        self._guard("start", lambda: self._init("offline", config))

    def log(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._guard("log", lambda: self._run.log({"step": step, "epoch": epoch, **metrics}))

    def finish(self, summary: Mapping[str, object], exit_code: int = 0) -> None:
        """Close the run; unsent data stays in the run directory for ``wandb sync``."""
        if self._run is not None:
            self._guard("finish", lambda: self._close(summary, exit_code))
            self._run = None

    def _init(self, mode: Literal["online", "offline"], config: Mapping[str, object]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # the setting alone leaves lines about logging in
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", _INIT_TIMEOUT)),
            finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", _FINISH_TIMEOUT)),
        )  # fmt: skip
        secrets = find_secrets()
        run = wandb.init(
            project=self._cfg.project, entity=self._cfg.entity, name=self._name, tags=redact(self._cfg.tags, secrets),
            config=dict(redact(config, secrets)), dir=self._dir, mode=mode, id=self.run_id, resume="allow",
            settings=settings,
        )  # fmt: skip
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        self._run, self.run_id = run, run.id

    def _close(self, summary: Mapping[str, object], exit_code: int) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=exit_code)

    def _guard(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._run = None
            self._warn(redact(f"W&B is off, {what} failed: {one_line(error)}", find_secrets()))


def choose_mode(mode: WandbMode) -> WandbMode:
    """auto: what WANDB_MODE says, else online where a key is set, else offline. Other modes stay as they are."""
    if mode is not WandbMode.auto:
        return mode
    asked = _ENVIRONMENT_MODES.get(os.environ.get("WANDB_MODE", "").lower())
    return asked or (WandbMode.online if has_key() else WandbMode.offline)


def has_key() -> bool:
    """Whether a W&B key is set: in the environment, in netrc, or in W&B's settings file."""
    if os.environ.get("WANDB_API_KEY"):
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


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
