"""Reads thousands of damaged and hostile files, and fails where one is not read or refused in words.

Usage: python Testing/Fuzz/fuzz_files.py [--count 2000] [--seed 0] [--jobs 2] [--keep FOLDER]

Small sound files of every format are changed at random (bytes, lengths, header fields) and read as a volume and as a segmentation. Reading
happens in child processes with a limit of time and memory, so that a library that crashes, hangs or takes all memory is seen as what it is.
The same seed makes the same files. With --keep those that did harm are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MEMORY = 6 << 30
SECONDS = 60.0

# What header fields are replaced by: numbers at the edge, patterns, paths, codes that steer a terminal.
NASTY = (
    *("-1", "0", "1", "2", "3", "4", "7", "16", "17", "255", "65536", "99999", "2147483647", "-2147483648", "4294967296", "9" * 30),
    *("nan", "-nan", "inf", "-inf", "1e400", "1e-400", "0x10", "", " ", "none", "(1,0,0)", "1 0 0 0", "\x00", "\x1b[31m", "\u202e"),
    *("%s", "%n%n%n", "%d", "%s%s%s%s 1 10 1", "%099999d 1 2 1", "slice%d.raw 1 999999 1", "LIST", "LIST 9D", "LOCAL"),
    *("../../../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", ".", "x" * 5000, "9 " * 3000),
)
NUMBERS = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 511, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), float("-inf"))

CHILD = """
import json, sys, resource
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
import logging
logging.disable(logging.CRITICAL)
from RAUSlicerLib.errors import InputError
from RAUSlicerLib.imaging.checks import align_segmentation, check_volume
from RAUSlicerLib.imaging.files import read_segmentation, read_volume
print("ready", flush=True)
for line in sys.stdin:
    path, outcomes = json.loads(line), []
    volume = None
    for read in ("volume", "segmentation"):
        try:
            if read == "volume":
                volume, _ = check_volume(read_volume(path), "target")
            else:
                segmentation = read_segmentation(path, volume)
                if volume is not None:
                    align_segmentation(segmentation, volume)
            outcomes.append("read")
        except InputError:
            outcomes.append("refused")
        except BaseException as error:
            outcomes.append("fault: " + type(error).__name__ + ": " + str(error)[:200])
    print(json.dumps(outcomes), flush=True)
"""


class Child:
    """A process that reads files, one after the other; a new one takes the place of one that has died or hangs."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path) -> list[str]:
        """What became of a file, as a volume and as a segmentation: "read", "refused", or what is wrong."""
        if self._process is None:
            self._process = self._start()
        process, answer = self._process, ""
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            pass
        finally:
            hung = not timer.is_alive()
            timer.cancel()
        if answer:
            return [str(outcome) for outcome in json.loads(answer)]
        self._process = None
        code = process.wait()
        return ["hang" if hung else f"crash: exit code {code}"]

    def close(self) -> str:
        """End the process; what it has printed on its standard error."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def _start(self) -> subprocess.Popen[str]:
        program = CHILD.format(memory=MEMORY)
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("The library can't be imported.")
        return process


def make_seeds(folder: Path) -> list[Path]:
    """Small sound files of every format; those that belong to one are beside it."""
    import numpy as np
    import SimpleITK as sitk

    values = np.random.default_rng(0).integers(0, 900, (5, 40, 36)).astype(np.int16)
    volume = sitk.GetImageFromArray(values)
    volume.SetSpacing((0.8, 0.9, 3.0))
    volume.SetOrigin((-20.0, 11.0, 40.0))
    labels = sitk.Cast(volume > 600, sitk.sitkUInt8) + sitk.Cast(volume > 800, sitk.sitkUInt8)
    segments = sitk.Image(labels)
    for number in (0, 1):
        for key, text in {
            "ID": f"S{number}",
            "Name": f"part {number}",
            "LabelValue": str(number + 1),
            "Layer": "0",
            "Color": "1 0 0",
        }.items():
            segments.SetMetaData(f"Segment{number}_{key}", text)
    segments.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    seeds = []
    for name, image, compressed in (
        *(("v.nii", volume, False), ("v.nii.gz", volume, True), ("l.nii.gz", labels, True), ("v.nrrd", volume, False)),
        *(("z.nrrd", volume, True), ("v.nhdr", volume, False), ("s.seg.nrrd", segments, True), ("v.mha", volume, False)),
        *(("z.mha", volume, True), ("v.mhd", volume, False), ("z.mhd", volume, True), ("p.png", labels[:, :, 2], True)),
    ):
        sitk.WriteImage(image, str(folder / name), useCompression=compressed)
        seeds.append(folder / name)
    (folder / "two.nii").write_bytes(_nifti_2((folder / "v.nii").read_bytes()))
    (folder / "list.mhd").write_bytes((folder / "v.mhd").read_bytes().replace(b"v.raw\n", b"LIST\n" + b"v0.raw\n" * 5))
    (folder / "v0.raw").write_bytes(values[0].tobytes())
    return [*seeds, folder / "two.nii", folder / "list.mhd"]


def _nifti_2(one: bytes) -> bytes:
    two = bytearray(544)
    struct.pack_into("<i8s", two, 0, 540, b"n+2\0\r\n\x1a\n")
    struct.pack_into("<2h", two, 12, *struct.unpack_from("<2h", one, 70))
    struct.pack_into("<8q", two, 16, *struct.unpack_from("<8h", one, 40))
    struct.pack_into("<8d", two, 104, *struct.unpack_from("<8f", one, 76))
    struct.pack_into("<q2d", two, 168, 544, 1.0, 0.0)
    struct.pack_into("<2i", two, 344, *struct.unpack_from("<2h", one, 252))
    struct.pack_into("<18d", two, 352, *struct.unpack_from("<18f", one, 256))
    return bytes(two) + one[352:]


def mutate(content: bytes, name: str, rng: random.Random) -> bytes:
    """A file's content, changed in one to four ways; inside of compressed NIfTI too."""
    packed = name.endswith(".nii.gz") and rng.random() < 0.8
    if packed:
        content = gzip.decompress(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_ways(name))(content, rng)
    return gzip.compress(content, 1) if packed else content


def _ways(name: str) -> tuple[Callable[[bytes, random.Random], bytes], ...]:
    if name.endswith((".nii", ".nii.gz")):
        return (_change_bytes, _cut, _change_number, _change_number, _change_number, _double)
    if name.endswith(".png"):
        return (_change_bytes, _cut, _double, _change_number)
    return (_change_bytes, _cut, _change_field, _change_field, _change_field, _change_field, _change_line, _double)


def _change_bytes(content: bytes, rng: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 40))):
        if out:
            # Headers come first and matter most.
            out[min(int(rng.random() ** 4 * len(out)), len(out) - 1)] = rng.randrange(256)
    return bytes(out)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: int(rng.choice((rng.random(), rng.random() ** 4)) * len(content))]


def _double(content: bytes, rng: random.Random) -> bytes:
    start = int(rng.random() ** 3 * len(content))
    piece = content[start : start + rng.choice((1, 10, 200))]
    return content[:start] + piece * rng.choice((2, 5, 200)) + content[start:]


def _change_number(content: bytes, rng: random.Random) -> bytes:
    """A number of a NIfTI header of either version, or of a picture's."""
    out = bytearray(content)
    at, kind = rng.choice(
        (
            *((40 + 2 * k, "h") for k in range(8)),
            *((at, "h") for at in (70, 72, 252, 254, 12, 14)),
            *((76 + 4 * k, "f") for k in range(10)),
            *((256 + 4 * k, "f") for k in range(18)),
            *((16 + 8 * k, "q") for k in range(8)),
            *((104 + 8 * k, "d") for k in range(11)),
            *((352 + 8 * k, "d") for k in range(18)),
            *((at, "i") for at in (0, 344, 348, 500, 168)),
        )
    )
    order = rng.choice("<<<>")
    value: float = rng.choice(FLOATS) if kind in "fd" else rng.choice(NUMBERS)
    with contextlib.suppress(struct.error, OverflowError):
        struct.pack_into(order + kind, out, at, value)
    return bytes(out)


def _lines(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a text header, and what follows it."""
    for mark in (b"\n\n", b"LOCAL\n"):
        head, found, rest = content.partition(mark)
        if found and len(head) < 1 << 16:
            return (head + found.rstrip(b"\n")).split(b"\n"), (b"\n\n" if mark == b"\n\n" else b"\n") + rest
    return content.split(b"\n"), b""


def _change_field(content: bytes, rng: random.Random) -> bytes:
    """The value of a field, or one word of it."""
    lines, rest = _lines(content)
    number = rng.randrange(len(lines))
    for mark in (b" = ", b":=", b": "):
        key, found, value = lines[number].partition(mark)
        if found:
            words = value.split(b" ")
            words[rng.randrange(len(words))] = rng.choice(NASTY).encode()
            lines[number] = key + found + (rng.choice(NASTY).encode() if rng.random() < 0.4 else b" ".join(words))
            break
    return b"\n".join(lines) + rest


def _change_line(content: bytes, rng: random.Random) -> bytes:
    """A line twice, elsewhere, or not at all."""
    lines, rest = _lines(content)
    line = lines.pop(rng.randrange(len(lines)))
    for _ in range(rng.randrange(3)):
        lines.insert(rng.randrange(len(lines) + 1), line)
    return b"\n".join(lines) + rest


def mutants(seeds: list[Path], folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Make changed files, each in a folder of its own with what belongs to it."""
    rng = random.Random(seed)
    for number in range(count):
        origin = seeds[number % len(seeds)]
        place = folder / f"{number:05d}"
        place.mkdir()
        for other in origin.parent.glob("*.raw*"):
            shutil.copy(other, place)
        for other in origin.parent.glob("*.zraw"):
            shutil.copy(other, place)
        path = place / origin.name
        path.write_bytes(mutate(origin.read_bytes(), origin.name, rng))
        yield path


def main() -> int:
    """Make the files, read them, and say what became of them; the exit code is 1 where one did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    totals: Counter[tuple[str, str]] = Counter()
    harmful = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        (Path(scratch) / "seeds").mkdir()
        seeds = make_seeds(Path(scratch) / "seeds")
        local = threading.local()
        children: list[Child] = []

        def read(path: Path) -> tuple[Path, list[str]]:
            if not hasattr(local, "child"):
                local.child = Child()
                children.append(local.child)
            return path, local.child.read(path)

        sound = {path.name: outcomes for path, outcomes in pool.map(read, seeds) if "read" not in outcomes}
        if sound:
            print(f"Sound files are not read: {sound}")
            return 1
        for path, outcomes in pool.map(read, mutants(seeds, Path(scratch), options.count, options.seed)):
            for outcome in outcomes:
                totals[path.name, outcome if outcome in ("read", "refused") else "HARM"] += 1
            if any(outcome not in ("read", "refused") for outcome in outcomes):
                harmful.append(f"{path.parent.name}/{path.name}: {outcomes}")
                if options.keep:
                    shutil.copytree(path.parent, options.keep / path.parent.name, dirs_exist_ok=True)
            shutil.rmtree(path.parent)
        printed = "".join(child.close() for child in children)
    steering = sorted({character for character in printed if character < " " and character not in "\n\t"})
    for (name, outcome), number in sorted(totals.items()):
        print(f"{name:12s} {outcome:8s} {number}")
    if steering:
        print(f"Libraries have printed control characters: {steering}")
    print("\n".join(harmful) or f"{options.count} files, none did harm.")
    return 1 if harmful or steering else 0


if __name__ == "__main__":
    sys.exit(main())
