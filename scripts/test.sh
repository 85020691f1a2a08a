#!/usr/bin/env bash
# Set up if needed, then every gate: ruff, ruff format, mypy, pytest. The first one that fails ends the run.
#
#     bash scripts/test.sh            what is not marked slow: minutes
#     bash scripts/test.sh --all      everything, as continuous integration runs it
#     bash scripts/test.sh ARGS…      further arguments go to pytest
#
# The last line is pytest's closing line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

pytest_args=(-m "not slow")
for arg in "$@"; do
    if [ "$arg" = "--all" ]; then
        pytest_args=("${pytest_args[@]:2}")
    else
        pytest_args+=("$arg")
    fi
done

gate() { # run "$@", showing what it is and how long it took
    local started=$SECONDS
    printf '== %s\n' "$*"
    "$@"
    printf '== %s: %d s\n' "$1 ${2:-}" $((SECONDS - started))
}

gate ruff check .
gate ruff format --check .
gate mypy
printf '== pytest\n'
# One thread a process, and no tokenizer threads: the workers of pytest-xdist are the parallelism. A file
# stays on one worker, so that its fixtures are made once.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
exec python -m pytest -n "${METASEQ_TEST_WORKERS:-auto}" --dist loadfile --durations=5 "${pytest_args[@]}"
