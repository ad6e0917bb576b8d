# Sourced by demo.sh and test.sh: make an environment with this package where it is missing or pyproject.toml has changed.
# PYTHON names another interpreter than python3.

# Where this file's checkout is; the scripts run from there.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# make_environment EXTRAS: install the package, editable, with those extras of pyproject.toml, into .venv.
# make_environment EXTRAS oldest: the same into .venv-oldest, with the oldest versions that pyproject.toml admits.
make_environment() {
    local folder=".venv${2:+-$2}" python="${PYTHON:-python3}" constraints=()
    local stamp="$folder/installed-$1"
    if ! cmp -s pyproject.toml "$stamp"; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            { echo "Python 3.10 or newer is needed, $python is $("$python" --version 2>&1); set PYTHON" >&2; exit 1; }
        echo "Installing into $folder (once; about 7 GB with torch's GPU libraries)"
        [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
        if [ "${2:-}" = oldest ]; then
            "$folder/bin/python" -m pip install --quiet packaging "tomli; python_version < '3.11'"
            "$folder/bin/python" scripts/versions.py floors > "$folder/constraints.txt"
            constraints=(--constraint "$folder/constraints.txt")
        fi
        "$folder/bin/python" -m pip install --quiet --editable ".[$1]" "${constraints[@]}"
        cp pyproject.toml "$stamp"
    fi
    export PATH="$PWD/$folder/bin:$PATH"
}
