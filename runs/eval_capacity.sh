#!/bin/sh
# docs/eval_tasks.md, "By environment variables": a model under one policy.
# STRATEGY         score, first, last, random (what Token Drop keeps), overselect or expanded, fill, device (Token Drop per
#                  device), image-first, text-first (vision-language models), expert_drop, threshold
# EXPERT_CAPACITY  gamma. expert_drop and threshold have none: FRACTION (default 0.1) and THRESHOLD (default 0.1) instead
# OUTPUT_PATH      default: $PRETRAINED/expert_capacity-$EXPERT_CAPACITY/$STRATEGY; without a capacity
#                  $PRETRAINED/$STRATEGY-$FRACTION or $PRETRAINED/$STRATEGY-$THRESHOLD
# PRETRAINED, BATCH_SIZE, SUITE, TASKS, CUDA_VISIBLE_DEVICES and further arguments: as in eval_baseline.sh.
set -eu
caller=$PWD
cd "$(dirname "$0")/.."
. runs/eval_variables.sh
strategies="score, first, last, random, overselect, expanded, fill, device, image-first, text-first, expert_drop, threshold"
find_model
need STRATEGY "one of $strategies"
number=
case $STRATEGY in
    score) policy=token_drop ;;
    first | last | random) policy=token_drop:keep=$STRATEGY ;;
    overselect | expanded) policy=expanded_drop ;;
    fill) policy=fill ;;
    device) policy=token_drop:level=device ;;
    image-first | text-first) policy=token_drop:modality=$STRATEGY ;;
    expert_drop) number=${FRACTION:-0.1} policy=expert_drop:fraction=$number ;;
    threshold) number=${THRESHOLD:-0.1} policy=threshold_drop:threshold=$number ;;
    *) fail "STRATEGY=$STRATEGY is unknown: one of $strategies" ;;
esac
if [ -n "$number" ]; then
    [ -z "${EXPERT_CAPACITY:-}" ] || fail "EXPERT_CAPACITY=$EXPERT_CAPACITY: $STRATEGY has no capacity, leave it out"
    evaluate "$root/$STRATEGY-$number" --policy "$policy" "$@"
else
    need EXPERT_CAPACITY "the capacity factor gamma, such as 1.5"
    case $EXPERT_CAPACITY in
        inf) ;;
        *[!0-9.]* | . | *.*.*) fail "EXPERT_CAPACITY=$EXPERT_CAPACITY is no capacity factor: a number above 0, or inf" ;;
    esac
    evaluate "$root/expert_capacity-$EXPERT_CAPACITY/$STRATEGY" --policy "$policy" --gamma "$EXPERT_CAPACITY" "$@"
fi
