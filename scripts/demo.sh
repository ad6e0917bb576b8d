#!/usr/bin/env bash
# The main job, offline after the installation: a study of a MONAI Bundle and of nnU-Net on the same brain images.
# Everything goes to one folder (default demo_run); finished parts are kept, so a second run is quick.
set -euo pipefail
start=$SECONDS
run="${1:-demo_run}"
marker=.medmixers-demo
# The folder must be new, empty, or marked by an earlier run: it shall hold nothing else.
if [ -e "$run" ] && [ ! -e "$run/$marker" ] && ! { [ -d "$run" ] && [ -z "$(ls -A -- "$run")" ]; }; then
    echo "demo.sh: error: $run exists and is no run of this demo; name a new or an empty folder" >&2
    exit 2
fi
mkdir -p -- "$run"
run="$(cd -- "$run" && pwd)"
touch "$run/$marker"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment demo

export nnUNet_raw="$run/nnUNet_raw"
step() { printf '\n[%d s] %s\n' "$((SECONDS - start))" "$*"; }

step "data: twelve simulated subjects from one real anatomy"
data="$nnUNet_raw/Dataset900_BrainTissue"
medmixers demo data "$data"
medmixers dataset check "$data"
step "study: a MONAI Bundle and nnU-Net train; logs in $run/demo/runs/*/log.txt"
study="$run/demo.yaml"
[ -e "$study" ] || medmixers study example demo -o "$study"
# One training per entry on so few cases cannot be powered, and the report says so.
(cd -- "$run" && medmixers study run demo.yaml --allow_underpowered)
step "report"
medmixers study report "$run/demo"
