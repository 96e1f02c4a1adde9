"""A picture for every metric, drawn from generated scenes and a bundled network."""

from docs_pages.pictures import disturbed, located, removed, shapes, sisters
from docs_pages.pictures.stage import PICTURES, draw_picture

__all__ = [
    "PICTURES",
    "disturbed",
    "draw_picture",
    "located",
    "removed",
    "shapes",
    "sisters",
]
