"""What requests of the editor carry: small numbers and maps; anything else is one sentence."""

from __future__ import annotations

import asyncio

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from bench.errors import BenchError
from bench.finetune.attention_maps import Grey

DIGITS = 9
"""Digits of the largest number that a request may carry: Python refuses to read thousands."""

BODY_SECONDS = 30.0
"""Seconds that a map may take to arrive."""


def read_number(text: str) -> int | None:
    """Return a number from 0 with at most `DIGITS` digits, or None for any other text."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= DIGITS
    return int(text) if is_number else None


def read_count(request: Request, name: str) -> int:
    """Return the number from 0 that a query parameter holds; anything else is status 400."""
    number = read_number(request.query_params.get(name, ""))
    if number is None:
        raise HTTPException(400)
    return number


def read_position(request: Request, count: int) -> int:
    """Return the position in a queue of `count` images that the path names."""
    text = request.path_params["k"]
    if not (text.isascii() and text.isdecimal()):
        raise HTTPException(404)
    k = read_number(text)
    if k is None or k >= count:
        shown = text[:DIGITS] + "..." if k is None else str(k + 1)
        raise BenchError(f"There is no image {shown} in a queue of {count}; reload the page.")
    return k


async def read_grey(request: Request, side: int) -> Grey:
    """Return the map uint8 [side,side] in the body; a declared length is checked before reading."""
    wanted, declared = side * side, request.headers.get("content-length")
    wrong = BenchError(f"A map of {side} x {side} bytes was expected; reload the page.")
    if declared is not None and read_number(declared) != wanted:
        raise wrong
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read_body(request, wanted)
    except TimeoutError:
        raise HTTPException(408) from None
    if len(body) != wanted:
        raise wrong
    return np.frombuffer(body, dtype=np.uint8).reshape(side, side)


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the body, or its beginning where it is longer than `limit`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)
