"""Encoded images become pixels, as they are stored."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from bench.errors import BenchError
from bench.types import UInt8Image


def decode(record: dict[str, Any], where: str) -> UInt8Image:
    """Return the image uint8 [H,W,3] of a record {"bytes", "path"}.

    `datasets` would also turn images by their EXIF orientation; boxes and trained models know the
    stored pixels, so this does not.
    """
    content = record.get("bytes")
    if content is None and not record.get("path"):
        raise BenchError(f"The image {where} is empty in its file; fetch it again.")
    try:
        with Image.open(io.BytesIO(content) if content is not None else record["path"]) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise BenchError(
            f"The image {where} is missing; it was there when the subset was opened."
        ) from error
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise BenchError(f"The image {where} cannot be read ({error}); fetch it again.") from error
