#!/usr/bin/env bash
# Lint, types, generated files and tests. Arguments go to pytest: scripts/test.sh tests/mixers -k local
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment dev

if [ $# -eq 0 ]; then
    ruff check .
    ruff format --check .
    mypy
    python scripts/generate_bundles.py --check
    set -- -n 2 --dist loadfile  # a file's fixtures, trainings among them, run once
fi
# One thread a process: two workers with two threads each would fight over two cores.
OMP_NUM_THREADS=1 python -m pytest "$@"
