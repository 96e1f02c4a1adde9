"""The input of a network: its channels and size, and the way from files and pixels to images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from bench.data.decode import read_image
from bench.data.geometry import Geometry, match_channels
from bench.data.input_size import Size, count_pixels, enlarge, split_size, write_size
from bench.errors import BenchError
from bench.models.input_channels import check_file_channels, convert_channels, convert_colour
from bench.models.layout import ImageSize
from bench.randomness import generator

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

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device.

        Args:
            device: A torch device, such as "cuda".

        Returns:
            This model.

        Example:
            >>> model.to("cpu").device.type
            'cpu'
        """
        self.net.to(device)
        return self

    def draw_noise(self, size: ImageSize | None = None) -> torch.Tensor:
        """Return one image of noise, the same at every call.

        Args:
            size: (H, W) in pixels; None takes the network's own.

        Returns:
            An image [1,C,H,W] float32 of standard normal numbers, in the network's own space.

        Example:
            >>> model.draw_noise().shape
            torch.Size([1, 3, 8, 8])
        """
        shape = (self.channels, *(size or self.frame))
        return torch.randn(1, *shape, generator=generator(0, "layer")).to(self.device)

    @property
    def channels(self) -> int:
        """Return the number of channels of the network's images."""
        return len(self.mean)

    @property
    def frame(self) -> tuple[int, int]:
        """Return (height, width) of the network's images in pixels."""
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
        """Return pixels in the network's own space: (pixels - mean) / std.

        Args:
            pixels: Pixels [...,C,H,W] in [0,1]; RGB becomes grey for networks with one channel.

        Returns:
            Images [...,C,H,W].

        Raises:
            BenchError: The number of channels is not the network's.

        Example:
            >>> model.normalise(torch.full((1, 3, 8, 8), 0.485))[0, 0, 0, 0]
            tensor(0.)
        """
        pixels = convert_channels(pixels, self.channels, self.name)
        mean, std = self._constants(pixels)
        return (pixels - mean) / std

    def denormalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised images as pixels.

        Args:
            images: Images [...,C,H,W], normalised.

        Returns:
            Pixels [...,C,H,W], in [0,1] up to rounding.

        Example:
            >>> torch.allclose(model.normalise(model.denormalise(images)), images, atol=1e-5)
            True
        """
        mean, std = self._constants(images)
        return images * std + mean

    def colour(self, rgb: Sequence[float]) -> torch.Tensor:
        """Return a colour as the network sees it.

        A network with other channels than RGB has no counterpart of a colour; its mean takes the
        place. Black, white and greys are the same in all channels.

        Args:
            rgb: The colour in pixel space, [0,1] each.

        Returns:
            The normalised colour [C,1,1].

        Example:
            >>> model.colour((0.485, 0.456, 0.406)).abs().max()
            tensor(0.)
        """
        colour = convert_colour(rgb, self.mean, self.name)
        return self.normalise(_stand_up(colour, self.device))

    def _constants(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _stand_up(self.mean, like.device), _stand_up(self.std, like.device)

    def read(self, files: str | Path | Sequence[str | Path]) -> torch.Tensor:
        """Read image files as the network wants them.

        Args:
            files: One path, or several.

        Returns:
            Images [B,C,H,W] float32, normalised, on the network's device; grey (C = 1) is luma.

        Raises:
            BenchError: No file is given, one cannot be read, or the network has neither 1 nor 3
                channels.

        Example:
            >>> model.read(["cat.jpg", "dog.jpg"]).shape  # doctest: +SKIP
            torch.Size([2, 3, 224, 224])
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
