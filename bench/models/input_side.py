"""The input of a network: its channels and size, and the way from files and pixels to images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.data.decode import read_image
from bench.data.geometry import Geometry, match_channels
from bench.data.input_size import Size, count_pixels, enlarge, split_size, write_size
from bench.errors import BenchError
from bench.models.input_channels import check_file_channels, convert_channels, convert_colour

DEFAULT_CROP = 0.875
"""Share of the resized short side that the centre crop keeps, where the model does not say (224 of
256).
"""


class InputSide:
    """What a network wants as its input.

    Attributes:
        net: The network.
        name: Name of the model.
        mean: Mean of each channel, pixel space [0,1].
        std: Standard deviation of each channel, pixel space.
        size: Side of a square, or (height, width), in pixels.
        geometry: How files become frames of that size.
    """

    net: nn.Module
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size
    geometry: Geometry

    @property
    def device(self) -> torch.device:
        """Return the device of the network's parameters."""
        tensor = next(self.net.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def _match_geometry(self, given: Geometry | None) -> Geometry:
        own = given or Geometry(self.size, "short", enlarge(self.size, DEFAULT_CROP), "bicubic")
        if own.size != self.size:
            raise BenchError(
                f"The geometry of {self.name} makes frames of {write_size(own.size)} pixels and "
                f"its size is {write_size(self.size)}; make them the same."
            )
        return match_channels(own, self.channels)

    @property
    def channels(self) -> int:
        """Return the number of channels of the network's images."""
        return len(self.mean)

    @property
    def frame(self) -> tuple[int, int]:
        """Return (height, width) of the network's images."""
        return split_size(self.size)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of the network's images."""
        return (self.channels, *self.frame)

    @property
    def pixels(self) -> int:
        """Return height * width of the network's images."""
        return count_pixels(self.size)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (pixels - mean) / std for pixels [...,C,H,W] in [0,1]; RGB becomes grey for
        networks with one channel.
        """
        pixels = convert_channels(pixels, self.channels, self.name)
        mean, std = self._constants(pixels)
        return (pixels - mean) / std

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0,1] (up to rounding) for normalised images [...,C,H,W]."""
        mean, std = self._constants(images)
        return images * std + mean

    def colour(self, rgb: Sequence[float]) -> torch.Tensor:
        """Return a pixel-space colour as the network sees it: [C,1,1], normalised.

        See `convert_colour` for networks with other channels than RGB.
        """
        colour = convert_colour(rgb, self.mean, self.name)
        return self.normalise(_stand_up(colour, self.device))

    def _constants(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _stand_up(self.mean, like.device), _stand_up(self.std, like.device)

    def read(self, files: str | Path | Sequence[str | Path]) -> torch.Tensor:
        """Read image files and return them as the network wants them: [B,C,H,W] float32,
        normalised; grey (C = 1) as luma.
        """
        check_file_channels(self.name, self.channels)
        paths = [files] if isinstance(files, (str, Path)) else list(files)
        if not paths:
            raise BenchError("read() was given no files; name at least one image.")
        frames = [self.geometry.frame(read_image(path)) for path in paths]
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
        return self.normalise(pixels).to(self.device)


def _stand_up(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """Return one number for each channel as [C,1,1]."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
