"""What the commands have in common: Hydra composes, the schema and the checks decide, the command runs."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import vim_train
from vim_train.cli import completion
from vim_train.cli.arguments import Arguments, read_arguments
from vim_train.cli.errors import DONE, INTERRUPTED, TERMINATED, guarded
from vim_train.config.compose import Plain, register_schemas, validate
from vim_train.config.errors import UserError
from vim_train.config.explain import explain
from vim_train.config.files import conf_dir


@dataclass(frozen=True)
class Command:
    """A console command."""

    program: str
    """Its name, as typed."""
    config: str
    """Its file in conf/, without the suffix."""
    schema: type
    help: Callable[[list[str]], str]
    """Text of --help, given the other arguments."""
    run: Callable[[Any, Plain], int]
    """The work on a validated configuration and its plain form; returns the exit code."""


def execute(command: Command, argv: list[str]) -> int:
    """Run a command line; returns its exit code."""
    if completion.asked(argv):
        return guarded(command.program, False, lambda: _complete(command, argv))
    debug = any(item.lower() == "debug=true" for item in argv)
    return guarded(command.program, debug, lambda: _dispatch(command, read_arguments(argv, command.schema)))


def _complete(command: Command, argv: list[str]) -> int:
    completion.check_request(argv)
    candidates = completion.value_candidates(argv, command.schema)
    if candidates is not None:
        print(candidates)
    else:
        with suppress(HydraException):  # a line it cannot read, yet: a quote is open
            _hydra(command, argv, lambda cfg: None)
    return DONE


def _dispatch(command: Command, arguments: Arguments) -> int:
    if arguments.version:
        print(f"{command.program} {vim_train.__version__}")
        return DONE
    if arguments.help:
        print(command.help(arguments.overrides))
        return DONE
    if arguments.multirun and "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("-m under torchrun: every rank would sweep on its own; start the jobs one by one")

    codes: list[int] = []

    def task(cfg: DictConfig) -> None:
        code = guarded(command.program, arguments.debug, lambda: _job(command, cfg))
        codes.append(code)
        if code in (INTERRUPTED, TERMINATED):
            raise SystemExit  # out of a sweep; Hydra would go on with the next job

    try:
        with suppress(SystemExit):
            _hydra(command, [*arguments.flags, *arguments.overrides], task)
    except Exception as error:
        raise UserError(explain(error, command.schema, arguments.overrides)) from error
    return next((code for code in codes if code != DONE), DONE)


def _hydra(command: Command, argv: list[str], task: Callable[[DictConfig], None]) -> None:
    """Hydra's own entry point, with its errors raised instead of printed."""
    register_schemas()
    entry = hydra.main(config_path=str(conf_dir()), config_name=command.config, version_base="1.3")(task)
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [sys.argv[0], *argv]  # Hydra reads it, and completion names the program by it
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        entry()
    finally:
        sys.argv = before[0]
        del os.environ["HYDRA_FULL_ERROR"]
        if before[1] is not None:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _job(command: Command, cfg: DictConfig) -> int:
    """Validate and run one composed configuration; a sweep has several."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        overrides = list(HydraConfig.get().overrides.task)
        print(f"{command.program}: job {HydraConfig.get().job.num}: {' '.join(overrides)}", flush=True)
        named = any(item.startswith("run.name=") for item in overrides)
        if "run" in cfg and not (named and OmegaConf.is_interpolation(cfg.run, "name")):
            cfg.run.name = sweep_name(cfg.run.name, HydraConfig.get().job.override_dirname)
    typed: Any
    typed, plain = validate(cfg, command.schema)
    return command.run(typed, plain)


def sweep_name(name: str, overrides: str) -> str:
    """Run name of one job of a sweep: a function of its overrides, so that the same sweep finds its runs again."""
    if not overrides:
        return name
    suffix = re.sub(r"[^\w.,=+-]+", "_", overrides)
    if len(suffix) > 120:
        suffix = f"{suffix[:100]}-{sha256(overrides.encode()).hexdigest()[:12]}"
    return f"{name}-{suffix}"
