"""Why a file is no image that can be read, from its bytes."""

from __future__ import annotations

_TYPES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of Git LFS; run `git lfs pull`"),
    (b"%PDF", "it is a PDF; save its page as PNG"),
    (b"\x93NUMPY", "it is a NumPy array; save it as PNG"),
    (b"\x89HDF", "it is an HDF5 file; save its image as PNG"),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it"),
    (b"\x1f\x8b", "it is a gzip archive; unpack it"),
    (b"\xff\x0a", "it is JPEG XL, which Pillow does not read; save it as PNG or JPEG"),
    (b"\x00\x00\x00\x0cJXL", "it is JPEG XL, which Pillow does not read; save it as PNG or JPEG"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TEXTS = (b"<!doctype", b"<html", b"<head")
_CUT = ("truncated", "unexpected end", "broken data stream", "not enough image data", "eof")


def explain_unreadable(content: bytes, error: Exception) -> str:
    """Return why the bytes of a file are no image, and what to do, as the end of a sentence."""
    if not content:
        return "the file is empty; fetch it again"
    start = content[:64].lstrip().lower()
    for mark, words in _TYPES:
        if content.startswith(mark):
            return words
    if start.startswith(_TEXTS):
        return "it is a web page, such as a server's error; fetch the image itself"
    if start.startswith((b"<svg", b"<?xml")):
        return "it is XML or SVG; save it as PNG"
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"mif1", b"heif", b"msf1"):
        return "it is HEIC, which Pillow does not read; save it as JPEG or PNG"
    if content[128:132] == b"DICM":
        return "it is DICOM; save it as an 8-bit PNG with the window that you want to see"
    if "DecompressionBomb" in type(error).__name__:
        return "it has more pixels than Pillow opens safely; make it smaller"
    reason = str(error).strip().rstrip(".") or type(error).__name__
    if any(word in reason.casefold() for word in _CUT):
        return f"the file is cut short or damaged, as Pillow finds: {reason}; fetch it again"
    if content.startswith(_TIFF):
        return "it is TIFF of a kind that Pillow does not read; save it as an 8-bit PNG"
    if "BytesIO" in reason or "cannot identify" in reason:
        return "its bytes are of no image format that Pillow knows; save it as PNG or JPEG"
    return f"Pillow finds: {reason}; save it anew as PNG or JPEG"
