"""Reads a queue as FORMAT.md describes it, with nothing but the standard library. Prints JSON lines: the items that wait,
then those that failed."""

import json
import os
import struct
import sys
import zlib


def unpack(b, at=0):
    """One msgpack value, and where the next begins."""
    t = b[at]
    at += 1

    def number(form):
        return struct.unpack_from(">" + form, b, at)[0], at + struct.calcsize(form)

    def text(n, at):
        return b[at:at + n].decode(), at + n

    def array(n, at):
        items = []
        for _ in range(n):
            item, at = unpack(b, at)
            items.append(item)
        return items, at

    def mapping(n, at):
        items, at = array(2 * n, at)
        return dict(zip(items[::2], items[1::2])), at

    if t <= 0x7F:
        return t, at
    if t <= 0x8F:
        return mapping(t & 15, at)
    if t <= 0x9F:
        return array(t & 15, at)
    if t <= 0xBF:
        return text(t & 31, at)
    if t >= 0xE0:
        return t - 256, at
    if t in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[t], at
    if t in (0xC4, 0xC5, 0xC6):
        n, at = number("BHI"[t - 0xC4])
        return b[at:at + n], at + n
    if 0xCA <= t <= 0xD3:
        return number("fdBHIQbhiq"[t - 0xCA])
    if 0xD9 <= t <= 0xDB:
        return text(*number("BHI"[t - 0xD9]))
    if t in (0xDC, 0xDD):
        return array(*number("HI"[t - 0xDC]))
    if t in (0xDE, 0xDF):
        return mapping(*number("HI"[t - 0xDE]))
    raise ValueError("type %#x" % t)


def journal(root):
    """Per segment: the first item never given out, and where it stands."""
    segments = {}
    with open(os.path.join(root, "journal"), "rb") as f:
        data = f.read()
    for at in range(0, len(data) - 63, 64):
        entry = data[at:at + 64]
        magic, kind, _, crc, writer, number, _, a, b, c, d, consumer = struct.unpack("<2sBBIQIIQQQQQ", entry)
        if magic != b"Fj" or crc != zlib.crc32(entry[8:], kind):
            continue
        key = writer, number
        if kind == 3:
            segments[key] = [a, b]
        elif kind in (4, 5) or kind == 8 and consumer == 0:
            if a >= segments[key][0]:
                segments[key] = [b, d]
        elif kind == 11:
            del segments[key]
    return segments


def items(root):
    for (writer, number), (_, at) in journal(root).items():
        seed = zlib.crc32(struct.pack("<QI", writer, number))
        with open(os.path.join(root, "segments", "%016x-%08x.seg" % (writer, number)), "rb") as f:
            data = f.read()
        assert data[:8] == b"FSQseg\x01\n" and zlib.crc32(data[:60]) == struct.unpack_from("<I", data, 60)[0]
        while at < len(data):
            magic, size, sequence, time, crc, header = struct.unpack_from("<4sIQQII", data, at)
            body = data[at + 32:at + 32 + size]
            assert magic == b"FQr1" and header == zlib.crc32(data[at:at + 28], seed) and crc == zlib.crc32(body, seed)
            total = 32 + (size + 7) // 8 * 8 + 8
            assert data[at + total - 8:at + total] == struct.pack("<I4s", total, b"FQe1")
            yield sequence, unpack(body)[0]
            at += total


def failed(root):
    for name in sorted(os.listdir(os.path.join(root, "failed"))):
        with open(os.path.join(root, "failed", name), "rb") as f:
            data = f.read()
        crc, size = struct.unpack_from("<II", data, 8)
        assert data[:8] == b"FSQbad\x01\n" and size == len(data) - 16 and crc == zlib.crc32(data[16:])
        yield unpack(data, 16)[0]


for sequence, item in items(sys.argv[1]):
    print(json.dumps({"sequence": sequence, "item": item}))
for entry in failed(sys.argv[1]):
    print(json.dumps({"failed": unpack(entry["body"])[0], "reason": entry["reason"]}))
