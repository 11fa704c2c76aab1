"""The official Python client against a hub: `python upload_download.py ENDPOINT [TOKEN]`.

Needs huggingface_hub 2.4. Prints `ok: <step>` lines; the first failure ends it with a traceback and exit code 1.
Large files go by LFS: xet is switched off before the client is imported.
"""

import filecmp
import os
import sys
import tempfile
import uuid
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_ENDPOINT"] = sys.argv[1]

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi  # noqa: E402
from huggingface_hub import hf_hub_download, snapshot_download  # noqa: E402
from huggingface_hub.errors import (  # noqa: E402
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

ENDPOINT = sys.argv[1]
TOKEN = sys.argv[2] if len(sys.argv) > 2 else "hf_any"
API = HfApi(endpoint=ENDPOINT, token=TOKEN)
REPO = f"conformance/tiny-{uuid.uuid4().hex[:8]}"

CARD = """---
license: apache-2.0
library_name: rten
pipeline_tag: unconditional-image-generation
tags:
- cats
- tiny
widget:
- text: Siamese
  output:
    url: samples/a.png
---
# Tiny

Some text.
"""

FILES = {
    "README.md": CARD.encode(),
    "config.json": b'{"model_type": "tiny"}',
    "empty.txt": b"",
    "empty.bin": b"",
    "model.safetensors": os.urandom(3_000_000),
    "onnx/model.onnx": os.urandom(70_000),
    "samples/größe mit leerzeichen.txt": "ä ö ü\n".encode(),
    "samples/猫 #1%.png": os.urandom(1_000),
    "deep/er/and/deeper/file.txt": b"down here\n",
    "big-binary.dat": os.urandom(1_500_000),
}


def ok(step: str) -> None:
    print(f"ok: {step}", flush=True)


def write(root: Path, files: dict) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def raises(kind, status, call):
    try:
        call()
    except kind as error:
        assert error.response.status_code == status, error
        return error
    raise AssertionError(f"expected {kind.__name__}")


def snapshot(root: Path, name: str, revision=None) -> Path:
    return Path(
        snapshot_download(
            REPO, revision=revision, endpoint=ENDPOINT, token=TOKEN, local_dir=root / name, cache_dir=root / "cache"
        )
    )


def same(root: Path, expected: dict) -> None:
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and ".cache" not in p.parts}
    assert found == set(expected) | {".gitattributes"}, found ^ set(expected)
    for name, content in expected.items():
        assert (root / name).read_bytes() == content, name


def repository() -> None:
    assert not API.repo_exists(REPO)
    url = API.create_repo(REPO, private=True)
    assert url.repo_id == REPO, url
    API.create_repo(REPO, exist_ok=True)
    raises(HfHubHTTPError, 409, lambda: API.create_repo(REPO))
    assert API.repo_exists(REPO)
    ok("create_repo")
    assert API.whoami()["name"]
    API.auth_check(REPO)
    ok("whoami and auth_check")
    assert API.list_repo_files(REPO) == [".gitattributes"]
    assert API.model_info(REPO).private is True
    API.update_repo_settings(REPO, private=False)
    assert API.model_info(REPO).private is False
    ok("a new repository")


def folder(root: Path) -> None:
    source = write(root / "source", FILES)
    info = API.upload_folder(repo_id=REPO, folder_path=source, commit_message="all of it", commit_description="nonce 1")
    assert info.oid == API.model_info(REPO).sha and info.repo_url.repo_id == REPO, info
    ok("upload_folder")
    assert sorted(API.list_repo_files(REPO)) == sorted([*FILES, ".gitattributes"])
    tree = {entry.path: entry for entry in API.list_repo_tree(REPO, recursive=True)}
    assert tree["model.safetensors"].lfs.size == 3_000_000 and tree["README.md"].lfs is None
    assert tree["big-binary.dat"].lfs is not None and tree["empty.bin"].lfs is None
    assert "deep/er" in tree and not hasattr(tree["deep/er"], "size")
    top = {entry.path for entry in API.list_repo_tree(REPO)}
    assert "deep" in top and "deep/er" not in top
    inner = {entry.path for entry in API.list_repo_tree(REPO, "samples", expand=True)}
    assert inner == {"samples/größe mit leerzeichen.txt", "samples/猫 #1%.png"}, inner
    ok("list_repo_files and list_repo_tree")
    infos = API.get_paths_info(REPO, ["model.safetensors", "samples", "no-such-file"], expand=True)
    assert {info.path for info in infos} == {"model.safetensors", "samples"}
    assert infos[0].last_commit.title == "all of it"
    ok("get_paths_info")
    same(snapshot(root, "one"), FILES)
    ok("snapshot_download, byte-equal")
    before = API.model_info(REPO).sha
    API.upload_folder(repo_id=REPO, folder_path=source)
    assert API.model_info(REPO).sha == before
    ok("upload_folder again, unchanged: no commit")


def single(root: Path) -> None:
    API.upload_file(repo_id=REPO, path_or_fileobj=b"one line\n", path_in_repo="notes/a b.txt")
    path = hf_hub_download(REPO, "notes/a b.txt", endpoint=ENDPOINT, token=TOKEN, cache_dir=root / "cache")
    assert Path(path).read_bytes() == b"one line\n"
    path = hf_hub_download(REPO, "model.safetensors", endpoint=ENDPOINT, token=TOKEN, cache_dir=root / "cache")
    assert filecmp.cmp(path, root / "source/model.safetensors", shallow=False)
    ok("upload_file and hf_hub_download")
    assert API.file_exists(REPO, "README.md") and not API.file_exists(REPO, "no-such-file")
    raises(EntryNotFoundError, 404, lambda: API.hf_hub_download(REPO, "no-such-file", cache_dir=root / "cache"))
    raises(RevisionNotFoundError, 404, lambda: API.list_repo_files(REPO, revision="no-such-branch"))
    raises(RepositoryNotFoundError, 404, lambda: API.model_info("conformance/no-such-repo"))
    ok("what is missing is named")


def commits(root: Path) -> None:
    head = API.model_info(REPO).sha
    operations = [
        CommitOperationAdd("added.txt", b"added\n"),
        CommitOperationAdd("weights.bin", os.urandom(2_000)),
        CommitOperationDelete("config.json"),
        CommitOperationDelete("deep/", is_folder=True),
        CommitOperationCopy("README.md", "docs/README.md"),
        CommitOperationCopy("model.safetensors", "copy/model.safetensors"),
    ]
    info = API.create_commit(REPO, operations, commit_message="several", commit_description="words", parent_commit=head)
    files = set(API.list_repo_files(REPO))
    assert {"added.txt", "weights.bin", "docs/README.md", "copy/model.safetensors"} <= files
    assert "config.json" not in files and not any(name.startswith("deep/") for name in files)
    copied = hf_hub_download(REPO, "copy/model.safetensors", endpoint=ENDPOINT, token=TOKEN, cache_dir=root / "cache")
    assert filecmp.cmp(copied, root / "source/model.safetensors", shallow=False)
    ok("create_commit: add, delete, delete a folder, copy")
    conflict = [CommitOperationAdd("late.txt", b"late\n")]
    raises(HfHubHTTPError, 412, lambda: API.create_commit(REPO, conflict, commit_message="late", parent_commit=head))
    assert API.model_info(REPO).sha == info.oid
    ok("a stale parent_commit is refused with 412")
    history = API.list_repo_commits(REPO)
    assert [c.title for c in history][:1] == ["several"] and history[0].commit_id == info.oid
    assert history[0].message == "words" and history[-1].title == "initial commit"
    ok("list_repo_commits")


def refs(root: Path) -> None:
    head = API.model_info(REPO).sha
    API.create_tag(REPO, tag="v1.0")
    raises(HfHubHTTPError, 409, lambda: API.create_tag(REPO, tag="v1.0"))
    API.create_branch(REPO, branch="feature/x", revision="v1.0")
    API.upload_file(repo_id=REPO, path_or_fileobj=b"on a branch\n", path_in_repo="branch.txt", revision="feature/x")
    listed = API.list_repo_refs(REPO)
    assert {tag.name: tag.target_commit for tag in listed.tags} == {"v1.0": head}
    assert {branch.name for branch in listed.branches} == {"main", "feature/x"}
    assert API.file_exists(REPO, "branch.txt", revision="feature/x") and not API.file_exists(REPO, "branch.txt")
    assert API.model_info(REPO, revision="v1.0").sha == head
    assert API.revision_exists(REPO, "feature/x") and not API.revision_exists(REPO, "feature/y")
    assert (snapshot(root, "tagged", revision="v1.0") / "added.txt").exists()
    API.delete_branch(REPO, branch="feature/x")
    API.delete_tag(REPO, tag="v1.0")
    assert not API.list_repo_refs(REPO).tags
    ok("tags and branches")


def information() -> None:
    info = API.model_info(REPO, files_metadata=True)
    assert info.pipeline_tag == "unconditional-image-generation" and info.library_name == "rten"
    assert info.card_data.license == "apache-2.0" and "cats" in info.tags and "license:apache-2.0" in info.tags
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes["model.safetensors"] == 3_000_000
    assert API.repo_info(REPO).sha == info.sha
    assert REPO in {model.id for model in API.list_models(author="conformance")}
    ok("model_info and list_models")


def other_kinds(root: Path) -> None:
    for kind, extra in [("dataset", {}), ("space", {"space_sdk": "static"})]:
        API.create_repo(REPO, repo_type=kind, **extra)
        API.upload_folder(repo_id=REPO, folder_path=root / "source", repo_type=kind)
        path = API.hf_hub_download(REPO, "onnx/model.onnx", repo_type=kind, cache_dir=root / "cache")
        assert Path(path).read_bytes() == FILES["onnx/model.onnx"]
        assert API.repo_info(REPO, repo_type=kind).sha
        API.delete_repo(REPO, repo_type=kind)
    ok("a dataset and a space")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        repository()
        folder(root)
        single(root)
        commits(root)
        refs(root)
        information()
        other_kinds(root)
    API.delete_repo(REPO)
    assert not API.repo_exists(REPO)
    raises(RepositoryNotFoundError, 404, lambda: API.delete_repo(REPO))
    ok("delete_repo")


if __name__ == "__main__":
    main()
