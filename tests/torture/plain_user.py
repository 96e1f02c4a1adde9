"""Make the superuser mind the permissions of files, as any other user does.

The command server calls `install` in the child that runs a command, before it begins.
"""

from __future__ import annotations

import ctypes
import os
import sys

HOOK = {"CAMBENCH_TEST_HOOK": "tests.torture.plain_user"}
"""The environment of a command that minds permissions."""

_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inherited"))


def install() -> None:
    """Give up all capabilities of this process; what root owns is then root's by its mode only."""
    if sys.platform != "linux" or os.geteuid():
        return
    header, nothing = _Header(_VERSION, 0), (_Sets * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)):
        raise OSError(ctypes.get_errno(), "capset")
