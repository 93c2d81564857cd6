#!/usr/bin/env bash
# Rewrites requirements.lock: exact, universal over platforms, without registry hosts.
# Torch's CUDA packages are left out: torch's own metadata pins them, and pip brings them where the torch build wants them.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
"$uv" pip compile --quiet --universal --python-version 3.11 pyproject.toml --extra pipeline --extra dev \
    --constraint tools/lock-constraints.txt --override tools/lock-overrides.txt \
    --no-annotate --no-header --no-emit-index-url --output-file requirements.lock.new
grep -vE '^(nvidia-(cu|nccl|nvjitlink|nvshmem|nvtx)[a-z0-9-]*|cuda-[a-z]+|triton|sentence-transformers)==' requirements.lock.new > requirements.lock
rm requirements.lock.new
