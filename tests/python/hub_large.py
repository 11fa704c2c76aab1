#!/usr/bin/env python3
"""One large file up and down again: `hub_large.py ENDPOINT REPO FOLDER MEGABYTES`. Prints `ok` when it is the same.

HF_HOME and HF_HUB_DISABLE_XET are the caller's to set.
"""

import os
import sys
from pathlib import Path

os.environ["HF_ENDPOINT"] = sys.argv[1]
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
from huggingface_hub import HfApi, hf_hub_download  # noqa: E402

api = HfApi(endpoint=sys.argv[1])
repo, folder, size = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) << 20
content = np.random.default_rng(5).bytes(size)
up = folder / "large.bin"
up.write_bytes(content)
api.create_repo(repo, exist_ok=True)
api.upload_file(repo_id=repo, path_or_fileobj=up, path_in_repo="large.bin")
up.unlink()
assert Path(hf_hub_download(repo, "large.bin", local_dir=folder)).read_bytes() == content
print("ok")
