#!/usr/bin/env python3
"""The official client's snapshot of a repo: `download.py ENDPOINT REPO DIR`. Prints the commit it is of.

HF_HOME and HF_HUB_DISABLE_XET are the caller's to set.
"""

import os
import sys

os.environ["HF_ENDPOINT"] = sys.argv[1]
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from huggingface_hub import HfApi, snapshot_download  # noqa: E402

api = HfApi(endpoint=sys.argv[1], token=False)
commit = api.model_info(sys.argv[2]).sha
snapshot_download(sys.argv[2], revision=commit, local_dir=sys.argv[3], endpoint=sys.argv[1], token=False)
print(commit)
