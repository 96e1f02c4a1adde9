"""From records to boards: the only aggregation, with its tables, plots and published folders."""

from bench.board.board import Board, leaderboard
from bench.board.board_page import write_board
from bench.board.gallery import load_gallery, save_gallery_part
from bench.board.publish import publish_board
from bench.board.text import OVERALL

__all__ = [
    "OVERALL",
    "Board",
    "leaderboard",
    "load_gallery",
    "publish_board",
    "save_gallery_part",
    "write_board",
]
