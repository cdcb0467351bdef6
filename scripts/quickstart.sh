#!/usr/bin/env bash
# The main job on the demo documents, offline: set up, train a retriever, measure before and after.
# Run it again to see that what is done is skipped; extra arguments go to `ragkit run`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
ragkit_setup quickstart
export HF_HUB_OFFLINE=1
exec ragkit run configs/quickstart.yaml -o runs/quickstart "$@"
