#!/usr/bin/env python3
"""What people do with huggingface_hub, against a hub: `hub_client.py ENDPOINT NAMESPACE xet|lfs FOLDER`.

Every step asserts what the client should see; the bytes that come back are compared with those that were sent.
HF_HOME and HF_HUB_DISABLE_XET are the caller's to set. Prints `ok`.
"""

import os
import sys
from pathlib import Path

ENDPOINT, SPACE, MODE, FOLDER = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
os.environ["HF_ENDPOINT"] = ENDPOINT
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
from huggingface_hub import (  # noqa: E402
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (  # noqa: E402
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save_file  # noqa: E402

api = HfApi(endpoint=ENDPOINT)
# Content that came over one protocol is there for the other: each has its own.
SEED = {"xet": 0, "lfs": 100}[MODE]
REPO = f"{SPACE}/tiny"
CARD = """---
license: mit
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [cats, tiny]
---
# Tiny
"""


def refused(error, call, *args, **kwargs):
    """The call fails with this error, which is handed back."""
    try:
        call(*args, **kwargs)
    except error as e:
        return e
    raise AssertionError(f"{call.__name__} should have failed with {error.__name__}")


def folder():
    """A folder with what repos have in them: a card, weights, an empty file, names that need escaping."""
    weights = np.random.default_rng(SEED + 7).standard_normal((300, 1000)).astype(np.float32)
    files = {
        "README.md": CARD.encode(),
        "config.json": b'{"depth": 2}\n',
        "empty.txt": b"",
        "samples/größe 1#a.txt": "ü\n".encode(),
        "samples/deep/er/noise.bin": np.random.default_rng(SEED + 8).bytes(200_000),
        "same.bin": np.random.default_rng(SEED + 8).bytes(200_000),
    }
    for name, content in files.items():
        path = FOLDER / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    save_file({"a": weights, "b": np.zeros(5, np.float16)}, FOLDER / "up/model.safetensors")
    files["model.safetensors"] = (FOLDER / "up/model.safetensors").read_bytes()
    return files


def upload_and_look(files):
    assert not api.repo_exists(REPO)
    url = api.create_repo(REPO)
    assert (url.repo_id, url.endpoint) == (REPO, ENDPOINT), url
    assert refused(HfHubHTTPError, api.create_repo, REPO).response.status_code == 409
    api.create_repo(REPO, exist_ok=True)
    api.upload_folder(repo_id=REPO, folder_path=FOLDER / "up", commit_message="all at once")
    assert sorted(api.list_repo_files(REPO)) == sorted([*files, ".gitattributes"])

    tree = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert {"samples", "samples/deep"} < set(tree)
    for name, content in files.items():
        assert tree[name].size == len(content), name
        assert tree[name].last_commit.title == "all at once"
    assert (tree["model.safetensors"].xet_hash is not None) == (MODE == "xet")
    top = api.list_repo_tree(REPO, "samples")
    assert {entry.path for entry in top} == {"samples/größe 1#a.txt", "samples/deep"}

    info = api.model_info(REPO, files_metadata=True)
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert all(sizes[name] == len(content) for name, content in files.items())
    assert (info.library_name, info.pipeline_tag) == ("diffusers", "unconditional-image-generation")
    assert info.card_data.license == "mit" and {"cats", "tiny", "license:mit"} <= set(info.tags)
    assert info.safetensors.total == 300_005 and info.safetensors.parameters["F32"] == 300_000
    assert REPO in [model.id for model in api.list_models(author=SPACE)]

    # the same again is no commit
    api.upload_folder(repo_id=REPO, folder_path=FOLDER / "up", commit_message="again")
    assert api.model_info(REPO).sha == info.sha


def download(files):
    local = snapshot_download(REPO, local_dir=FOLDER / "down")
    for name, content in files.items():
        assert (Path(local) / name).read_bytes() == content, name
    cached = hf_hub_download(REPO, "model.safetensors")
    assert Path(cached).read_bytes() == files["model.safetensors"]
    assert hf_hub_download(REPO, "model.safetensors") == cached
    assert Path(hf_hub_download(REPO, "noise.bin", subfolder="samples/deep/er")).read_bytes() == files["same.bin"]
    seen = get_hf_file_metadata(hf_hub_url(REPO, "model.safetensors"))
    assert seen.size == len(files["model.safetensors"]) and seen.commit_hash == api.model_info(REPO).sha
    assert (seen.xet_file_data is not None) == (MODE == "xet"), seen
    assert api.file_exists(REPO, "config.json") and not api.file_exists(REPO, "none.json")
    assert api.revision_exists(REPO, "main") and not api.revision_exists(REPO, "none")
    refused(EntryNotFoundError, hf_hub_download, REPO, "none.json")
    refused(RevisionNotFoundError, hf_hub_download, REPO, "config.json", revision="none")
    refused(RepositoryNotFoundError, hf_hub_download, f"{SPACE}/none", "config.json")


def commits(files):
    head = api.model_info(REPO).sha
    added = np.random.default_rng(SEED + 9).bytes(150_000)
    operations = [
        CommitOperationAdd("new.bin", added),
        CommitOperationAdd("new.txt", b"text"),
        CommitOperationDelete("empty.txt"),
        CommitOperationDelete("samples/deep/"),
        CommitOperationCopy("model.safetensors", "copies/model.safetensors"),
        CommitOperationCopy("config.json", "copies/config.json"),
    ]
    made = api.create_commit(REPO, operations, commit_message="many", commit_description="why", parent_commit=head)
    names = set(api.list_repo_files(REPO))
    assert {"new.bin", "new.txt", "copies/model.safetensors", "copies/config.json"} <= names
    assert not {"empty.txt", "samples/deep/er/noise.bin"} & names
    assert Path(hf_hub_download(REPO, "new.bin")).read_bytes() == added
    assert Path(hf_hub_download(REPO, "copies/config.json")).read_bytes() == files["config.json"]
    assert Path(hf_hub_download(REPO, "empty.txt", revision=head)).read_bytes() == b""
    stale = CommitOperationAdd("late.txt", b"late")
    error = refused(HfHubHTTPError, api.create_commit, REPO, [stale], commit_message="late", parent_commit=head)
    assert error.response.status_code == 412
    history = api.list_repo_commits(REPO)
    assert (history[0].commit_id, history[0].title, history[0].message) == (made.oid, "many", "why")
    assert [commit.title for commit in history[1:]] == ["all at once", "initial commit"]
    api.upload_file(repo_id=REPO, path_or_fileobj=b"one", path_in_repo="one.txt")
    api.delete_file("one.txt", REPO)
    api.delete_folder("copies", REPO)
    assert not any(name.startswith("copies/") for name in api.list_repo_files(REPO))
    found = api.get_paths_info(REPO, ["new.bin", "samples", "none"])
    assert {entry.path for entry in found} == {"new.bin", "samples"}


def refs():
    head = api.model_info(REPO).sha
    api.create_tag(REPO, tag="v1.0", tag_message="first")
    refused(HfHubHTTPError, api.create_tag, REPO, tag="v1.0")
    api.create_tag(REPO, tag="v1.0", exist_ok=True)
    api.create_branch(REPO, branch="next", revision="v1.0")
    api.upload_file(repo_id=REPO, path_or_fileobj=b"there", path_in_repo="next.txt", revision="next")
    assert not api.file_exists(REPO, "next.txt") and api.file_exists(REPO, "next.txt", revision="next")
    found = api.list_repo_refs(REPO)
    assert {branch.name for branch in found.branches} == {"main", "next"}
    assert [(tag.ref, tag.target_commit) for tag in found.tags] == [("refs/tags/v1.0", head)]
    api.delete_branch(REPO, branch="next")
    api.delete_tag(REPO, tag="v1.0")
    refused(RevisionNotFoundError, api.delete_tag, REPO, tag="v1.0")
    found = api.list_repo_refs(REPO)
    assert [branch.name for branch in found.branches] == ["main"] and not found.tags
    assert api.model_info(REPO).sha == head


def other_kinds():
    data = f"{SPACE}/numbers"
    api.create_repo(data, repo_type="dataset")
    rows = np.random.default_rng(SEED + 1).bytes(120_000)
    api.upload_file(repo_id=data, repo_type="dataset", path_or_fileobj=rows, path_in_repo="data/train.parquet")
    assert Path(hf_hub_download(data, "data/train.parquet", repo_type="dataset")).read_bytes() == rows
    assert api.dataset_info(data, files_metadata=True).siblings[-1].size == len(rows)
    page = f"{SPACE}/demo"
    api.create_repo(page, repo_type="space", space_sdk="static")
    api.upload_file(repo_id=page, repo_type="space", path_or_fileobj=b"<p>hi", path_in_repo="index.html")
    assert api.space_info(page).sdk == "static"
    refused(BadRequestError, api.upload_file, repo_id=REPO, path_or_fileobj=b"x", path_in_repo="new.txt/under")
    for repo, kind in ((data, "dataset"), (page, "space"), (REPO, "model")):
        api.delete_repo(repo, repo_type=kind)
        assert not api.repo_exists(repo, repo_type=kind)
    refused(RepositoryNotFoundError, api.delete_repo, REPO)
    api.delete_repo(REPO, missing_ok=True)


sent = folder()
upload_and_look(sent)
download(sent)
commits(sent)
refs()
other_kinds()
print("ok")
