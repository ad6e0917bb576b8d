#!/usr/bin/env bash
# Lint, types, generated files and tests. Arguments go to pytest: scripts/test.sh tests/mixers -k local
# Without arguments it ends with the coverage of some rooms; COVER=all scripts/test.sh measures all of them.
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
    covered='*' rooms=plugin/
    if [ "${COVER:-}" != all ]; then  # the rooms of COVERED in tests/conftest.py
        rooms='plugin/medmixers/{datasets,kernels,layers,mixers,networks,results,tasks}'
        covered='*/datasets/*,*/kernels/*,*/layers/*,*/mixers/*,*/networks/*,*/results/*,*/tasks/*'
    fi
fi
# One thread a process: two workers with two threads each would fight over two cores.
OMP_NUM_THREADS=1 python -m pytest "$@"
if [ -n "${covered:-}" ]; then
    echo "Coverage of $rooms by lines and branches: $(python -m coverage report --format=total --include="$covered") %."
    echo "Not counted: code in other processes, compilers and exports. COVER=all measures all rooms, a fifth slower."
fi
