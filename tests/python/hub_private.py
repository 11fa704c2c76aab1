#!/usr/bin/env python3
"""Tokens and private repos: `hub_private.py ENDPOINT TOKEN FOLDER`. Prints `ok`.

HF_HOME and HF_HUB_DISABLE_XET are the caller's to set.
"""

import os
import sys
from pathlib import Path

ENDPOINT, TOKEN, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
os.environ["HF_ENDPOINT"] = ENDPOINT
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
from huggingface_hub import HfApi  # noqa: E402
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError  # noqa: E402

right, wrong, none = (HfApi(endpoint=ENDPOINT, token=token) for token in (TOKEN, "hf_wrong", False))
content = np.random.default_rng(6).bytes(150_000)


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except HfHubHTTPError as e:
        assert e.response.status_code == 401, e
        return e
    raise AssertionError(f"{call.__name__} should have been refused")


assert right.whoami()["name"] == "local"
refused(wrong.whoami)
for api in (wrong, none):
    refused(api.create_repo, "acme/mine")
for repo, private in (("acme/mine", True), ("acme/ours", False)):
    right.create_repo(repo, private=private)
    right.upload_file(repo_id=repo, path_or_fileobj=content, path_in_repo="a.bin")
    for api in (wrong, none):
        refused(api.upload_file, repo_id=repo, path_or_fileobj=content, path_in_repo="b.bin")
assert right.model_info("acme/mine").private
assert isinstance(refused(none.model_info, "acme/mine"), RepositoryNotFoundError)
assert not none.repo_exists("acme/mine") and none.repo_exists("acme/ours")
assert [model.id for model in none.list_models()] == ["acme/ours"]
assert Path(right.hf_hub_download("acme/mine", "a.bin", local_dir=FOLDER / "1")).read_bytes() == content
assert Path(none.hf_hub_download("acme/ours", "a.bin", local_dir=FOLDER / "2")).read_bytes() == content
refused(none.hf_hub_download, "acme/mine", "a.bin", local_dir=FOLDER / "3")
print("ok")
