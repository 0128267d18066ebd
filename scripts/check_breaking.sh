#!/bin/sh
# Compares the protos with those of the last release's tag. Before the first release, and outside a git clone, there is nothing to break.
set -eu
tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null) || {
    echo "buf breaking: no release to compare with yet"
    exit 0
}
exec buf breaking --against ".git#tag=$tag"
