"""Pull requests by the official Python client against a hub: `python pull_requests.py ENDPOINT [TOKEN]`.

Needs huggingface_hub 2.4. Prints `ok: <step>` lines; the first failure ends it with a traceback and exit code 1.
"""

import os
import sys
import uuid

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_ENDPOINT"] = sys.argv[1]

from huggingface_hub import CommitOperationAdd, HfApi  # noqa: E402
from huggingface_hub.errors import HfHubHTTPError  # noqa: E402

API = HfApi(endpoint=sys.argv[1], token=sys.argv[2] if len(sys.argv) > 2 else "hf_any")
REPO = f"conformance/pulls-{uuid.uuid4().hex[:8]}"


def content(revision, path):
    with open(API.hf_hub_download(REPO, path, revision=revision), "rb") as file:
        return file.read()


def commit(content_, **more):
    operations = [CommitOperationAdd("a.txt", content_)]
    return API.create_commit(REPO, operations, commit_message="change a.txt", **more)


API.create_repo(REPO)
commit(b"one")
first = commit(b"two", create_pr=True)
assert (first.pr_num, first.pr_revision) == (1, "refs/pr/1"), first
assert content("refs/pr/1", "a.txt") == b"two" and content("main", "a.txt") == b"one"
print("ok: create_commit(create_pr=True)")

commit(b"three", revision="refs/pr/1")
assert content("refs/pr/1", "a.txt") == b"three"
print("ok: a commit onto the pull request")

listed = list(API.get_repo_discussions(REPO, discussion_type="pull_request", discussion_status="open"))
assert [(pull.num, pull.status, pull.is_pull_request) for pull in listed] == [(1, "open", True)], listed
print("ok: get_repo_discussions")

details = API.get_discussion_details(REPO, 1)
assert details.target_branch == "refs/heads/main" and not details.conflicting_files
assert [event.type for event in details.events] == ["commit", "commit"], details.events
assert [ref.name for ref in API.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["refs/pr/1"]
print("ok: get_discussion_details")

API.merge_pull_request(REPO, 1)
details = API.get_discussion_details(REPO, 1)
assert details.status == "merged" and details.merge_commit_oid
assert content("main", "a.txt") == b"three"
print("ok: merge_pull_request")

closed = commit(b"four", create_pr=True)
API.change_discussion_status(REPO, closed.pr_num, "closed")
assert API.get_discussion_details(REPO, closed.pr_num).status == "closed"
assert list(API.get_repo_discussions(REPO, discussion_status="open")) == []
print("ok: change_discussion_status")

clash = commit(b"five", create_pr=True)
commit(b"six")
assert API.get_discussion_details(REPO, clash.pr_num).conflicting_files == ["a.txt"]
try:
    API.merge_pull_request(REPO, clash.pr_num)
except HfHubHTTPError as error:
    assert error.response.status_code == 409, error
else:
    raise AssertionError("a conflict was merged")
print("ok: a conflict is not merged")
