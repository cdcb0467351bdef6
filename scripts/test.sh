#!/usr/bin/env bash
# All tests, offline, a worker for each processor. Arguments go to pytest: scripts/test.sh tests/data -k journal
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
ragkit_setup dev,docs,serve,quickstart,deepspeed
export HF_HUB_OFFLINE=1
if ! command -v chromium > /dev/null || ! command -v chromedriver > /dev/null; then
  echo "no chromium with chromedriver here: the tests that open reports in a browser are skipped" >&2
fi
exec python -m pytest -n logical --maxprocesses 8 "$@"
