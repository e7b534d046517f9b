# Sourced by the other scripts: brings this machine to the point where runicornfs runs from this folder.
# Whatever is there already is left alone, so a second run is quick and needs no network.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "$0: $1" >&2
    exit 1
}

# A Python that is new enough and can make virtual environments, or nothing.
find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

# install_packages [PROGRAM:PACKAGE…]: installs the Debian packages of what runicornfs needs, and of further programs,
# where a program is missing.
install_packages() {
    local missing=() as_root=() further
    PATH=$PATH:/usr/sbin:/sbin
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v ssh >/dev/null || missing+=(openssh-client)
    command -v sshd >/dev/null || missing+=(openssh-server)
    [ -x .venv/bin/python ] || [ -n "$(find_python)" ] || missing+=(python3 python3-venv)
    for further; do
        command -v "${further%%:*}" >/dev/null || missing+=("${further#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    command -v apt-get >/dev/null || fail "please install the equivalents of these Debian packages: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || fail "please install these packages as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    echo "Installing the Debian packages ${missing[*]} …" >&2
    if [[ " ${missing[*]} " == *" openssh-server "* ]] && [ -d /run/systemd/system ]; then
        # Only the program is wanted: nobody asked for an SSH server that listens to the network.
        "${as_root[@]}" systemctl mask ssh.service ssh.socket >&2
    fi
    "${as_root[@]}" apt-get update -qq >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The programs whose work on the mount is tested. Tests of what cannot be had are skipped.
install_test_packages() {
    (install_packages curl:curl rsync:rsync ncdu:ncdu git:git getfattr:attr fish:fish tcsh:tcsh zsh:zsh ksh:ksh) ||
        echo "Tests with those programs and shells that are missing are skipped." >&2
}

# install_project [dev]: runicornfs in .venv, in place. Does nothing if .venv has what pyproject.toml asks for.
install_project() {
    local extra=${1:-} python wanted
    wanted=$(sha256sum pyproject.toml constraints.txt)
    [ "$(cat ".venv/installed${extra:+-$extra}" 2>/dev/null)" != "$wanted" ] || return 0
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        [ -n "$python" ] || fail "needs Python 3.10 or newer with its venv module, and found none"
        "$python" -m venv .venv
    fi
    echo "Installing runicornfs and what it needs into .venv …" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}" >&2
    echo "$wanted" | tee .venv/installed ${extra:+".venv/installed-$extra"} >/dev/null
}

# PyTorch, for the tests of what it reads: only the CPU build, since the others bring gigabytes. pip finds it where it is
# told to look, with --find-links or an index of CPU builds in its configuration.
install_torch() {
    .venv/bin/python -c 'import torch' 2>/dev/null && return
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: 'torch==2.13.0+cpu' 2>/dev/null ||
        echo "pip finds no CPU build of PyTorch here, so the tests that load with it are skipped (see README)." >&2
}
