#!/usr/bin/env bash
# The main job, offline after the installation: a MONAI Bundle and a stock nnU-Net run on the same brain images.
# Everything goes to one folder (default demo_run); finished parts are kept, so a second run is quick.
set -euo pipefail
start=$SECONDS
run="${1:-demo_run}"
marker=.medmixers-demo
# Parts of the folder are deleted below, so it must be ours: new, empty, or marked by an earlier run.
if [ -e "$run" ] && [ ! -e "$run/$marker" ] && ! { [ -d "$run" ] && [ -z "$(ls -A -- "$run")" ]; }; then
    echo "demo.sh: error: $run exists and is no run of this demo; name a new or an empty folder" >&2
    exit 2
fi
mkdir -p -- "$run"
run="$(cd -- "$run" && pwd)"
touch "$run/$marker"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment demo

bundle="$PWD/bundles/brain_tissue_segmentation_grouped_conv"
data="$run/nnUNet_raw/Dataset900_BrainTissue"
trainer=nnUNetTrainerTokenUNet
device=cpu  # for both, also where there is a GPU: the times are compared with the README's

export nnUNet_raw="$run/nnUNet_raw" nnUNet_preprocessed="$run/nnUNet_preprocessed" nnUNet_results="$run/nnUNet_results"
export nnUNet_def_n_proc=1  # two cores: few worker processes
export MEDMIXERS_EPOCHS=10 MEDMIXERS_ITERATIONS_PER_EPOCH=20 MEDMIXERS_VAL_ITERATIONS_PER_EPOCH=2
eval "$(medmixers nnunet env --cpu)"  # our trainers, and glibc's allocator for training on a CPU

step() { printf '\n[%d s] %s\n' "$((SECONDS - start))" "$*"; }

# logged NAME PATTERN COMMAND ...: run it, everything into logs/NAME.txt, the lines that match on the screen.
logged() {
    local log="$run/logs/$1.txt" pattern="$2"
    shift 2
    mkdir -p "$run/logs"
    { "$@" 2>&1 && echo "finished" || echo "failed with status $?"; } | tee "$log" | grep --line-buffered -oE "$pattern" |
        sed -u 's/^/    /' || true
    tail -n 1 "$log" | grep -qx finished || { tail -n 20 "$log" >&2; echo "failed; all of it: $log" >&2; exit 1; }
}

# write_run FOLDER: run.json, what is about to be measured there.
write_run() { python -c 'import sys; from medmixers.results import write_run as w; w(sys.argv[1], device=sys.argv[2])' \
    "$1" "$device"; }

train_bundle() {
    rm -rf "$run/bundle"  # what an interrupted run left
    write_run "$run/bundle"
    monai_run() {
        logged "$1" "$2" python -m monai.bundle run --bundle_root "$bundle" --dataset_dir "$data" \
            --device "\$torch.device('$device')" --amp False "${@:3}"
    }
    local train="$bundle/configs/train.json" models="$run/bundle/models" begin=$SECONDS seconds
    step "MONAI: train the bundle brain_tissue_segmentation_grouped_conv"
    monai_run monai_train 'Epoch\[[0-9]+\] Metrics -- val.*' \
        --config_file "$train" --ckpt_dir "$models" --output_dir "$run/bundle/training"
    seconds=$((SECONDS - begin))
    step "MONAI: evaluate on the held-out cases, then predict them"
    monai_run monai_evaluate 'Metrics -- val.*' --config_file "['$train','$bundle/configs/evaluate.json']" \
        --ckpt_dir "$models" --output_dir "$run/bundle/evaluation"
    monai_run monai_predict '^$' --config_file "$bundle/configs/inference.json" \
        --ckpt_path "$models/model.pt" --output_dir "$run/bundle/predictions"
    echo "$seconds" > "$run/bundle/seconds.txt"
}

train_nnunet() {
    rm -rf "$run/nnunet" "$nnUNet_preprocessed/Dataset900_BrainTissue" "$nnUNet_results/Dataset900_BrainTissue"
    write_run "$run/nnunet"
    local predictions="$run/nnunet/predictions" plans="$nnUNet_preprocessed/Dataset900_BrainTissue/nnUNetPlans.json"
    local begin seconds
    step "nnU-Net: plan and preprocess"
    # The memory target, in GB, makes nnU-Net plan patches that a CPU can train on in minutes.
    logged nnunet_plan '^$' nnUNetv2_plan_and_preprocess -d 900 -c 3d_fullres -gpu_memory_target 0.5 \
        -np 1 -npfp 1 --verify_dataset_integrity --no_pbar
    step "nnU-Net: train with $trainer"
    begin=$SECONDS
    # no worker processes here; planning cannot do without one
    nnUNet_n_proc_DA=0 logged nnunet_train 'Epoch time.*|Pseudo dice.*|Mean Validation Dice.*' \
        nnUNetv2_train 900 3d_fullres 0 -tr "$trainer" -device "$device"
    seconds=$((SECONDS - begin))
    step "nnU-Net: predict the held-out cases, then evaluate"
    nnUNet_n_proc_DA=0 logged nnunet_predict '^$' nnUNetv2_predict -d 900 -c 3d_fullres -f 0 -tr "$trainer" \
        -device "$device" -i "$data/imagesTs" -o "$predictions" --disable_tta -npp 1 -nps 1 --disable_progress_bar
    logged nnunet_evaluate '^$' nnUNetv2_evaluate_folder "$data/labelsTs" "$predictions" \
        -djfile "$data/dataset.json" -pfile "$plans" -np 1
    echo "$seconds" > "$run/nnunet/seconds.txt"
}

step "data: twelve simulated subjects from one real anatomy"
medmixers demo data "$data"
medmixers dataset check "$data"
[ -e "$run/bundle/seconds.txt" ] || train_bundle
[ -e "$run/nnunet/seconds.txt" ] || train_nnunet
step "result"
medmixers demo report "$run"
