"""Image to patch tokens."""

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cuts an image into square patches, overlapping where `stride < patch_size`, and projects each to a token.

    Args:
        img_size: height and width of the image the position embedding is built for, pixels.
        patch_size: side of a patch, pixels.
        stride: distance between neighbouring patches, pixels.
        in_chans: channels of the image.
        embed_dim: width D of a token.

    Raises:
        ValueError: patches at this stride do not cover `img_size` exactly.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, stride: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        if not 1 <= stride <= patch_size:
            raise ValueError(f"stride {stride} is outside 1..{patch_size} (the patch size): pixels would be skipped")
        self.img_size = img_size
        self.patch_size = (patch_size, patch_size)
        self.stride = (stride, stride)
        self.grid_size = self.grid(*img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=stride)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of `height` by `width` pixels.

        Raises:
            ValueError: a side is shorter than a patch or leaves a margin that no patch covers.
        """
        return self._patches("height", height), self._patches("width", width)

    def _patches(self, name: str, side: int) -> int:
        patch, stride = self.patch_size[0], self.stride[0]
        steps, margin = divmod(side - patch, stride)
        if side >= patch and margin == 0:
            return steps + 1
        below = patch + steps * stride
        nearest = f"{patch}" if side < patch else f"{below} and {below + stride}"
        raise ValueError(
            f"image {name} {side} does not fit patches of {patch} pixels at stride {stride}: nearest accepted {nearest}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, M, D), patches in row-major order (a view of the convolution's output)."""
        features: Tensor = self.proj(x)
        return features.flatten(2).transpose(1, 2)
