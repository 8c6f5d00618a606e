"""What `vim-eval` evaluates: a run's own configuration, with what the command changes."""

from dataclasses import asdict, replace
from pathlib import Path

from vim_train.config.checks import check_train
from vim_train.config.commands import OWN_SUITES, EvalCommand, EvalDataConfig
from vim_train.config.compose import load_config
from vim_train.config.errors import UserError
from vim_train.config.references import is_remote
from vim_train.config.schema import DataConfig, DataName, TrainConfig


def find_run(checkpoint: str | Path) -> Path | None:
    """Folder of the run that a checkpoint belongs to: the nearest one upwards that holds a config.yaml.

    None: it belongs to none, up to runs/NAME from runs/NAME/checkpoints/STEP/model.safetensors; only folders and
    .safetensors files can.
    """
    if is_remote(str(checkpoint)):
        return None
    here = Path(checkpoint).absolute()
    if not here.is_dir() and here.suffix != ".safetensors":
        return None
    return next((folder for folder in (here, *here.parents[:3]) if (folder / "config.yaml").is_file()), None)


def run_config(command: EvalCommand) -> TrainConfig | None:
    """`evaluation_config` of the run that the checkpoint belongs to, without reading weights; None: it belongs to none.

    Raises:
        UserError: no saved configuration, or one that the command makes invalid; no images to evaluate on.
    """
    run = find_run(command.checkpoint)
    if run is not None:
        return evaluation_config(load_config(run), command)
    folder = Path(command.checkpoint)
    if folder.is_dir() and not (folder / "manifest.json").is_file():
        takes = "takes a run, what lies in it, or weights"
        raise UserError(f"checkpoint={folder}: no config.yaml there or above; {takes}")
    if set(OWN_SUITES) & set(command.suite) and command.data.root is None and command.data.name is None:
        raise UserError(f"set data.root=...: {command.checkpoint} does not say on which images to evaluate it")
    return None


def evaluation_config(saved: TrainConfig, command: EvalCommand) -> TrainConfig:
    """Configuration to evaluate with: model and data as the run saved them, unless the command says otherwise.

    Raises:
        UserError: the command makes it invalid.
    """
    model = replace(saved.model, checkpoint=None)
    data = _data(saved.data, command.data)
    if not set(OWN_SUITES) & set(command.suite):
        data = replace(data, name=DataName.fashion, root=None)  # the run's own images are not asked for
    cfg = replace(saved, model=model, data=data)
    cfg = replace(cfg, device=command.device, precision=command.precision, ops=command.ops, debug=command.debug)
    check_train(cfg)
    if command.tta.crops > 1 and cfg.data.crop_pct == 1:
        why = "at 1 the crops of a square image are all the same"
        raise UserError(f"tta.crops={command.tta.crops}: takes data.crop_pct=... below 1; {why}")
    return cfg


def _data(saved: DataConfig, wanted: EvalDataConfig) -> DataConfig:
    changes = {key: value for key, value in asdict(wanted).items() if value is not None}
    if "root" in changes:
        changes.setdefault("name", DataName.folder)
    elif changes.get("name", saved.name) is not saved.name:
        changes["root"] = None
    return replace(saved, **changes)
