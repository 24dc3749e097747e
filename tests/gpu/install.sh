#!/bin/sh
# What engines need on a GPU, beside what is installed for the tests: pycuda, compiled here, and full TensorRT.
#
#     sh tests/gpu/install.sh VENV "PIP INSTALL COMMAND"
#
# What cannot be installed is left out: VENV/.gpu-left-out says so, in the installer's words, and VENV/.gpu is not made,
# so that the next call tries again.
venv=$(cd "$1" && pwd) install=$2
left_out=$venv/.gpu-left-out
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
export PATH

# cuRAND is not used here, and its header is missing in many a container: pycuda is built without it
pycuda() {
    "$venv/bin/python" -c "import pycuda.driver" 2>/dev/null && return
    command -v nvcc >/dev/null || { echo "error: no nvcc on PATH, nor in CUDA_HOME"; return 1; }
    "$venv/bin/python" -m pip download --quiet -c constraints.txt --no-deps --no-binary pycuda --dest "$scratch" pycuda || return
    mkdir "$scratch/source"
    tar xzf "$scratch"/pycuda-*.tar.gz -C "$scratch/source" --strip-components 1 || return
    (cd "$scratch/source" && "$venv/bin/python" configure.py --no-cuda-enable-curand) || return
    $install "$scratch/source"
}

# $1: what it is called; the rest: a command. Its words are kept where it fails.
try() {
    name=$1
    shift
    "$@" >"$scratch/log" 2>&1 && return
    words=$(grep -E "fatal error|cannot find|[a-z]Error\b|[Ee]rror: |ERROR: " "$scratch/log" | grep -vE "subprocess-exited|raise " |
        sed 's/^ *//' | awk '!seen[$0]++' | head -n 4 | paste -sd ';' | cut -c -600)
    echo "$name could not be installed: ${words:-$(tail -n 1 "$scratch/log")}" | tee -a "$left_out" >&2
}

rm -f "$left_out"
try pycuda pycuda
try "full TensorRT" $install -e ".[tensorrt]"
[ -e "$left_out" ] || touch "$venv/.gpu"
