"""Small look-alikes of ImageNet's evaluation sets, made of the photographs, and a run to judge by them."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from vim_train.config.compose import compose_config, save_config
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.engine import checkpoint
from vim_train.tasks.build import build_model

WNIDS = imagenet_wnids()[::50]
"""Twenty classes."""
IN_A, IN_R, IN_O = WNIDS[2:8], WNIDS[5:17:2], WNIDS[1:5]
SIDE = 32


def write_tree(photos: Path, root: Path) -> None:
    """root/val and root/{v2,imagenet-a,imagenet-r,sketch,imagenet-c,imagenet-o}; every image is another one."""
    pictures = [Image.open(file).convert("RGB") for file in sorted(photos.rglob("*.jpg"))]
    count = 0

    def put(path: Path, size: tuple[int, int] = (44, 38)) -> None:
        nonlocal count
        picture = pictures[count % len(pictures)]
        left = count // len(pictures) * 7
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize(size, box=(left, 0, picture.width, picture.height)).save(path, quality=95)
        count += 1

    for i in range(43):  # as in ImageNet, the numbers do not follow the classes
        put(root / "val" / WNIDS[i * 7 % 20] / f"ILSVRC2012_val_{i + 1:08d}.JPEG")
    for name, numbers in {"matched-frequency": range(12), "threshold0.7": range(0, 20, 3)}.items():
        for number in numbers:
            put(root / "v2" / f"imagenetv2-{name}-format-val" / str(number) / f"{number}-{name}.jpeg")
    for folder, classes in {"imagenet-a": IN_A, "imagenet-r": IN_R, "sketch": WNIDS, "imagenet-o": IN_O}.items():
        for i, wnid in enumerate(classes):
            put(root / folder / wnid / f"{folder}_{i}.jpg")
    for corruption in ("fog", "shot_noise"):
        for severity in (1, 5):
            for wnid in WNIDS[:10]:
                put(root / "imagenet-c" / corruption / str(severity) / wnid / "same.JPEG", (SIDE, SIDE))


def write_run(tree: Path, folder: Path, classes: list[str] = WNIDS, seed: int = 0) -> None:
    """A run of two narrow blocks whose weights, `model` and `ema`, are as they were drawn."""
    cfg, plain = compose_config(
        [
            "data=folder", f"data.root={tree}", f"data.img_size={SIDE}", "data.batch_size=8", "data.lane=8",
            "data.eval_batch_size=8", "data.workers=0", "model=vim_nano", "model.in_chans=3", "model.patch_size=8",
            "model.stride=8", "model.embed_dim=32", "model.depth=2", "determinism=strict", f"seed={seed}",
        ]
    )  # fmt: skip
    folder.mkdir(parents=True)
    save_config(plain, folder / "config.yaml")
    model, ema = build_model(cfg, len(classes)), build_model(cfg, len(classes))
    with torch.no_grad():
        for scale, each in ((0.3, model), (0.5, ema)):
            each.head.weight.normal_(0, scale)
    meta = {"classes": classes}
    weights = {"model": model.state_dict(), "ema": ema.state_dict()}
    checkpoint.save(folder, 10, **weights, state={}, meta=meta, keep=2, best=True)
