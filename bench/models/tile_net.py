"""Networks that read the cells of a mosaic one by one, so that it is known what they read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.data.input_size import Size, split_size
from bench.models.layout import Layout


class TileNet(nn.Module):
    """A network that reads one tile of an image [B,3,2H,2W] and nothing else: net(x[tile]) ->
    logits [B,C].
    """

    def __init__(self, net: nn.Module, row: int, column: int, side: Size) -> None:
        super().__init__()
        self.net, self.side = net, side
        self.height, self.width = split_size(side)
        self.top, self.left = row * self.height, column * self.width

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tile [B,3,H,W] of images [B,3,nH,nW]."""
        return x[:, :, self.top : self.top + self.height, self.left : self.left + self.width]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's logits [B,C] of the tile [B,3,H,W]."""
        tile = self.cut(x).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.net(tile)
        return logits

    def extra_repr(self) -> str:
        """Say which tile: the weights are the network's own, and the id hashes this text."""
        return f"top={self.top}, left={self.left}, side={self.side}"


class CellsNet(nn.Module):
    """A network that reads each of n x n cells with a copy of itself and joins the answers.

    net(x [B,3,nH,nW]) -> [B,n*n*C]: of each cell, row by row, the log-probabilities of its own C
    classes. Their softmax is each cell's softmax over n*n, so that neither a logit nor a
    probability of a cell's class depends on another cell. `features` gives the explained layer of
    all cells as one grid, after Rao, Böhle, Schiele (CVPR 2022, "DiFull").

    Args:
        net: The network of one cell.
        side: n.
        size: The network's own size.
        layer: The explained layer, "" where the network has forward_features and forward_head.
        layout: How the layer's output is a grid.
    """

    def __init__(self, net: nn.Module, side: int, size: Size, layer: str, layout: Layout) -> None:
        super().__init__()
        self.net, self.side, self.layer = net, side, layer
        self.features = nn.Identity()
        self._layout = layout
        places = [(row, column) for row in range(side) for column in range(side)]
        # In a tuple, which registers none of them: the copies share the network's weights.
        self._tiles = tuple(TileNet(net, row, column, size) for row, column in places)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [B,n*n*C] of images [B,3,nH,nW]."""
        cells = torch.stack([tile.cut(x) for tile in self._tiles], 1).flatten(0, 1)
        logits = self._run(cells.contiguous(memory_format=torch.channels_last))
        # In float64, since 1 - p of a confident network is lost in float32.
        return logits.double().log_softmax(1).float().reshape(len(x), -1)

    def _run(self, cells: torch.Tensor) -> torch.Tensor:
        """Return the network's logits [B*n*n,C], with the explained layer seen as one grid."""
        if not self.layer:
            whole: Any = self.net
            logits: torch.Tensor = whole.forward_head(self._show(whole.forward_features(cells)))
            return logits
        module = self.net.get_submodule(self.layer)
        handle = module.register_forward_hook(lambda _module, _input, out: self._show(out))
        try:
            logits = self.net(cells)
        finally:
            handle.remove()
        return logits

    def _show(self, values: torch.Tensor) -> torch.Tensor:
        """Pass the layer's output of the cells through `features` as one grid per image."""
        side = self.side
        grid = self._layout.grid(values)
        count, channels, height, width = grid.shape
        images = count // side**2
        apart = grid.reshape(images, side, side, channels, height, width)
        whole = apart.permute(0, 3, 1, 4, 2, 5).reshape(images, channels, side * height, -1)
        shown = self.features(whole).reshape(images, channels, side, height, side, width)
        return self._layout.ungrid(shown.permute(0, 2, 4, 1, 3, 5).reshape(grid.shape), values)

    def extra_repr(self) -> str:
        """Say what is no module: the id of the weights hashes this text."""
        return f"side={self.side}, layer={self.layer!r}"
