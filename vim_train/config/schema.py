"""The schema of conf/: every key, its type and its meaning.

The values live in conf/, which names every key below; a default here serves Python callers, and the saved
configuration of a run that is older than the key. The string under a field is its documentation everywhere:
`vim-train --help KEY` and docs/config.md print it.

Enums rather than ``Literal`` because omegaconf 2.3, which hydra-core 1.3 requires, knows no ``Literal``.
"""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class Resume(Enum):
    auto = "auto"
    must = "must"
    never = "never"


class Determinism(Enum):
    relaxed = "relaxed"
    exact = "exact"
    strict = "strict"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class DataName(Enum):
    fashion = "fashion"
    folder = "folder"


class BadImages(Enum):
    stop = "stop"
    skip = "skip"


class Amp(Enum):
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


class Backend(Enum):
    auto = "auto"
    reference = "reference"
    cpu = "cpu"
    cuda = "cuda"


class Compile(Enum):
    none = "none"
    default = "default"
    reduce_overhead = "reduce_overhead"
    max_autotune = "max_autotune"


class Loss(Enum):
    cross_entropy = "cross_entropy"
    bce = "bce"


class Distill(Enum):
    none = "none"
    soft = "soft"
    hard = "hard"


class Interpolation(Enum):
    bicubic = "bicubic"
    bilinear = "bilinear"
    random = "random"


class EraseMode(Enum):
    const = "const"
    rand = "rand"
    pixel = "pixel"


class StepPer(Enum):
    step = "step"
    epoch = "epoch"


class NonFinite(Enum):
    stop = "stop"
    skip = "skip"


class OnError(Enum):
    warn = "warn"
    stop = "stop"


class GradCompression(Enum):
    none = "none"
    bf16 = "bf16"


class WandbMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class ClassToken(Enum):
    middle = "middle"
    head = "head"
    double = "double"
    none = "none"


class WeightSet(Enum):
    model = "model"
    ema = "ema"


class PosEmbed(Enum):
    aligned = "aligned"
    published = "published"


class Freeze(Enum):
    none = "none"
    backbone = "backbone"


class Pool(Enum):
    mean = "mean"
    max = "max"
    last = "last"


@dataclass
class RunConfig:
    root: str = "runs"
    """Folder that holds all runs."""
    name: str = MISSING
    """Folder of this run under `run.root`; the same name again resumes an unfinished run of the same configuration."""
    resume: Resume = Resume.auto
    """auto: go on where an unfinished run stopped; must: refuse to start afresh; never: always a new folder."""
    allow: list[str] = field(default_factory=list)
    """Keys or groups, such as [optim.lr,schedule], that may differ from those of the run that goes on."""
    hang_timeout_s: float | None = 600.0
    """Seconds that one pass, batch of data, evaluation batch or save may take; longer is a hang; null: no limit."""
    drift_every: str | None = "500st"
    """How often ranks compare their weights, which have to be equal, beside each checkpoint; null: never."""


@dataclass
class TaskConfig:
    name: str = "classification"
    """What is learnt. Only `classification` so far."""
    loss: Loss = Loss.cross_entropy
    """cross_entropy takes hard or mixed targets; bce is one binary loss a class on the same targets."""
    bce_threshold: float | None = None
    """With bce: targets above this become 1 and all others 0, after mixing and smoothing; null: left as they are."""
    bce_sum: bool = False
    """With bce: add the losses of the classes up, where otherwise their mean is taken."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes, in [0, 1)."""
    distill: Distill = Distill.none
    """Learn from `teacher` too: soft, the divergence from its probabilities; hard, from its first choice as a label."""
    teacher: str | None = None
    """A run or checkpoint of the same classes (its averaged weights, if any), or a timm name with timm's weights."""
    teacher_checkpoint: str | None = None
    """Weights for a `teacher` by timm name in place of timm's own: a .safetensors file."""
    distill_alpha: float = 0.5
    """Share of the loss that is the teacher's; the rest is the labels'."""
    distill_tau: float = 1.0
    """soft: temperature that divides both models' logits."""


@dataclass
class ModelConfig:
    name: str = MISSING
    """A model that timm can create: vim_tiny_patch16_224 and its siblings, or any other timm name."""
    checkpoint: str | None = None
    """Start from these weights: a run, a checkpoint, .safetensors, a .pth, hf:OWNER/NAME, hf:vim_tiny or timm:NAME."""
    checkpoint_weights: WeightSet = WeightSet.model
    """Of that checkpoint, start from model or ema (the averaged ones)."""
    pos_embed: PosEmbed = PosEmbed.aligned
    """At another size or stride: aligned moves class rows with their tokens; published takes the first rows."""
    reset_head: bool = False
    """Start the classifier afresh and not from `model.checkpoint`, also for the same classes."""
    freeze: Freeze = Freeze.none
    """backbone: only the classifier trains (linear probe); all else computes as in evaluation, norm statistics too."""
    drop_path_rate: float = 0.0
    """Stochastic depth of the last block, in [0, 1); earlier blocks rise to it linearly."""
    in_chans: int = 3
    """Channels of the image: 3 (RGB) or 1 (grey)."""
    grad_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass, which computes the rest again: less memory, slower."""
    channels_last: bool = False
    """Keep weights with channels last in memory: faster convolutional networks; of no use to Vim."""
    sync_bn: bool = False
    """Batch norms take their statistics from the images of all ranks; GPUs only."""
    patch_size: int | None = None
    """Side of a patch in pixels; null: as the named model has it. So for each key below."""
    stride: int | None = None
    """Distance between patches in pixels; below `patch_size` they overlap."""
    embed_dim: int | None = None
    """Width of a token."""
    depth: int | None = None
    """Number of blocks."""
    d_state: int | None = None
    """States per channel of the selective scan."""
    class_token: ClassToken | None = None
    """Where the class token stands in the sequence."""
    pool: Pool | None = None
    """How tokens become features where there is no class token."""
    divide_out: bool | None = None
    """Halve the sum of the two directions."""
    init_reverse_dt_bias: bool | None = None
    """Initialise the reverse direction's dt bias like the forward one; the published code leaves it at 0."""
    recompute_states: bool | None = None
    """Keep no scan states for the backward pass, which computes them again: less memory, a little slower."""


@dataclass
class DataConfig:
    name: DataName = MISSING
    """fashion: the embedded images; folder: those under `root`, in whatever form."""
    root: str | None = None
    """Folder of the images: train/ and val/ or the classes themselves, ImageNet's tars, tar or Parquet shards."""
    val_fraction: float = 0.1
    """Without validation images: share held out by a hash of each file's relative path, some of each class."""
    img_size: int = 224
    """Side of the square image the model sees, in pixels."""
    img_size_schedule: list[str] = field(default_factory=list)
    """Sizes to train at by epoch, such as [0:160,10:192,20:224]; evaluation stays at `img_size`. []: always that."""
    batch_size: int = 128
    """Images a step over all ranks and accumulation (the global batch)."""
    micro_batch_size: int | None = None
    """Images that a rank passes through the model at once, at most; null: its whole share of the batch."""
    eval_batch_size: int = 128
    """Images a forward pass in evaluation."""
    lane: int = 128
    """Consecutive images that share one mixing draw and mix with one another; divides the batch."""
    repeats: int = 1
    """Repeated augmentation: every image drawn is seen so many times in a batch, in different lanes."""
    shuffle_block: int = 0
    """Images read in runs of so many neighbours, 64 runs shuffled together: for slow storage. 0: a full shuffle."""
    workers: int = 2
    """Processes that decode and augment; 0: in the training process. The images do not depend on it."""
    crop_pct: float = 0.875
    """Evaluation: share of the resized image that the centre crop keeps, in (0, 1]."""
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    """Subtracted from each channel of an image in [0, 1]."""
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    """Divides each channel after `mean`."""
    bad_images: BadImages = BadImages.stop
    """An image that cannot be decoded: stop names it; skip lists and replaces it (export: omits). Evaluation stops."""
    bad_images_max: int = 100
    """With skip: more bad images than this stop the run."""
    allow_empty_classes: bool = False
    """Accept classes without an image, or without one to validate."""
    pixel_limit: int = 100_000_000
    """Images with more pixels than this are refused before they are decoded."""


@dataclass
class AugmentConfig:
    name: str = MISSING
    """Label of this set of values."""
    crop_scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    """RandomResizedCrop: smallest and largest share of the image's area."""
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    """RandomResizedCrop: smallest and largest width / height."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    interpolation: Interpolation = Interpolation.bicubic
    """How crops are resized; random draws bilinear or bicubic for each image."""
    auto_augment: str | None = None
    """timm's policy string: rand-m9-mstd0.5-inc1, 3a, original, augmix-m5-w4-d2, …; null: none."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter; unused with an auto_augment policy other than 3a."""
    erase_prob: float = 0.0
    """Probability of random erasing."""
    erase_mode: EraseMode = EraseMode.pixel
    """const: zeros; rand: one colour a box; pixel: noise."""
    erase_count: int = 1
    """Boxes at most."""
    mixup_alpha: float = 0.0
    """Mixup's Beta parameter; 0: no mixup."""
    cutmix_alpha: float = 0.0
    """CutMix's Beta parameter; 0: no CutMix."""
    mix_prob: float = 1.0
    """Probability that a lane is mixed at all."""
    mix_switch_prob: float = 0.5
    """Probability of CutMix where both are on."""
    mix_off_epoch: int | None = None
    """From this epoch on (the first is 0) nothing is mixed; label smoothing stays. null: mixed to the end."""


@dataclass
class OptimConfig:
    name: str = "adamw"
    """An optimiser that timm can create."""
    lr: float = 1e-3
    """Peak learning rate, for a global batch of `lr_batch_size`."""
    lr_batch_size: int | None = None
    """Scale `lr` linearly by batch_size / lr_batch_size; null: take `lr` as it is."""
    weight_decay: float = 0.05
    """Decoupled weight decay, on matrices only: not on 1-D parameters, position embedding or class tokens."""
    decay_a_log: bool = True
    """Decay A_log and A_b_log too, as the published runs did."""
    layer_decay: float | None = None
    """Each layer's learning rate is this times that of the layer above it, the head's being full; null: all full."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Adam's decay rates, for optimisers that have them."""
    eps: float = 1e-8
    """Adam's epsilon."""
    momentum: float = 0.9
    """For optimisers that have it."""
    grad_clip_norm: float | None = None
    """Clip the gradient's global norm to this; null: never."""
    accumulate: int | None = 1
    """Passes of a batch, the result is the same up to rounding; null: as few as `data.micro_batch_size` allows."""
    grad_clip_value: float | None = None
    """Clip every number of the gradient to this, up and down; null: never."""
    agc: float | None = None
    """Adaptive clipping: a unit's gradient norm to this times its weights' norm, the head left out; null: never."""
    non_finite: NonFinite = NonFinite.stop
    """A loss or gradient that is not finite: stop with exit code 3, or skip that update."""
    non_finite_max: int = 10
    """With skip: so many updates skipped in a row stop the run."""
    grad_compression: GradCompression = GradCompression.none
    """bf16: ranks exchange gradients rounded to bfloat16, half the bytes; not with determinism=strict."""


@dataclass
class ScheduleConfig:
    name: str = "cosine"
    """Shape after warm-up: cosine, constant, wsd (warm-up, stable, decay) or poly."""
    epochs: int = 300
    """Length of training in epochs."""
    warmup_epochs: float = 5
    """Length of the linear rise from `warmup_lr`."""
    warmup_lr: float = 1e-6
    """Learning rate of the first step; not scaled by the batch."""
    min_lr: float = 1e-5
    """Learning rate at the end; not scaled by the batch."""
    step_per: StepPer = StepPer.step
    """step: a new value every step; epoch: once an epoch and one epoch late, as the published runs did."""
    decay_epochs: float | None = None
    """wsd: length of the decay at the end; null: a fifth of `epochs`."""
    decay_shape: str = "1-sqrt"
    """wsd: how the rate falls to `min_lr`: linear, cosine or 1-sqrt."""
    power: float = 1.0
    """poly: exponent of (1 - share of training done); 1: a straight line, as segmentation trains."""


@dataclass
class EmaConfig:
    decay: float | None = None
    """Decay of the moving average of the weights, evaluated beside them; null: none."""
    warmup: bool = False
    """Let the decay rise from 0 in the first steps (timm's ModelEmaV3)."""


@dataclass
class PrecisionConfig:
    amp: Amp = Amp.fp32
    """fp32, tf32 (GPU matrix products), bf16 or fp16 autocast; fp16 with a loss scaler."""


@dataclass
class OpsConfig:
    backend: Backend = Backend.auto
    """Which selective scan runs: auto takes the native one of the device."""
    threads: int | None = None
    """CPU threads for compute; null: torch's own choice."""
    compile: Compile = Compile.none
    """torch.compile of the model, with that mode: reduce_overhead takes CUDA graphs, max_autotune times kernels."""
    tune_malloc: bool = True
    """Linux: keep freed memory in the process; 10-35 % off every CPU forward pass."""


@dataclass
class EvalConfig:
    every: str = "1ep"
    """How often to evaluate: 5ep, 200st or 1000000im."""
    patience: str | None = None
    """Stop early, as finished, once no evaluation has beaten the best for so long: 10ep, 2000st; null: never."""


@dataclass
class CheckpointConfig:
    every: str = "1ep"
    """How often to save: 5ep, 200st or 1000000im; also at the end and when a signal asks to stop."""
    keep: int = 2
    """Newest checkpoints kept beside the best, at least 2."""
    on_error: OnError = OnError.warn
    """A save that fails: warn says so and the next one tries again; stop leaves with exit code 1, as the last would."""


@dataclass
class WandbConfig:
    mode: WandbMode = WandbMode.auto
    """auto: online where a key is set, else offline."""
    project: str = "vim-train"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the key's own."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""


@dataclass
class LoggerConfig:
    every: str = "50st"
    """How often training scalars are logged: 50st, 1ep or 10000im."""
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class TrainConfig:
    """Everything `vim-train` can be told."""

    seed: int = 0
    """Order, augmentation, mixing, stochastic depth and initial weights are functions of it."""
    device: Device = Device.auto
    """auto: a GPU if there is one."""
    gpus: int | None = None
    """Processes to start on this machine, one a GPU (or sharing the cores); null: this one, or torchrun's."""
    determinism: Determinism = Determinism.relaxed
    """relaxed: same order and pixels every time; exact: also the same bits; strict: with any number of ranks."""
    debug: bool = False
    """Show tracebacks instead of one-line errors."""
    replay: str | None = None
    """Train nothing, compute a step again that a run kept as not finite: runs/NAME/replay/step_00000123.json."""
    dry_run: bool = False
    """Print the whole plan, make two trial steps, and stop; without `data.root`, on synthetic images."""
    run: RunConfig = field(default_factory=RunConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
