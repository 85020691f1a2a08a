#!/usr/bin/env bash
# From a bare checkout to a small OPT that writes: environment, corpus, training, validation, text.
#
#     bash scripts/quickstart.sh                          on this interpreter's standard library
#     bash scripts/quickstart.sh --text book.txt          on your own text
#     bash scripts/quickstart.sh --help                   every option
#
# scripts/setup.sh makes the environment (the second time it is there already and no network is
# used); scripts/quickstart.py runs the stock commands and shows what they did.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python "$metaseq_root/scripts/quickstart.py" "$@"
