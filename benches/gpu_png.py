"""PNG files as hfbuild writes them (8 bits, RGB, not interlaced), by the standard library alone."""

from __future__ import annotations

import struct
import zlib


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Width, height, and `3 * width * height` bytes, row by row."""
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    at, data, head = 8, b"", b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + size]
        head = body if kind == b"IHDR" else head
        data += body if kind == b"IDAT" else b""
        at += 12 + size
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    if (depth, colour, interlaced) != (8, 2, 0):
        raise ValueError(f"{depth} bits of colour type {colour}")
    raw, stride, before, rows = zlib.decompress(data), 3 * width, bytearray(3 * width), []
    for y in range(height):
        kind, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        for x in range(stride):
            left, up = line[x - 3] if x >= 3 else 0, before[x]
            corner = before[x - 3] if x >= 3 else 0
            if kind == 1:
                line[x] = (line[x] + left) & 255
            elif kind == 2:
                line[x] = (line[x] + up) & 255
            elif kind == 3:
                line[x] = (line[x] + (left + up) // 2) & 255
            elif kind == 4:
                near = left + up - corner
                a, b, c = abs(near - left), abs(near - up), abs(near - corner)
                line[x] = (line[x] + (left if a <= b and a <= c else up if b <= c else corner)) & 255
        rows.append(bytes(line))
        before = line
    return width, height, b"".join(rows)


def apart(one: bytes, other: bytes) -> tuple[int, float]:
    """How far two PNG files of one size are apart: the greatest difference of a channel's value, and the mean of all."""
    a, b = pixels(one), pixels(other)
    if a[:2] != b[:2]:
        raise ValueError(f"{a[0]}x{a[1]} and {b[0]}x{b[1]}")
    all_of_them = [abs(x - y) for x, y in zip(a[2], b[2])]
    return max(all_of_them, default=0), sum(all_of_them) / max(len(all_of_them), 1)
