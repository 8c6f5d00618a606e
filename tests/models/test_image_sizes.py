"""Position embeddings carried to other grids, and images that do not fit."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.models import checkpoint_filter_fn, resize_pos_embed
from vim_train.models.tokens import NUM_CLASS_TOKENS, class_tokens_of, insert_class_tokens, patch_tokens_of

TOKENS = sorted(NUM_CLASS_TOKENS)
sides = st.integers(1, 6)


def state_of(tensors: dict) -> dict:
    return {key.removeprefix("state."): t for key, t in tensors.items() if key.startswith("state.")}


@pytest.mark.parametrize("token", ["mid", "head"])
@pytest.mark.parametrize(("mode", "suffix"), [("aligned", "aligned"), ("published", "upstream")])
def test_checkpoint_of_another_size_matches_golden(
    token: str, mode: str, suffix: str, load_golden: Callable, build: Callable
) -> None:
    tensors, metadata = load_golden(f"pos_64to96_{token}")
    model = build(metadata["config_target"])
    weights = checkpoint_filter_fn({"model": state_of(tensors), "epoch": 3}, model, mode=mode)
    model.load_state_dict(weights)
    torch.testing.assert_close(model.pos_embed, tensors[f"pos_embed_{suffix}"], rtol=0, atol=1e-6)
    logits = tensors[f"logits_{suffix}"]
    assert (model(tensors["input"]) - logits).abs().max() <= 2e-5 * logits.abs().max()


@pytest.mark.parametrize("token", ["mid", "head"])
def test_forward_of_another_size_equals_a_resized_model(token: str, load_golden: Callable, build: Callable) -> None:
    tensors, metadata = load_golden(f"pos_64to96_{token}")
    model = build(metadata["config"], state_of(tensors))
    for image, logits in (("input", "logits_aligned"), ("input_source", "logits_source")):
        expected = tensors[logits]
        assert (model(tensors[image]) - expected).abs().max() <= 2e-5 * expected.abs().max()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOKENS), sides, sides)
def test_class_and_patch_tokens_come_apart_as_they_were_put_together(token: str, rows: int, columns: int) -> None:
    patches = torch.randn(2, rows * columns, 3)
    classes = torch.randn(2, NUM_CLASS_TOKENS[token], 3)
    sequence = insert_class_tokens(patches, classes, token)
    assert torch.equal(patch_tokens_of(sequence, token), patches)
    assert torch.equal(class_tokens_of(sequence, token), classes)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TOKENS), st.tuples(sides, sides), st.tuples(sides, sides))
def test_resizing_keeps_class_rows_and_constants(token: str, source: tuple[int, int], target: tuple[int, int]) -> None:
    classes = torch.randn(1, NUM_CLASS_TOKENS[token], 3)
    constant = torch.full((1, source[0] * source[1], 3), 0.25)
    resized = resize_pos_embed(insert_class_tokens(constant, classes, token), token, source, target)
    assert torch.equal(class_tokens_of(resized, token), classes)
    torch.testing.assert_close(patch_tokens_of(resized, token), torch.full((1, target[0] * target[1], 3), 0.25))


def test_rows_and_columns_are_not_swapped() -> None:
    rows = torch.arange(4.0)
    pos_embed = rows.repeat_interleave(2).reshape(1, 8, 1)  # 4 rows, 2 columns, each row constant
    wide = resize_pos_embed(pos_embed, "none", (4, 2), (4, 5))
    torch.testing.assert_close(wide.reshape(4, 5), rows[:, None].expand(4, 5))


@pytest.mark.parametrize("token", TOKENS)
def test_non_square_model_and_images(token: str, small: Callable) -> None:
    model = small(img_size=(8, 20), class_token=token)
    assert model.patch_embed.grid_size == (2, 5)
    assert model(torch.randn(2, 3, 8, 20)).shape == (2, 5)
    assert model(torch.randn(2, 3, 24, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (16, 18, "image width 18 does not fit patches of 4 pixels at stride 4: nearest accepted 16 and 20"),
        (3, 16, "image height 3 does not fit patches of 4 pixels at stride 4: nearest accepted 4"),
    ],
)
def test_image_that_patches_do_not_cover_is_refused(height: int, width: int, message: str, small: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        small()(torch.randn(1, 3, height, width))
    with pytest.raises(ValueError, match=message):
        small(img_size=(height, width))


def test_overlapping_patches_accept_sides_by_stride(small: Callable) -> None:
    model = small(stride=2)
    assert model.patch_embed.grid_size == (7, 7)
    assert model(torch.randn(1, 3, 18, 16)).shape == (1, 5)
    with pytest.raises(ValueError, match="nearest accepted 16 and 18"):
        model(torch.randn(1, 3, 17, 16))


def test_checkpoint_without_a_square_grid_needs_its_grid(small: Callable) -> None:
    state = small(img_size=(8, 20)).state_dict()
    with pytest.raises(ValueError, match=r"11 position rows.* give source_grid"):
        checkpoint_filter_fn(state, small())
    assert checkpoint_filter_fn(state, small(), source_grid=(2, 5))["pos_embed"].shape == (1, 17, 16)


def test_unknown_mode_and_wrong_row_count_are_refused() -> None:
    with pytest.raises(ValueError, match="accepted are aligned, published"):
        resize_pos_embed(torch.zeros(1, 4, 2), "none", (2, 2), (3, 3), mode="first")
    with pytest.raises(ValueError, match="has 4 rows, a 2x2 grid with class token 'middle' has 5"):
        resize_pos_embed(torch.zeros(1, 4, 2), "middle", (2, 2), (3, 3))
