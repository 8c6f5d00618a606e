"""Weights from the hub and from timm, against a hub of our own."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from fake_hub import COMMIT, Repositories, serve
from published import load, model_name, save_like_published, state_of
from safetensors.torch import save

from vim_train.config.commands import Weights
from vim_train.config.errors import UserError
from vim_train.config.references import PUBLISHED, HubFile, parse_hub
from vim_train.config.schema import ModelConfig
from vim_train.tasks import hub
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.weights import start_from

TINY = PUBLISHED["vim_tiny"]
CPU = torch.device("cpu")


@pytest.fixture
def repositories(golden: Path, tmp_path: Path) -> Repositories:
    tensors, metadata = load(golden, "vim_mid_cls")
    state = state_of(tensors)
    path = tmp_path / "published.pth"
    published = save_like_published(path, state, model=model_name(metadata["config"]), input_size=32).read_bytes()
    deit = timm.create_model("deit_tiny_patch16_224", depth=1)
    return {
        TINY.repo: {str(TINY.file): published, "README.md": b""},
        "me/one": {"README.md": b"", "old.pth": published, "weights.safetensors": save(state)},
        "me/two": {"a.pth": b"", "b.pth": b""},
        "me/none": {"README.md": b""},
        "timm/deit_tiny_patch16_224.fb_in1k": {"model.safetensors": save(deit.state_dict())},
    }


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """What HF_ENDPOINT and HF_HOME do to a process that starts."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", huggingface_hub.hf_hub_download)


@pytest.fixture
def fake(repositories: Repositories, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The hub's cache."""
    with serve(repositories) as endpoint:
        use(monkeypatch, endpoint, tmp_path / "cache")
        yield tmp_path / "cache"


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("hf:vim_tiny", TINY.file),
        ("hf:me/one", "weights.safetensors"),
        ("hf:me/one:old.pth", "old.pth"),
        (f"hf:me/one@{COMMIT}:old.pth", "old.pth"),
        ("hf:me/one@v1", "weights.safetensors"),
    ],
)
def test_weights_come_from_the_hub(
    reference: str, file: str, fake: Path, repositories: Repositories, golden: Path
) -> None:
    found = open_pretrained(reference)
    assert Path(found.path).is_relative_to(fake)
    assert Path(found.path).name == file
    content = next(files[file] for files in repositories.values() if file in files)
    assert found.notes[0].startswith(f"{file} of hf:")
    assert found.notes[0].endswith(f"sha256 {hashlib.sha256(content).hexdigest()}")
    tensors, _ = load(golden, "vim_mid_cls")
    with torch.no_grad():
        logits = found.build("model", 10, 32, CPU)(tensors["input"])
    torch.testing.assert_close(logits, tensors["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("hf:me/gone", "hf:me/gone: no such repository, or one that HF_TOKEN does not open"),
        ("hf:me/one@v9", "hf:me/one@v9: no such revision"),
        ("hf:me/one:c.pth", "hf:me/one: no file c.pth in it"),
        ("hf:me/two", "hf:me/two: has a.pth, b.pth: name one, as hf:me/two:a.pth"),
        ("hf:me/none", "hf:me/none: has no .safetensors, .pth, .pt or .bin file"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_what_the_hub_does_not_have_is_one_line(reference: str, line: str) -> None:
    with pytest.raises(UserError) as raised:
        open_pretrained(reference)
    assert str(raised.value) == line


def test_without_the_hub_the_cache_serves_or_one_line_says_it(
    repositories: Repositories, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve(repositories) as endpoint:
        use(monkeypatch, endpoint, tmp_path / "cache")
        open_pretrained("hf:me/one:old.pth")
    at_once = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", at_once)  # it tries five times
    assert list(open_pretrained("hf:me/one:old.pth", Weights.ema).weights) == ["ema"]
    with pytest.raises(
        UserError, match=r"^hf:me/one: the hub cannot be reached \(.*\), and weights.safetensors is not in"
    ):
        open_pretrained("hf:me/one:weights.safetensors")
    with pytest.raises(UserError, match=r"^hf:me/one: the hub cannot be reached .* with :FILE named"):
        open_pretrained("hf:me/one")
    with pytest.raises(UserError, match=r"^timm:deit_tiny_patch16_224: its weights cannot be had \("):
        open_pretrained("timm:deit_tiny_patch16_224")


@pytest.mark.usefixtures("fake")
def test_another_file_than_the_expected_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"has sha256 [0-9a-f]{64}, expected 00: not the published file$"):
        hub.fetch(HubFile(TINY.repo, TINY.file, sha256="00"))


@pytest.mark.parametrize("reference", ["hf:", "hf:vim_huge", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:vim_tiny:x.pth"])
def test_other_forms_are_refused_with_the_form(reference: str) -> None:
    with pytest.raises(UserError, match=rf"^checkpoint={reference}: takes hf:OWNER/NAME"):
        parse_hub("checkpoint", reference)


@pytest.mark.usefixtures("fake")
def test_timms_weights_are_evaluated_and_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: create(name, depth=1, **kwargs))
    expected = create("deit_tiny_patch16_224", depth=1, pretrained=True).eval()
    found = open_pretrained("timm:deit_tiny_patch16_224.fb_in1k")
    data = found.cfg.data
    assert (found.cfg.model.name, data.img_size, data.crop_pct) == ("deit_tiny_patch16_224", 224, 0.9)
    assert (data.mean[0], len(found.classes or [])) == (0.485, 1000)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(found.build("model", 1000, 224, CPU)(images), expected(images))
    assert found.build("model", 1000, 96, CPU).pos_embed.shape[1] == 37

    model = create("deit_tiny_patch16_224", depth=1, num_classes=5, img_size=96)
    notes = start_from(model, ModelConfig("deit_tiny_patch16_224", checkpoint="timm:deit_tiny_patch16_224"))
    assert notes[1:] == [
        "position embedding carried from 197 to 37 rows",
        "head made anew, head.weight (5, 192), head.bias (5,); dropped: head.weight (1000, 192), head.bias (1000,)",
    ]
    assert torch.equal(model.blocks[0].attn.qkv.weight, expected.blocks[0].attn.qkv.weight)


@pytest.mark.slow
def test_the_command_takes_a_short_name(repositories: Repositories, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for i, photo in enumerate(sorted(photos.rglob("*.jpg"))[:10]):
        (folder / f"class{i}").mkdir(parents=True)
        for copy in range(4):
            (folder / f"class{i}" / f"{copy}.jpg").write_bytes(photo.read_bytes())
    with serve(repositories) as endpoint:
        done = subprocess.run(
            [sys.executable, "-m", "vim_train.cli.eval", "checkpoint=hf:vim_tiny", f"data.root={folder}",
             "data.workers=0", "ops.threads=1", "data.val_fraction=0.5"],
            env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hf:vim_tiny, step unknown" in done.stdout
    assert "sha256" in done.stdout
