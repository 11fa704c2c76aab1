#!/usr/bin/env python3
"""Compare the PNGs of two folders, pixel by pixel, by name.

    compare_png.py DIR_A DIR_B

Prints the largest difference of each pair. Exits 1 where one is above 1 (the last bit of float32 may move a pixel by one
level), where a picture of DIR_A is not in DIR_B, where sizes differ, or where there is nothing to compare. DIR_B may hold
more than DIR_A.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

TOLERANCE = 1


def pictures(folder):
    folder = Path(folder)
    if not folder.is_dir():
        sys.exit(f"error: `{folder}` is no folder")
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.png"))}


def largest_difference(a, b):
    """The largest difference of a channel, or None where the sizes differ."""
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.int16) for path in (a, b))
    return int(np.abs(a - b).max()) if a.shape == b.shape else None


def main():
    if len(sys.argv) != 3:
        sys.exit("error: two folders, please (compare_png.py DIR_A DIR_B)")
    a, b = pictures(sys.argv[1]), pictures(sys.argv[2])
    failures = [f"{name}: not in {sys.argv[2]}" for name in sorted(a.keys() - b.keys())]
    common = sorted(a.keys() & b.keys())
    worst = 0
    for name in common:
        difference = largest_difference(a[name], b[name])
        if difference is None:
            failures.append(f"{name}: sizes differ")
            continue
        worst = max(worst, difference)
        print(f"{name}: max abs diff {difference}")
        if difference > TOLERANCE:
            failures.append(f"{name}: {difference} is above {TOLERANCE}")
    if not common:
        failures.append("no PNG has the same name in both folders")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"{len(common)} pairs, max abs diff {worst}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
