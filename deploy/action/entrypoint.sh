#!/bin/sh
# The container action: arguments are the files, the level, and the SARIF file (see action.yml).
set -euf
files=$1 deny=$2 sarif=$3
if [ -n "$sarif" ]; then
    # The last command decides about the step.
    # shellcheck disable=SC2086 # several files
    netpol lint --file $files --deny "$deny" -o sarif >"$sarif" || true
fi
# shellcheck disable=SC2086
exec netpol lint --file $files --deny "$deny" -o github
