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
    python scripts/render_tables.py --check
    set -- -n 2 --dist loadfile --cov --cov-report=  # a file's fixtures, trainings among them, run once
    total='python -m coverage report --format=total'
fi
# One thread a process: two workers with two threads each would fight over two cores.
OMP_NUM_THREADS=1 python -m pytest "$@"
if [ -n "${total:-}" ]; then
    echo "Coverage of plugin/ by lines and branches, without what tests run in other processes: $($total) %"
fi
