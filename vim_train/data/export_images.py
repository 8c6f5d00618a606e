"""Images as an export writes them: as they are stored, but for those made smaller and those that are no files yet.

Each is decoded before, so that no export holds what is no picture.
"""

import io

from PIL import Image

from vim_train.config.commands import ExportCommand
from vim_train.config.errors import UserError
from vim_train.config.schema import BadImages
from vim_train.data.decode import BadImage, decode_bytes
from vim_train.data.sources import Source, check_unchanged

JPEG_QUALITY = 95


def stored(source: Source, index: int, command: ExportCommand, there: bytes | None = None) -> bytes | BadImage:
    """Contents of the file to write, if not `there`, which an export has written before; what is wrong, with skip.

    Raises:
        BadImage: without skip.
    """
    try:
        data = source.read(index)
        if data is None:
            return _encoded(source.load(index, source.native_mode), "PNG")
        if command.max_side is None and data == there:
            return data
        image = decode_bytes(data, source.name(index), "RGB", command.data.pixel_limit)
    except BadImage as error:
        if command.data.bad_images is BadImages.skip:
            return error
        raise
    if command.max_side is None or max(image.size) <= command.max_side:
        return data
    scale = command.max_side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return _encoded(image.resize(size, Image.Resampling.LANCZOS), "JPEG")


def leave_out(source: Source, index: int, error: BadImage, command: ExportCommand, left_out: dict[str, str]) -> None:
    """Note an image that cannot be decoded. Raises UserError: there are too many of them."""
    check_unchanged(source, f"remove {command.out} and export again")
    class_name, limit = source.classes[source.labels[index]], command.data.bad_images_max
    left_out[error.path] = f"(class {class_name}): {error.reason}"
    if len(left_out) > limit:
        count = f"more than data.bad_images_max={limit} images"
        raise UserError(f"{count} cannot be decoded; the last: {error.path}: {error.reason}")


def _encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {}))
    return out.getvalue()
