# What eval_baseline.sh, eval_capacity.sh and eval_table.sh share; to be read with ".", in the folder of the project.
# caller: the folder that the user's relative paths start from.

fail() { echo "error: $*" >&2; exit 2; }

need() { # name, what it is
    eval "value=\${$1:-}"
    [ -n "$value" ] || fail "$1 is not set: $2"
}

# PRETRAINED -> model (what evenmoe is given) and root (where results go unless OUTPUT_PATH says otherwise)
find_model() {
    need PRETRAINED "a checkpoint's folder, or bundled:text"
    case $PRETRAINED in
        bundled:*) model=$PRETRAINED root="${OUT:-out}/eval/$(echo "$PRETRAINED" | tr : -)" ;;
        /*) model=$PRETRAINED root=$PRETRAINED ;;
        *) model=$caller/$PRETRAINED root=$model ;;
    esac
    case $PRETRAINED in
        bundled:*) ;;
        *) [ -d "$model" ] || hub_name ;;
    esac
}

# A name on the Hub has no folder of its own, so that OUTPUT_PATH must say where results go.
hub_name() {
    case $PRETRAINED in
        /* | .* | */*/* | */) fail "PRETRAINED=$PRETRAINED: there is no such folder" ;;
        */*) [ -n "${OUTPUT_PATH:-}" ] || fail "PRETRAINED=$PRETRAINED: there is no such folder (for a name on the Hub set OUTPUT_PATH)" ;;
        *) fail "PRETRAINED=$PRETRAINED: there is no such folder" ;;
    esac
    model=$PRETRAINED root=
}

# SUITE, TASKS -> what is asked; a suite only where no tasks are named, unless both are given
choose_suite() {
    case ${SUITE:-}${TASKS:+tasks} in
        "") case $model in
                bundled:text) SUITE=bundled ;;
                bundled:vlm) SUITE=multimodal ;;
                *) SUITE=language ;;
            esac ;;
    esac
}

# EVENMOE: another evenmoe than the one of the project's environment
find_evenmoe() {
    [ -n "${EVENMOE:-}" ] && return
    make --no-print-directory .venv/.dev # lm-eval is there
    EVENMOE=.venv/bin/evenmoe
}

evaluate() { # default place, then options of evenmoe eval
    place=${OUTPUT_PATH:-$1}
    shift
    case $place in
        /*) ;;
        *) [ -z "${OUTPUT_PATH:-}" ] || place=$caller/$place ;;
    esac
    choose_suite
    find_evenmoe
    "$EVENMOE" eval run "$model" ${SUITE:+--suite "$SUITE"} ${TASKS:+--tasks "$TASKS"} \
        --batch-size "${BATCH_SIZE:-16}" --out "$place" "$@"
}
