"""The layers of a network that a text can name."""

from __future__ import annotations

from functools import cached_property

import torch

from bench.errors import BenchError, NotApplicable, suggestions
from bench.models.input_side import InputSide
from bench.models.network_guard import guard_network
from bench.models.stages import stage_layers


class NetworkLayers(InputSide):
    """A network whose layers have names."""

    @cached_property
    def stages(self) -> list[str]:
        """Return the last module of each stage, from shallow to deep."""
        with guard_network(self.net), torch.no_grad():
            return stage_layers(self.net, torch.zeros_like(self.draw_noise()))

    def layers(self, names: str) -> list[str]:
        """Return the modules that a text names.

        Args:
            names: "auto" (one module per stage), or names joined by "+".

        Returns:
            Names of modules, each once.

        Raises:
            BenchError: The network has no such layer.
            NotApplicable: "auto" finds no stage with a spatial grid.

        Example:
            >>> model.layers("0+1")
            ['0', '1']
        """
        if names != "auto":
            modules = [name for name, _ in self.net.named_modules() if name]
            chosen = [name.strip() for name in names.split("+")]
            for name in chosen:
                if name not in modules:
                    raise BenchError(
                        f"The network {self.name} has no layer "
                        f"{name!r}.{suggestions(name, modules)}"
                    )
            return list(dict.fromkeys(chosen))
        if not self.stages:
            raise NotApplicable(
                f"{self.name} shows no stages with a spatial grid; name the layers, joined by + "
                "(layers=a+b)."
            )
        return self.stages
