"""What the editor knows and does, without the web: the queue, the maps on disk, and the network
under an edited map.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from bench.data.input_size import require_square
from bench.data.subset import Subset
from bench.editor.drawing_steps import DrawingSteps, Steps
from bench.editor.inference import Inference, Looked
from bench.editor.kept_placements import look_at
from bench.editor.queue_choice import QueueChoice
from bench.editor.saved_maps import SavedMaps, hold_folder
from bench.errors import BenchError
from bench.finetune.attention_maps import (
    DRAWN,
    EditedMap,
    Grey,
    expand_attention,
    grey_of,
    make_edited_map,
    upsample_attention,
    utc_now,
)
from bench.finetune.placement import (
    Report,
    attention_net,
    check_classes,
    energy_inside,
    frame_of,
)
from bench.models.abn import to_grid
from bench.models.explainee import Explainee
from bench.models.network_guard import guard_network
from bench.types import Batch
from bench.version import __version__

KEPT = 64
"""Images whose own map and logits are kept in memory."""


class ConflictError(Exception):
    """A map was saved over a newer one: `current` is that one; the refused map is kept at
    `kept`.
    """

    def __init__(self, current: EditedMap, kept: Path) -> None:
        super().__init__(f"revision {current.facts['revision']} is newer")
        self.current = current
        self.kept = kept


class Session:
    """One editor: a queue of images of a subset, and a folder that its maps are saved in, one file
    per image.

    Args:
        model: A model with an attention branch.
        subset: Its images.
        folder: It is made; one editor at a time has it.
        everything: Whether the queue holds every image. Else it holds those right in class with
            less than half of the attention inside the truth. Without truth all right ones count.
        report: Called with (done, total) while the network looks at images, which happens once per
            folder and image.
        limit: The most images of the queue, those whose map misses the object most; 0: all.
        classes: Labels of the only classes in the queue; empty for all.

    Raises:
        BenchError: The model has no attention branch, the queue is empty, the folder belongs to
            another editor or cannot be written to, or it holds maps of another model or subset.
    """

    def __init__(
        self,
        model: Explainee,
        subset: Subset,
        folder: str | Path,
        everything: bool = False,
        report: Report | None = None,
        limit: int = 0,
        classes: Sequence[int] = (),
    ) -> None:
        self.model, self.subset, self.folder = model, subset, Path(folder)
        choice = QueueChoice(everything, tuple(classes), limit)
        self._net = attention_net(model)
        self.side = require_square(model.size, "The editor of attention maps")
        self._origin = {"weights_id": model.weights_id, "manifest_id": subset.manifest_id}
        check_classes(model, subset)
        self._geometry = frame_of(model, subset)
        self._files, self._forward = threading.RLock(), threading.RLock()
        self._looked: OrderedDict[int, Looked] = OrderedDict()
        self._held = hold_folder(self.folder)
        try:
            self.maps = SavedMaps(self.folder, model, subset)
            self.steps = DrawingSteps(self.folder, self.side, self._origin)
            wanted = choice.list_wanted(subset)
            self.seen = look_at(model, subset, wanted, self.folder, report)
            self.queue = choice.order_queue(self.seen, model.name, subset.name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free for another editor."""
        self._held.release()

    # --- the queue

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def first(self) -> int:
        """Return the position of the first image that no person has drawn on yet; 0 where all are
        done.
        """
        return next((k for k in range(len(self)) if not self.is_drawn(k)), 0)

    def is_drawn(self, k: int) -> bool:
        """Return whether a person has saved a map for the image at position k."""
        return bool(self.maps.state(self.queue[k].item)["source"] == DRAWN)

    def state(self, k: int) -> dict[str, Any]:
        """Return how far the image at position k is: see `SavedMaps.state`, and whether its drawing
        has unsaved changes.
        """
        item = self.queue[k].item
        return self.maps.state(item) | {"unsaved": self.steps.is_unsaved(item)}

    # --- an image

    @property
    def grid(self) -> list[int]:
        """Return the rows and columns of the network's attention map."""
        return list(self._look(0).before.attention.shape)

    def view(self, k: int) -> dict[str, Any]:
        """Return what the page shows of position k; maps are uint8 [size,size] arrays.

        "own" is the network's map. "map" is the saved one, else "own". "steps" has facts of the
        drawing's steps, or None. "boxes" and "mask" are the truth in the frame, or None.
        """
        looked, placement = self._look(k), self.queue[k]
        with self._files:
            current = self.maps.read(placement.item)
            steps = self._read_steps(placement.item)
            state = self.state(k)
        truth = looked.batch.truth
        return {
            **state,
            "steps": None if steps is None else steps.facts,
            "label": placement.label,
            "class_name": self.class_name(placement.label),
            "own": looked.own,
            "map": looked.own if current is None else current.grey,
            "boxes": None if truth.boxes is None else truth.boxes[0].tolist(),
            "mask": None if truth.masks is None else truth.masks[0].numpy().astype(np.uint8),
            "outcome": self._compare(k, looked.before, looked.before),
        }

    def frame(self, k: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the image at position k as the model sees it: uint8 [size,size,3]."""
        return self._geometry.frame(self.subset[self.queue[k].index].image)

    def infer(self, k: int, grey: Grey) -> dict[str, Any]:
        """Return top classes and energy with the network's own map and with a map uint8 [size,size]
        in its place.
        """
        looked = self._look(k)
        return self._compare(k, looked.before, self._outcome(looked, grey))

    def class_name(self, label: int) -> str:
        """Return the name of a class."""
        names = self.subset.class_names
        return names[label] if label < len(names) else str(label)

    def _look(self, k: int) -> Looked:
        with self._forward:
            if k not in self._looked:
                self._looked[k] = self._look_anew(k)
            self._looked.move_to_end(k)
            while len(self._looked) > KEPT:
                self._looked.popitem(last=False)
            return self._looked[k]

    def _look_anew(self, k: int) -> Looked:
        batch = self.subset.batch([self.queue[k].index], self._geometry)
        images = self.model.normalise(batch.pixels.to(self.model.device))
        with guard_network(self.model.net), torch.inference_mode():
            out = self._net.branches(images)
        own = expand_attention(out.attention.cpu(), self.model.size)[0].numpy()
        return Looked(batch, images, grey_of(own), self._judge(batch, out.logits, out.attention))

    def _outcome(self, looked: Looked, grey: Grey) -> Inference:
        height, width = looked.before.attention.shape
        maps = torch.from_numpy(grey.astype(np.float32) / np.float32(255))[None]
        attention = to_grid(maps, height, width).clamp(0, 1).to(self.model.device)
        with self._forward, guard_network(self.model.net), torch.inference_mode():
            return self._judge(
                looked.batch, self._net(looked.images, attention=attention), attention
            )

    def _judge(self, batch: Batch, logits: torch.Tensor, attention: torch.Tensor) -> Inference:
        attention, logits = attention.cpu(), logits.cpu()
        if not (logits.isfinite().all() and attention.isfinite().all()):
            raise BenchError(
                f"{self.model.name} gives numbers that are not finite for {batch.ids[0]}; this "
                "image cannot be edited, so go on with the next one."
            )
        truth = batch.truth.pixels(*self.model.frame)
        energy = (
            None
            if truth is None
            else energy_inside(upsample_attention(attention, self.model.size), truth)[0]
        )
        return Inference(logits.softmax(1)[0], energy, grey_of(attention[0, 0].numpy()))

    def _compare(self, k: int, before: Inference, after: Inference) -> dict[str, Any]:
        """Return both outcomes; classes: the top ones of each, and the image's own."""
        top = dict.fromkeys([*before.top, *after.top, self.queue[k].label])
        return {
            "classes": [
                {
                    "label": c,
                    "name": self.class_name(c),
                    "before": float(before.probabilities[c]),
                    "after": float(after.probabilities[c]),
                }
                for c in top
            ],
            "before": {"energy": before.energy, "predicted": before.predicted},
            "after": {"energy": after.energy, "predicted": after.predicted},
            "attention": after.attention,
        }

    # --- saving

    def save(self, k: int, grey: Grey, base: int) -> EditedMap:
        """Save a map uint8 [size,size] for position k, begun from revision `base` (0: none), and
        return what is saved.

        The version before goes to the history. A file that cannot be read goes there, too; the
        facts of the saved map say so ("set_aside"). A newer revision than `base` raises
        `ConflictError`, and the map that was refused goes to the history, so that nothing is lost
        whatever is decided then.
        """
        looked, item = self._look(k), self.queue[k].item
        after = self._outcome(looked, grey)
        with self._files:
            current = self.maps.read(item)
            started = {"started_from": "model" if current is None else current.facts["source"]}
            edited = make_edited_map(grey, self._facts(k, looked, after, base + 1) | started)
            if current is not None and current.facts["revision"] != base:
                refused = make_edited_map(grey, edited.facts | {"refused": True})
                raise ConflictError(current, self.maps.keep(refused, "refused"))
            if current is not None:
                if current.facts["source"] == DRAWN and np.array_equal(current.grey, grey):
                    self.steps.settle(item, grey, base)
                    return current  # pressed twice
                self.maps.keep(current)
            saved = self.maps.write(item, edited)
            self.steps.settle(item, grey, saved.facts["revision"])
            return saved

    def read_steps(self, k: int) -> Steps | None:
        """Return the steps of the drawing at position k, or None."""
        with self._files:
            return self._read_steps(self.queue[k].item)

    def _read_steps(self, item: str) -> Steps | None:
        """Return the steps of an item; those of an older saved map, with nothing unsaved, go."""
        steps = self.steps.read(item)
        if steps is None or steps.place != steps.saved:
            return steps
        if steps.base == self.maps.state(item)["revision"]:
            return steps
        self.steps.drop(item)
        return None

    def _facts(self, k: int, looked: Looked, after: Inference, revision: int) -> dict[str, Any]:
        placement = self.queue[k]
        return {
            "item": placement.item,
            "image_id": looked.batch.image_ids[0],
            "subset": self.subset.name,
            **self._origin,
            "model": self.model.name,
            "label": placement.label,
            "when": utc_now(),
            "source": DRAWN,
            "revision": revision,
            "before": looked.before.facts(placement.label),
            "after": after.facts(placement.label),
            "cambench": __version__,
        }
