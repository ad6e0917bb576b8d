#!/usr/bin/env bash
# All that only a GPU can answer, in parts of less than ten minutes each, the most important first:
# scripts/gpu_day.sh [FOLDER [PART ...]]
#   FOLDER   keeps logs, figures and which parts are done; default gpu_day. A second run goes on where the first stopped.
#   PART     of the list below; default all of them
# DEVICE=cpu runs the same without a GPU, to try it out: hours, and its figures are not recorded.
# PYTHON names the Python with torch, monai, nnunetv2, timm, pytest, pytest-xdist and what they need; default python3.
# NATTEN is measured if it is there. training needs FOLDER/Dataset900_BrainTissue (medmixers demo data), or nilearn.
# A part of pytest starts anew when it is called again: name the parts of a second call.
# Afterwards, in a clean checkout of the same code: python scripts/benchmarks/gpu_day.py record FOLDER
set -euo pipefail
folder="$(realpath -m "${1:-gpu_day}")"
shift || true
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
export MEDMIXERS_TEST_DEVICE="$device" PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD/plugin${PYTHONPATH:+:$PYTHONPATH}"

check() { "$python" -m pytest -q -p no:cacheprovider -n 0 -m gpu "$@"; }
measure() { "$python" scripts/benchmarks/gpu_day.py "$1" "$folder" "${@:2}" --device "$device"; }

order=(correct grouped-conv local-attention-2d local-attention-3d memory gradient-norms volumes training classifiers
    correct-compiled-mixers correct-compiled-networks nnunet-compiled nnunet pooling random-mixing)
run() {
    case "$1" in
        correct) check tests/gpu -k "not compiled" ;;
        correct-compiled-mixers) check tests/gpu -k "compiled and mixer" ;;
        correct-compiled-networks) check tests/gpu -k "compiled and not mixer" ;;
        local-attention-2d) measure compare "local attention 16x" ;;
        local-attention-3d) measure compare "local attention 2x" && measure compare "local attention 1x" ;;
        grouped-conv) measure compare "grouped conv" ;;
        volumes) measure compare 128x128x128 ;;
        classifiers) measure compare 128x224x224 ;;
        pooling) measure compare pooling ;;
        random-mixing) measure compare "random mixing" ;;
        gradient-norms) measure norms ;;
        memory) measure memory ;;
        training) measure training ;;
        nnunet) check tests/nnunet/test_nnunet_on_a_gpu.py -k false ;;
        nnunet-compiled) check tests/nnunet/test_nnunet_on_a_gpu.py -k true ;;
    esac
}

for part in "$@"; do
    if [[ " ${order[*]} " != *" $part "* ]]; then
        echo "gpu_day.sh: error: no part is called $part; valid: ${order[*]}" >&2
        exit 2
    fi
done
if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_day.sh: error: torch of $python finds no GPU; DEVICE=cpu tries the parts out" >&2
    exit 2
fi
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
