"""Maps of where a model looks, against independent computations."""

import pytest
import timm
import torch
from torch import Tensor, nn

from vim_train import ops
from vim_train.models import Vim
from vim_train.models.explain import saliency, similarity

SMALL = {"img_size": 12, "patch_size": 4, "embed_dim": 16, "depth": 2, "d_state": 4, "num_classes": 5}
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def small_vim(**options: object) -> Vim:
    torch.manual_seed(0)
    return Vim(**{**SMALL, **options}).eval()


def images(side: int = 12) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("token", ["middle", "none"])
def test_saliency_is_what_a_larger_patch_embedding_adds(token: str) -> None:
    """Finite differences: the logit's slope as one patch's embedding is scaled."""
    ops.set_backend("reference")
    try:
        model, pictures, classes = small_vim(class_token=token).double(), images().double(), torch.tensor([3, 0])
        found = saliency(model, pictures, classes)
        step, slopes = 1e-5, torch.zeros(2, 9, dtype=torch.float64)
        for patch in range(9):
            for sign in (1, -1):
                factor = torch.ones(9, 1, dtype=torch.float64)
                factor[patch] += sign * step
                handle = model.patch_embed.register_forward_hook(lambda _m, _i, output, f=factor: output * f)
                with torch.no_grad():
                    slopes[:, patch] += sign * model(pictures).gather(1, classes[:, None])[:, 0] / (2 * step)
                handle.remove()
    finally:
        ops.set_backend("auto")
    assert found.shape == (2, 3, 3)
    assert slopes.abs().max() > 1e-4
    torch.testing.assert_close(found.flatten(1).double(), slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("token", ["middle", "head", "double", "none"])
def test_similarity_is_the_cosine_of_patches_and_what_the_head_reads(token: str) -> None:
    model, pictures = small_vim(class_token=token, img_size=20), images(20)
    found = similarity(model, pictures)
    [last] = model.forward_intermediates(pictures, indices=1, norm=True, intermediates_only=True)
    read = model.forward_head(model.forward_features(pictures), pre_logits=True)
    by_hand = torch.einsum("bdhw,bd->bhw", last, read) / (last.norm(dim=1) * read.norm(dim=1)[:, None, None])
    assert found.shape == (2, 5, 5)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 3}])
def test_vision_transformers_of_timm_are_explained(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, pictures = timm.models.VisionTransformer(**{**VIT, **options}).eval(), images(16)
    tokens = model.forward_features(pictures)
    patches = tokens[:, -16:]
    read = tokens[:, :1] if "class_token" not in options else patches.mean(1, keepdim=True)
    by_hand = (patches * read).sum(-1) / (patches.norm(dim=-1) * read.norm(dim=-1))
    torch.testing.assert_close(similarity(model, pictures), by_hand.unflatten(1, (4, 4)))
    assert saliency(model, pictures, torch.tensor([0, 1])).std() > 0


def test_saliency_leaves_no_trace_in_the_model() -> None:
    model = small_vim().requires_grad_(False)
    before = model(images())
    saliency(model, images(), torch.tensor([0, 1]))
    assert torch.equal(model(images()), before)
    assert all(parameter.grad is None for parameter in model.parameters())


class Pooled(nn.Module):
    """Patches at its beginning, a feature map at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = timm.layers.PatchEmbed(16, 4, 3, 8, flatten=False, output_fmt="NHWC")

    def forward_features(self, x: Tensor) -> Tensor:
        return self.patch_embed(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).sum((1, 2))


def test_saliency_of_a_linear_model_adds_up_to_its_logit() -> None:
    torch.manual_seed(0)
    model, pictures, classes = Pooled(), images(16), torch.tensor([2, 7])
    found = saliency(model, pictures, classes)
    assert found.shape == (2, 4, 4)
    torch.testing.assert_close(found.sum((1, 2)), model(pictures).gather(1, classes[:, None])[:, 0])
    with pytest.raises(ValueError, match=r"^Pooled has no token for each patch at its end; explain_method=saliency"):
        similarity(model, pictures)


def test_a_model_without_patches_is_refused_in_a_line() -> None:
    model = timm.create_model("resnet18", num_classes=5).eval()
    for explain in (lambda: saliency(model, images(64), torch.tensor([0, 1])), lambda: similarity(model, images(64))):
        with pytest.raises(ValueError, match=r"^ResNet has no patches to explain: takes a Vim or a vision transformer"):
            explain()
