#!/usr/bin/env bash
# Lint, types, generated files and tests: scripts/test.sh [--oldest] [--record] [pytest arguments]
#   --oldest   use the oldest versions that pyproject.toml admits, in .venv-oldest
#   --record   if all checks pass, write the versions to plugin/medmixers/results/tested.json
# With pytest arguments, only those tests: scripts/test.sh tests/mixers -k local
# COVER=yes scripts/test.sh measures the coverage too and prints it at the end.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
side=newest record=
while [ $# -gt 0 ]; do
    case "$1" in
        --oldest) side=oldest ;;
        --record) record=yes ;;
        *) break ;;
    esac
    shift
done
if [ -n "$record" ] && [ $# -gt 0 ]; then
    echo "test.sh: error: --record is for the whole suite, without pytest arguments; got $*" >&2
    exit 2
fi
if [ "$side" = oldest ]; then make_environment dev oldest; else make_environment dev; fi

if [ $# -eq 0 ]; then
    # Only on the newest side: the rules of an older ruff and the annotations of an older torch are others.
    if [ "$side" = newest ]; then
        ruff check .
        ruff format --check .
    fi
    python scripts/generate_bundles.py --check
    python scripts/render_tables.py --check
    # The tests run meanwhile, and mypy's lines come after theirs.
    if [ "$side" = newest ]; then
        types=$(mktemp)
        mypy >"$types" 2>&1 & checker=$!
        trap 'rm -f "$types"; if [ -n "$checker" ]; then kill "$checker" 2>/dev/null || true; fi' EXIT
    fi
    # A file's fixtures, trainings among them, run once.
    set -- -n 2 --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=1000
    if [ -n "${COVER:-}" ]; then set -- "$@" --cov --cov-report= && covered=yes; fi
    # The old record does not fit the new versions; test_tested.py judges the new one in the next run.
    if [ -n "$record" ]; then set -- "$@" --ignore tests/results/test_tested.py; fi
fi
# One thread per process: workers with two threads each would compete for two cores.
failed=0
OMP_NUM_THREADS=1 python -m pytest "$@" || failed=$?
if [ -n "${checker:-}" ]; then
    wait "$checker" || failed=$?
    checker=
    cat "$types"
fi
if [ "$failed" -ne 0 ]; then exit "$failed"; fi
if [ -n "${covered:-}" ]; then
    echo "Coverage of plugin/ by lines and branches: $(python -m coverage report --format=total) %."
    echo "Not counted: code in other processes, compilers and exports."
fi
if [ -n "$record" ]; then python scripts/versions.py record "$side"; fi
