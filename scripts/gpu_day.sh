#!/usr/bin/env bash
# All that only a GPU can answer, in parts of less than ten minutes each, the most important first:
# scripts/gpu_day.sh [FOLDER [PART ...]]
#   FOLDER   keeps logs, figures and which parts are done; default gpu_day. A second run goes on where the first stopped.
#   PART     of the list below; default all of them
# DEVICE=cpu runs the same without a GPU, to try it out: hours, and its figures are not recorded.
# PYTHON names the Python with torch, monai, nnunetv2, timm and pytest; default python3. NATTEN is measured if it is there.
# Afterwards, in a clean checkout of the same code: python scripts/benchmarks/gpu_day.py record FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="${1:-gpu_day}"
shift || true
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
export MEDMIXERS_TEST_DEVICE="$device" PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD/plugin${PYTHONPATH:+:$PYTHONPATH}"

check() { "$python" -m pytest -q -p no:cacheprovider -n 0 -m gpu "$@"; }
measure() { "$python" scripts/benchmarks/gpu_day.py "$1" "$folder" "${@:2}" --device "$device"; }

order=(correct local-attention grouped-conv volumes memory gradient-norms classifiers correct-compiled pooling
    random-mixing nnunet training)
run() {
    case "$1" in
        correct) check tests/gpu -k "not compiled" ;;
        correct-compiled) check tests/gpu -k compiled ;;
        local-attention) measure compare "local attention" ;;
        grouped-conv) measure compare "grouped conv" ;;
        volumes) measure compare 128x128x128 ;;
        classifiers) measure compare 128x224x224 ;;
        pooling) measure compare pooling ;;
        random-mixing) measure compare "random mixing" ;;
        gradient-norms) measure norms ;;
        memory) measure memory ;;
        training) measure training ;;
        nnunet) check tests/nnunet/test_nnunet_on_a_gpu.py ;;
    esac
}

for part in "$@"; do
    if [[ " ${order[*]} " != *" $part "* ]]; then
        echo "gpu_day.sh: error: no part is called $part; valid: ${order[*]}" >&2
        exit 2
    fi
done
failed=()
[ $# -gt 0 ] || set -- "${order[@]}"
mkdir -p "$folder"
for part in "$@"; do
    [ ! -e "$folder/$part.done" ] || continue
    printf '\n== %s\n' "$part"
    if run "$part" 2>&1 | tee "$folder/$part.log"; then
        touch "$folder/$part.done"
    else
        failed+=("$part")
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu_day.sh: not done: ${failed[*]}; see their logs in $folder" >&2
    exit 1
fi
