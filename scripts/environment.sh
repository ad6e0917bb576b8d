# Sourced by demo.sh and test.sh: make .venv with this package where it is missing or pyproject.toml has changed.
# PYTHON names another interpreter than python3.

# Where this file's checkout is; the scripts run from there.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# make_environment EXTRA: install the package, editable, with that extra of pyproject.toml.
make_environment() {
    local stamp=".venv/installed-$1" python="${PYTHON:-python3}"
    if ! cmp -s pyproject.toml "$stamp"; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            { echo "Python 3.10 or newer is needed, $python is $("$python" --version 2>&1); set PYTHON" >&2; exit 1; }
        echo "Installing into .venv (once; about 7 GB with torch's GPU libraries)"
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --editable ".[$1]"
        cp pyproject.toml "$stamp"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
