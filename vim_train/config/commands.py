"""The schema of the commands beside `vim-train`, as `config.schema` is for that one."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from vim_train.config.schema import DataConfig, DataName, Device, OpsConfig, PrecisionConfig


class Weights(Enum):
    model = "model"
    ema = "ema"
    both = "both"


@dataclass
class EvalDataConfig:
    """What evaluation may change of the run's own data; null: as the run had it."""

    name: DataName | None = None
    """fashion: the embedded images; folder: those under `root`, in whatever form."""
    root: str | None = None
    """Folder of the images, as in training; without validation images, the run's `val_fraction` is evaluated."""
    val_fraction: float | None = None
    """Where there are no validation images: share that is evaluated; 1: all, for images that training has not seen."""
    img_size: int | None = None
    """Side of the square image the model sees, in pixels."""
    crop_pct: float | None = None
    """Share of the resized image that the centre crop keeps, in (0, 1]."""
    eval_batch_size: int | None = None
    """Images a forward pass."""
    workers: int | None = None
    """Processes that decode; 0: in the evaluating process."""


SUITES = ("val", "real", "v2", "a", "r", "sketch", "c", "o")
"""Sets of images that a checkpoint can be judged by; all but `val` are ImageNet's."""
OWN_SUITES = ("val", "real")
"""Of the run's own images, or those of data.root; each other has a root of its own."""


@dataclass
class RootsConfig:
    """Where the sets beside `data.root` lie; null: not here, and the set is passed over."""

    v2: str | None = None
    """ImageNetV2: one of the folders imagenetv2-NAME-format-val, or the folder that holds them; 0/ to 999/ in each."""
    a: str | None = None
    """ImageNet-A: one folder a class, called by its wnid."""
    r: str | None = None
    """ImageNet-R: one folder a class, called by its wnid."""
    sketch: str | None = None
    """ImageNet-Sketch: one folder a class, called by its wnid."""
    c: str | None = None
    """ImageNet-C: CORRUPTION/SEVERITY/WNID/image.JPEG, with those of the corruptions that are there."""
    o: str | None = None
    """ImageNet-O: one folder a class, called by its wnid; its images show none of them."""


@dataclass
class TtaConfig:
    """Test-time augmentation: the mean of the softmax outputs for several views of an image."""

    hflip: bool = False
    """Each view mirrored as well: twice the time."""
    crops: int = 1
    """1: the centre of the resized image; 5: its corners too; 10: these mirrored as well. `c` has the centre alone."""


@dataclass
class EvalCommand:
    """Everything `vim-eval` can be told."""

    checkpoint: str = MISSING
    """A run, a checkpoint, a .safetensors or .pth file, hf:OWNER/NAME[@REVISION][:FILE], hf:vim_tiny or timm:NAME."""
    weights: Weights = Weights.both
    """model, ema (the averaged ones), or both where the checkpoint has both."""
    suite: list[str] = field(default_factory=lambda: ["val"])
    """Sets of images: val and real under data.root; v2, a, r, sketch, c and o each under its key of `roots`."""
    device: Device = Device.auto
    """auto: a GPU if there is one."""
    gpus: int | None = None
    """Start so many processes on this machine, one a GPU, that share the images; null: this process alone."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    out: str | None = None
    """Folder for results.json, CSV and pictures, and for predictions/WEIGHTS/SET.npz, which are not computed again."""
    refresh: bool = False
    """Compute predictions again though they lie in `out`."""
    roots: RootsConfig = field(default_factory=RootsConfig)
    tta: TtaConfig = field(default_factory=TtaConfig)
    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)


class PredictWeights(Enum):
    auto = "auto"
    model = "model"
    ema = "ema"


class ExplainMethod(Enum):
    saliency = "saliency"
    similarity = "similarity"


@dataclass
class PredictDataConfig:
    """How images reach the model; null: as the run evaluated its own."""

    img_size: int | None = None
    """Side of the square image the model sees, in pixels."""
    crop_pct: float | None = None
    """Share of the resized image that the centre crop keeps, in (0, 1]."""
    eval_batch_size: int | None = None
    """Images a forward pass."""
    workers: int | None = None
    """Processes that decode; 0: in the predicting process."""
    pixel_limit: int | None = None
    """Images with more pixels than this are refused before they are decoded."""


@dataclass
class PredictCommand:
    """Everything `vim-predict` can be told."""

    checkpoint: str = MISSING
    """A run, a checkpoint, a .safetensors or .pth file, hf:OWNER/NAME[@REVISION][:FILE], hf:vim_tiny or timm:NAME."""
    images: list[str] = MISSING
    """A file, a folder, a pattern as 'a/*.jpg', @FILE for a list of names, - for one on stdin, or [a,b] of these."""
    weights: PredictWeights = PredictWeights.auto
    """model, ema (the averaged ones), or auto: ema where it was the better in the run's own evaluation."""
    topk: int = 5
    """Classes listed for an image, the most probable first."""
    out: str | None = None
    """Write the JSON lines to this file; null: to standard output."""
    sheet: str | None = None
    """Draw images, labels and probabilities as pictures into this PNG; pages into NAME-1.png, NAME-2.png and so on."""
    explain: bool = False
    """Show in the sheet where the model looks; without `sheet`, in explain.png."""
    explain_method: ExplainMethod = ExplainMethod.similarity
    """similarity: of a patch's token to the class token; saliency: gradient x input of a patch for the top label."""
    device: Device = Device.auto
    """auto: a GPU if there is one."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    data: PredictDataConfig = field(default_factory=PredictDataConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)


class ExportFormat(Enum):
    folder = "folder"
    shards = "shards"


@dataclass
class ExportCommand:
    """Everything `vim-data export` can be told."""

    out: str = MISSING
    """Folder to write: new, or of an earlier export of the same data, which goes on, and mends what was changed."""
    format: ExportFormat = ExportFormat.folder
    """folder: a file an image, one folder a class; shards: tar shards in webdataset's naming."""
    max_side: int | None = None
    """Shrink images whose longer side has more pixels, as JPEG of quality 95; null: copy every file as it is."""
    shard_images: int = 10000
    """Images a shard, with format=shards."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class IndexCommand:
    """Everything `vim-data index` can be told."""

    refresh: bool = False
    """Look through archives again even if their size and time of change are those of the kept index."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class VerifyCommand:
    """Everything `vim-data verify` can be told."""

    hashes: str | None = None
    """File of hashes by path, so one for each form: written if it is not there, else every image is compared."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class CountCommand:
    """Everything `vim-data count` can be told."""

    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    data: DataConfig = field(default_factory=DataConfig)
