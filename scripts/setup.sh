#!/usr/bin/env bash
# Make the environment `.venv` in this checkout; the other scripts source this file first.
#
#     bash scripts/setup.sh                    make or update it
#     PYTHON=python3.12 bash scripts/setup.sh  with this interpreter (3.10, 3.11 or 3.12)
#
# The steps, in order:
# (1) a stamp of the requirement files and the Python version says whether anything is to be done; a
#     run that finds it current takes no network;
# (2) Python, disk space and compiler are checked, each refusal being one sentence that says what to do;
# (3) pip < 24.1 (newer ones refuse omegaconf 2.0.6), then fairseq with --no-deps: it is compiled before
#     torch is there, because with torch its build adds slow extensions that nothing here uses;
# (4) torch, at the pinned version and before anything that depends on it, without torchaudio;
# (5) everything else at the versions of requirements/constraints.txt;
# (6) this package itself, editable, with its start-up hook.
#
# pip's own configuration (index, find-links, proxies, certificates) is honoured. Settings:
#     METASEQ_VENV=DIR            the environment's folder instead of .venv
#     METASEQ_MIN_FREE_MB=N       the free disk space to insist on, in MiB
# After sourcing, the environment is first on PATH and METASEQ_PYTHON is its interpreter.

metaseq_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
metaseq_venv="${METASEQ_VENV:-$metaseq_root/.venv}"
metaseq_log="$metaseq_venv/setup.log"
metaseq_stamp="$metaseq_venv/setup.stamp"
METASEQ_PYTHON="$metaseq_venv/bin/python"

metaseq_refuse() { # one sentence; ends the script that sourced this file, too
    printf 'setup: error: %s\n' "$1" >&2
    exit 2
}

metaseq_is_supported() { # does the command $1 start a CPython 3.10 to 3.12?
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

metaseq_base_of() { # the interpreter behind $1, which may itself stand in the environment to be remade
    "$1" -c 'import sys; print(sys._base_executable)'
}

metaseq_find_python() { # print the interpreter to build from
    local candidate version
    if [ -n "${PYTHON:-}" ]; then
        version="$("$PYTHON" -c 'import platform; print(platform.python_version())' 2>/dev/null)" ||
            metaseq_refuse "PYTHON must be a Python interpreter that starts, but is $PYTHON. Set it to one, such as PYTHON=python3.11."
        metaseq_is_supported "$PYTHON" ||
            metaseq_refuse "PYTHON must be Python 3.10, 3.11 or 3.12, but is Python $version ($PYTHON). Set it to one of these, such as PYTHON=python3.11."
        metaseq_base_of "$PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11 python3.10 python; do
        if metaseq_is_supported "$candidate"; then
            metaseq_base_of "$candidate"
            return
        fi
    done
    version="$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null)" || version="not found"
    metaseq_refuse "Python must be 3.10, 3.11 or 3.12, but python3 is $version. Install one (on Debian or Ubuntu: apt install python3.11-venv python3.11-dev) and run PYTHON=python3.11 bash scripts/setup.sh."
}

metaseq_wanted_stamp() { # what an up-to-date environment's stamp reads
    "${PYTHON:-$METASEQ_PYTHON}" -V 2>&1
    cat "$metaseq_root"/requirements/*.txt "$metaseq_root/setup.py" "$metaseq_root/pyproject.toml" |
        cksum | tr ' ' '-'
    printf '%s\n' "$metaseq_root"
}

metaseq_check_disk() { # refuse unless the folder $1 has $2 MiB free
    local free_mb
    free_mb="$(df -Pm "$1" | awk 'NR == 2 { print $4 }')"
    [ "$free_mb" -ge "$2" ] ||
        metaseq_refuse "The free disk space at $1 must be at least $2 MiB, but is $free_mb MiB. Free some, or set METASEQ_VENV (the environment) and TMPDIR (downloads) to folders on a larger disk."
}

metaseq_check_compiler() { # fairseq has no wheels: a C++ compiler and Python's headers must be there
    local folder
    folder="$(mktemp -d)"
    printf '#include <Python.h>\nint main() { return 0; }\n' >"$folder/probe.cpp"
    # shellcheck disable=SC2086  # CXX and CC may hold options
    if ! ${CXX:-c++} -x c++ -E /dev/null >/dev/null 2>&1 || ! ${CC:-cc} -E -x c /dev/null >/dev/null 2>&1; then
        rm -r "$folder"
        metaseq_refuse "A C and a C++ compiler must be on PATH, because fairseq is compiled here, but ${CC:-cc} and ${CXX:-c++} do not both start. Install them (on Debian or Ubuntu: apt install build-essential), or set CC and CXX."
    fi
    # shellcheck disable=SC2086
    if ! ${CXX:-c++} -fsyntax-only -I"$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
        "$folder/probe.cpp" >/dev/null 2>&1; then
        rm -r "$folder"
        metaseq_refuse "Python's headers must be installed, because fairseq is compiled here, but Python.h of $1 is not found. Install them (on Debian or Ubuntu: apt install python3-dev)."
    fi
    rm -r "$folder"
}

metaseq_explain_failure() { # the sentence for a step $1 that failed, from the end of the log
    local last
    last="$(tail -n 60 "$metaseq_log")"
    case "$last" in
    *"No space left on device"* | *"Errno 28"* | *"Disk quota exceeded"*)
        metaseq_refuse "$1 could not be installed because the disk is full. Free some space at $metaseq_venv and ${TMPDIR:-/tmp}, or set METASEQ_VENV and TMPDIR to folders on a larger disk (full log: $metaseq_log)."
        ;;
    *"ResolutionImpossible"* | *"No matching distribution"* | *"Could not find a version"* | *"Max retries"* | *"Connection"* | *"name resolution"* | *"timed out"* | *"HTTP error"* | *"SSLError"*)
        metaseq_refuse "$1 could not be fetched by pip. Check the network and pip's index settings (pip config list; environment variables PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS, PIP_CONSTRAINT) and run again; what is installed is kept (full log: $metaseq_log)."
        ;;
    *)
        metaseq_refuse "$1 could not be installed; the last lines of the full log, $metaseq_log, say why. Mend it and run again; what is installed is kept."
        ;;
    esac
}

metaseq_step() { # run "$@" after the title $1 with its output in the log, showing the seconds it takes
    local title="$1" started=$SECONDS pid
    shift
    printf '\n### %s: %s\n' "$title" "$*" >>"$metaseq_log"
    "$@" >>"$metaseq_log" 2>&1 </dev/null &
    pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM # a background job does not see Ctrl-C
    if [ -t 1 ]; then
        while kill -0 "$pid" 2>/dev/null; do
            printf '\rsetup: %-58s %4d s' "$title" $((SECONDS - started))
            sleep 0.5
        done
        printf '\r'
    fi
    wait "$pid" || {
        printf 'setup: %-58s failed\n' "$title"
        metaseq_explain_failure "$title"
    }
    trap - INT TERM
    printf 'setup: %-58s %4d s\n' "$title" $((SECONDS - started))
}

metaseq_make_venv() { # the empty environment, from the interpreter $1
    if ! "$1" -m venv --clear "$metaseq_venv" >/dev/null 2>&1; then
        metaseq_refuse "The environment $metaseq_venv could not be made with $1 -m venv. Install Python's venv module (on Debian or Ubuntu: apt install python3-venv) and see that the folder can be written."
    fi
}

metaseq_install() {
    local python requirements="$metaseq_root/requirements" pip=("$METASEQ_PYTHON" -m pip install) started=$SECONDS
    python="$(metaseq_find_python)" || exit 2
    mkdir -p "$metaseq_venv" 2>/dev/null ||
        metaseq_refuse "METASEQ_VENV must be a folder that can be written, but is $metaseq_venv. Set it to another one."
    # measured: the environment takes 1.6 GB with a CPU build of torch and 5.1 GB with a CUDA build
    metaseq_check_disk "$metaseq_venv" "${METASEQ_MIN_FREE_MB:-3000}"
    metaseq_check_disk "${TMPDIR:-/tmp}" "${METASEQ_MIN_FREE_MB:-1000}"
    metaseq_check_compiler "$python"
    printf 'setup: making %s with %s (%s); full log: %s\n' "$metaseq_venv" \
        "$("$python" -c 'import platform; print("Python", platform.python_version())')" "$python" "$metaseq_log"
    if ! metaseq_is_supported "$METASEQ_PYTHON" || [ -n "${PYTHON:-}" ] &&
        [ "$("$METASEQ_PYTHON" -V 2>&1)" != "$("$python" -V 2>&1)" ]; then
        metaseq_make_venv "$python"
    fi
    metaseq_step "pip and build tools" \
        "${pip[@]}" -c "$requirements/constraints.txt" "pip<24.1" -r "$requirements/build.txt"
    metaseq_step "fairseq 0.12.2 with hydra and omegaconf (compiled here)" \
        "${pip[@]}" --no-deps --no-build-isolation -r "$requirements/fairseq.txt"
    metaseq_step "torch" "${pip[@]}" -c "$requirements/constraints.txt" torch
    metaseq_step "libraries" "${pip[@]}" -c "$requirements/constraints.txt" \
        -r "$requirements/runtime.txt" -r "$requirements/dev.txt"
    metaseq_step "metaseq-plugin and its start-up hook" \
        "${pip[@]}" --no-deps --no-build-isolation --editable "$metaseq_root"
    metaseq_wanted_stamp >"$metaseq_stamp"
    printf 'setup: done in %d s\n' $((SECONDS - started))
}

metaseq_setup() {
    if ! metaseq_is_supported "$METASEQ_PYTHON" ||
        [ "$(cat "$metaseq_stamp" 2>/dev/null)" != "$(metaseq_wanted_stamp)" ]; then
        metaseq_install
    fi
    export METASEQ_PYTHON PATH="$metaseq_venv/bin:$PATH"
}

metaseq_setup
