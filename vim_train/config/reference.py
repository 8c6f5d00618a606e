"""The configuration explained: --help, --help KEY and docs/config.md, all from the schema and conf/."""

import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator

from vim_train.config.checks import accepts
from vim_train.config.commands import (
    CountCommand,
    EvalCommand,
    ExportCommand,
    IndexCommand,
    PredictCommand,
    VerifyCommand,
)
from vim_train.config.compose import Plain, compose_plain
from vim_train.config.errors import UserError
from vim_train.config.files import groups, options, summary
from vim_train.config.keys import Key, any_of, schema_keys, schema_sections, suggest
from vim_train.config.schema import TrainConfig

TRAIN = """\
vim-train: trains Vision Mamba on images; without arguments, on images it brings

  vim-train [recipe=NAME] [group=OPTION ...] [key=value ...]

  vim-train                                           minutes on two CPU cores
  vim-train data=folder data.root=DIR model=vim_tiny  on images of your own
  vim-train recipe=vim_tiny data.root=DIR             the published ImageNet run
  vim-train -m optim.lr=1e-3,3e-3                     a sweep over values

Recipes
{recipes}
Groups
{groups}
Keys used most (vim-train --help KEY or GROUP explains; all: docs/config.md)
{keys}
Flags
  --cfg job --resolve   print the configuration instead of training
  --config-dir DIR      recipes and options of your own, DIR/recipe/NAME.yaml
  -sc install=bash      tab completion: eval "$(vim-train -sc install=bash)"
  --version"""

EVAL = """\
vim-eval: metrics of a checkpoint on its run's validation images, or on others

  vim-eval checkpoint=runs/NAME [key=value ...]

  vim-eval checkpoint=runs/quickstart
  vim-eval checkpoint=runs/quickstart/checkpoints/best weights=ema
  vim-eval checkpoint=runs/vim_tiny data.root=DIR out=DIR
  vim-eval checkpoint=runs/vim_tiny suite=[val,v2] roots.v2=DIR out=DIR gpus=8

Keys used most (vim-eval --help KEY or GROUP explains; groups: roots, tta, data,
precision, ops; all: docs/config.md)
{keys}"""

HELP_ELSEWHERE = ("debug", "data.pixel_limit", "ops.compile", "ops.threads", "ops.tune_malloc")
"""Keys of vim-predict for which the page has no room."""

PREDICT = """\
vim-predict: labels with probabilities for images, as JSON lines and as a picture

  vim-predict checkpoint=runs/NAME images=WHAT [key=value ...]

  vim-predict checkpoint=runs/quickstart images=photo.jpg
  vim-predict checkpoint=runs/quickstart images=DIR out=o.jsonl sheet=s.png
  find DIR -name '*.jpg' | vim-predict checkpoint=runs/quickstart images=-
  vim-predict checkpoint=runs/quickstart images=DIR explain=true

Keys (vim-predict --help KEY explains)
{keys}
Leaves with 0 though some images are bad, which stderr and JSON name, and with 2
where none could be read."""

EXPORT = """\
vim-data export: writes a data set out as image folders or tar shards

  vim-data export data=fashion out=DIR
  vim-data export data.root=DIR out=DIR format=shards max_side=400

Keys
{keys}"""

INDEX = """\
vim-data index: says what lies under data.root, and keeps the index of archives

  vim-data index data.root=DIR

Keys
{keys}"""

VERIFY = """\
vim-data verify: decodes every image once, lists what is bad, leaves with 1 then

  vim-data verify data.root=DIR data.workers=8
  vim-data verify data.root=DIR hashes=FILE  # now; later again, to find bit rot

Keys
{keys}"""

COUNT = """\
vim-data count: images of each class, beside what ImageNet-1k is known to have

  vim-data count data.root=DIR

Keys
{keys}"""

USED_MOST = """data.root, data.img_size, data.batch_size, data.workers, optim.lr, optim.accumulate, schedule.epochs,
precision.amp, device, seed, run.name, logger.wandb.mode"""


def train_help(arguments: list[str]) -> str:
    """Text of `vim-train [key=value ...] --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    if arguments:
        return _explained(arguments, TrainConfig, "train")
    keys = textwrap.fill(USED_MOST, 80, initial_indent="  ", subsequent_indent="  ")
    recipes = "\n".join(_fit(f"  {name:<18}{summary('recipe', name)}") for name in options("recipe"))
    lines = [f"  {group:<12}{', '.join(options(group))}" for group in groups() if group != "recipe"]
    return TRAIN.format(recipes=recipes, groups="\n".join(map(_fit, lines)), keys=keys)


def eval_help(arguments: list[str]) -> str:
    """Text of `vim-eval --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    own = ("checkpoint", "weights", "suite", "roots.v2", "out", "gpus", "tta.hflip", "tta.crops")
    keys = (*own, "data.root", "data.img_size", "data.crop_pct", "data.workers")
    return _explained(arguments, EvalCommand, "eval") if arguments else EVAL.format(keys=_listed(EvalCommand, keys))


def predict_help(arguments: list[str]) -> str:
    """Text of `vim-predict --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    if arguments:
        return _explained(arguments, PredictCommand, "predict")
    names = [name for name in schema_keys(PredictCommand) if name not in HELP_ELSEWHERE]
    return PREDICT.format(keys=_listed(PredictCommand, names))


def export_help(arguments: list[str]) -> str:
    """Text of `vim-data export --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    own = ("out", "format", "max_side", "shard_images", "data.bad_images")
    return _data_help(arguments, ExportCommand, "export", EXPORT, own)


def index_help(arguments: list[str]) -> str:
    """Text of `vim-data index --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    return _data_help(arguments, IndexCommand, "index", INDEX, ("refresh",))


def verify_help(arguments: list[str]) -> str:
    """Text of `vim-data verify --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    return _data_help(arguments, VerifyCommand, "verify", VERIFY, ("hashes", "data.workers"))


def count_help(arguments: list[str]) -> str:
    """Text of `vim-data count --help [KEY ...]`.

    Raises:
        UserError: no such key.
    """
    return _data_help(arguments, CountCommand, "count", COUNT, ())


def _data_help(arguments: list[str], schema: type, config: str, page: str, own: tuple[str, ...]) -> str:
    if arguments:
        return _explained(arguments, schema, config)
    return page.format(keys=_listed(schema, (*own, "data.name", "data.root", "data.val_fraction")))


def _fit(line: str, width: int = 80) -> str:
    return line if len(line) <= width else line[: width - 4].rstrip() + " ..."


def _listed(schema: type, names: Iterable[str]) -> str:
    keys = schema_keys(schema)
    lines = (textwrap.fill(f"{name:<22}{keys[name].doc}", 78, subsequent_indent=" " * 22) for name in names)
    return textwrap.indent("\n".join(lines), "  ")


def _explained(arguments: list[str], schema: type, config: str) -> str:
    """Each key or group among the arguments, with its values under the overrides among them."""
    overrides = [item for item in arguments if "=" in item]
    wanted = [item for item in arguments if "=" not in item]
    plain = compose_plain(config, schema, overrides)

    def value_of(name: str) -> str:
        return show(value_at(plain, name))

    return "\n\n".join("\n".join(_explain(name, schema, value_of)) for name in wanted or schema_sections(schema))


def _explain(name: str, schema: type, value_of: Callable[[str], str]) -> Iterator[str]:
    keys = schema_keys(schema)
    width = min(shutil.get_terminal_size().columns, 100)
    has_options = schema is TrainConfig and name in groups()
    inside = [key for key in keys if key.startswith(f"{name}.")]
    if name not in keys and not inside and not has_options:
        near = suggest(name, [*keys, *schema_sections(schema), *groups()])
        raise UserError(f"unknown key {name}" + (f"; did you mean {any_of(near)}?" if near else ""))
    if has_options:
        yield f"{name}=OPTION"
        for option in options(name):
            yield f"  {option:<15}{summary(name, option)}".rstrip()
    for key in [name] if name in keys else inside:
        yield f"{key}={value_of(key)}"
        yield textwrap.fill(keys[key].doc, width, initial_indent="  ", subsequent_indent="  ")
        yield f"  Takes {accepts(keys[key])}."


def value_at(plain: Plain, name: str) -> object:
    """Value of a key, by its full name."""
    node: object = plain
    for part in name.split("."):
        assert isinstance(node, dict)
        node = node[part]
    return node


def show(value: object) -> str:
    """A plain value as it is typed on the command line; ... where it has to be given."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else "..." if value == "???" else str(value)


PAGE = """\
# Configuration

Written by `python -m vim_train.config.reference > docs/config.md` from vim_train/config/schema.py and conf/.

A run is described by groups of keys. `group=option` picks a file of conf/, `key=value` sets one key, and a recipe sets
many at once: `vim-train recipe=vim_tiny data.root=DIR optim.lr=1e-3`. Later wins: groups, then the recipe, then single
keys of the command line. `vim-train --cfg job --resolve` prints the result, `vim-train --help KEY` explains a key.

A recipe of your own is a file DIR/recipe/NAME.yaml whose first line is `# @package _global_`; use it with
`vim-train --config-dir DIR recipe=NAME`.

## Recipes

| recipe | |
|---|---|
{recipes}

## vim-train

The value is that of the groups' defaults, before a recipe.

{train}
## vim-eval

{evaluate}
## vim-predict

{predict}
## vim-data

The keys of `data` are those of vim-train.

{data}"""


def page() -> str:
    """docs/config.md."""
    recipes = "\n".join(f"| `{name}` | {summary('recipe', name)} |" for name in options("recipe"))
    plain = compose_plain("train", TrainConfig, ["~recipe"])
    train = "\n".join(_tables(TrainConfig, plain))
    evaluate = "\n".join(_tables(EvalCommand, compose_plain("eval", EvalCommand, [])))
    predict = "\n".join(_tables(PredictCommand, compose_plain("predict", PredictCommand, [])))
    data = "\n".join(line for config, schema in DATA_COMMANDS.items() for line in _own_keys(config, schema))
    return PAGE.format(recipes=recipes, train=train, evaluate=evaluate, predict=predict, data=data)


DATA_COMMANDS = {"index": IndexCommand, "count": CountCommand, "verify": VerifyCommand, "export": ExportCommand}


def _own_keys(config: str, schema: type) -> Iterator[str]:
    """The keys of a `vim-data` command but for those of the data."""
    plain = compose_plain(config, schema, [])
    yield f"### vim-data {config}\n"
    yield "| key | value | takes | |\n|---|---|---|---|"
    for key in schema_keys(schema).values():
        if not key.name.startswith("data."):
            yield _row(key, plain)
    yield ""


def _tables(schema: type, plain: Plain) -> Iterator[str]:
    by_section: dict[str, list[Key]] = {}
    for key in schema_keys(schema).values():
        by_section.setdefault(key.name.rpartition(".")[0], []).append(key)
    for section, keys in by_section.items():
        yield f"### {section or 'No group'}\n"
        if schema is TrainConfig and section in groups():
            yield f"Options: {', '.join(f'`{section}={option}`' for option in options(section))}\n"
        yield "| key | value | takes | |\n|---|---|---|---|"
        for key in keys:
            yield _row(key, plain)
        yield ""


def _row(key: Key, plain: Plain) -> str:
    value = show(value_at(plain, key.name))
    return f"| `{key.name}` | `{value}` | {accepts(key)} | {key.doc.replace('|', '/')} |"


if __name__ == "__main__":
    print(page(), end="")
