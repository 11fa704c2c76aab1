#!/usr/bin/env bash
# Builds `hfbuild-torch`, the worker that runs libtorch, beside hfbuild. With arguments: cargo with these instead.
#
#     scripts/build_torch.sh                                          PyPI's torch, put under target/ (530 MB to download)
#     LIBTORCH=$VIRTUAL_ENV/lib/python3.12/site-packages/torch scripts/build_torch.sh        a torch 2.13.0 that is there
#     scripts/build_torch.sh test --release --features tch --test torch                      its tests
#
# The worker finds libtorch where it stood when the worker was built. With a whole installation of torch 2.13.0 (pip install
# torch==2.13.0, which brings CUDA's libraries) it runs on NVIDIA devices too.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${LIBTORCH:-}" ]; then
    folder="${CARGO_TARGET_DIR:-target}/libtorch"
    if ! cmp -s scripts/libtorch.txt "$folder/libtorch.txt"; then
        rm -rf "$folder"
        python3 -m pip install --quiet --disable-pip-version-check --no-compile --target "$folder" --no-deps \
            --require-hashes --only-binary=:all: --implementation cp --python-version 3.11 \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
            -r scripts/libtorch.txt
        cp scripts/libtorch.txt "$folder/" # last: what was cut off is done again
    fi
    LIBTORCH="$(cd "$folder" && pwd)/torch"
    export LIBTORCH
fi
if [ $# -eq 0 ]; then set -- build --release --features tch --bin hfbuild-torch; fi
exec cargo "$@"
