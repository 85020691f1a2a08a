#!/usr/bin/env bash
# Set up if needed, then every gate: ruff, ruff format, mypy, pytest. The first one that fails ends the run.
#
#     bash scripts/test.sh                    what is not marked slow: minutes
#     bash scripts/test.sh --all              then what is slow, too
#     bash scripts/test.sh --all-within N     the same, but N minutes from now no further slow test begins: they skip,
#                                             and say why
#     bash scripts/test.sh ARGS…              further arguments go to pytest
#
# The last line is pytest's closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

is_slow_too=
pytest_args=()
while [ $# -gt 0 ]; do
    case $1 in
    --all) is_slow_too=yes ;;
    --all-within)
        is_slow_too=yes
        [[ ${2:-} =~ ^[0-9]+$ ]] || {
            printf 'test.sh: `--all-within` must be followed by minutes, but is by "%s".\n' "${2:-}" >&2
            exit 2
        }
        export METASEQ_SLOW_UNTIL=$(($(date +%s) + 60 * $2))
        shift
        ;;
    *) pytest_args+=("$1") ;;
    esac
    shift
done
source scripts/setup.sh

gate() { # run "$@", showing what it is and how long it took
    local started=$SECONDS
    printf '== %s\n' "$*"
    "$@"
    printf '== %s: %d s\n' "$1 ${2:-}" $((SECONDS - started))
}

# One thread a process, and no tokenizer threads: the workers of pytest-xdist are the parallelism. A file
# stays on one worker, so that its fixtures are made once.
tests() { # that match a marker; there may be none in the files that were named
    printf '== pytest: %s\n' "$1"
    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python -m pytest -n "${METASEQ_TEST_WORKERS:-auto}" \
        --dist loadfile --durations=25 -m "$1" ${pytest_args[@]+"${pytest_args[@]}"} ||
        { [ $? = 5 ] && [ -n "$is_slow_too" ]; }
}

gate ruff check .
gate ruff format --check .
gate mypy
tests "not slow"
if [ -n "$is_slow_too" ]; then
    tests slow
fi
