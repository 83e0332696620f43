#!/usr/bin/env bash
# System packages that `make test-all` needs beside Python: a browser for the pages, and fonts for Chinese.
# Debian and Ubuntu; elsewhere install chromium by the system's own means.
set -euo pipefail
if command -v chromium >/dev/null 2>&1; then exit 0; fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install chromium by hand: this script knows apt-get only" >&2
    exit 1
fi
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk
