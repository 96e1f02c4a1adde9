"""The content of a subset's items, as digests: what tells that an image has changed."""

from __future__ import annotations

from bench.data.geometry import Geometry
from bench.data.item_identity import identify_sample, join_frame, unreadable_content
from bench.data.manifest import Manifest
from bench.data.sample_source import Source
from bench.errors import UnreadableImage
from bench.types import ItemContent


class ItemContents:
    """Items that a source reads, and their content.

    Attributes:
        manifest: What the subset is.
        source: Reads the samples.
        positions: Which samples of the source are scored, in order.
    """

    manifest: Manifest
    source: Source
    positions: tuple[int, ...]

    @property
    def explain(self) -> str:
        """Return "label" where every metric explains the label, else "default"."""
        return self.manifest.explain

    def identify(
        self, i: int, geometry: Geometry, known: ItemContent | None = None
    ) -> ItemContent | None:
        """Return the content of an item in a frame, as digests.

        Args:
            i: Item, 0 to n - 1.
            geometry: The frame.
            known: The content of an earlier run; a file that has not changed since is not read
                again.

        Returns:
            The content, or None where the manifest identifies the items.

        Example:
            >>> subset.identify(0, model.geometry) is None  # the manifest describes scenes
            True
        """
        return self.identify_at(self.positions[i], geometry, known)

    def identify_at(
        self, position: int, geometry: Geometry, known: ItemContent | None = None
    ) -> ItemContent | None:
        """Return the content of the sample at a position of the source; see `identify`.

        Args:
            position: Position in the source.
            geometry: The frame.
            known: The content of an earlier run.

        Returns:
            The content, or None where the manifest identifies the items.

        Example:
            >>> subset.identify_at(0, model.geometry) is None
            True
        """
        if not self.identifies_items:
            return None
        try:
            content = self._digest(position, known) or identify_sample(self.source.read(position))
        except UnreadableImage:
            content = unreadable_content()
        return join_frame(content, geometry.id, self.explain)

    @property
    def identifies_items(self) -> bool:
        """Return whether content identifies the items, and not the manifest alone."""
        return not vars(type(self.source)).get("identified_by_manifest", False)

    def _digest(self, position: int, known: ItemContent | None = None) -> ItemContent | None:
        """Return the content of a sample as its source states it; None where it states none.

        A derived or wrapped source may change the image, so its own class must state it.
        """
        digest = vars(type(self.source)).get("digest_item")
        found: ItemContent | None = digest and digest(self.source, position, known)
        return found
