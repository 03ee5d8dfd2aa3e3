#!/usr/bin/env bash
# A CI job: prepare one's own data, train, evaluate, and fail with exit 4 when the requirement is not met.
# Arguments override configuration keys: bash docs/examples/ci.sh train.steps=20
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
require=${REQUIRE:-acc-baseline>=0}

distillctl prep jsonl --source "$here/questions" --prompt-field problem --answer-field result --out data/questions
distillctl train --config "$here/train.yaml" --run-dir runs/ci "reward.path=$here/reward.py" "$@"
distillctl eval --checkpoint runs/ci --baseline builtin:tiny-student --require "$require" --junit runs/ci/eval.xml
