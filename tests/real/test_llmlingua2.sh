#!/usr/bin/env bash
# The published expectations of LLMLingua-2 on the published weights: test_llmlingua2.sh KVSWEEP PROGRAM CASES.json
# They run when KVSWEEP_LLMLINGUA2 names the folder of microsoft/llmlingua-2-xlm-roberta-large-meetingbank; 77: not run.
set -eu
kvsweep=$1 program=$2 cases=$3
if [ -z "${KVSWEEP_LLMLINGUA2:-}" ]; then
    echo "LLMLingua-2's six published cases: SKIPPED, KVSWEEP_LLMLINGUA2 does not name the folder of its weights"
    exit 77
fi
if [ ! -f "$cases" ]; then
    echo "LLMLingua-2's six published cases: SKIPPED, there is no $cases"
    exit 77
fi
exec "$program" "$KVSWEEP_LLMLINGUA2" "$("$kvsweep" fetch cl100k | tail -1)" "$cases"
