# shellcheck shell=bash
# Sourced by the scripts beside it: named steps, each timed, the first failure ends the run.

# Runs one step: `step NAME COMMAND...`.
step() {
  local name=$1 began=$SECONDS
  shift
  printf '\n━━ %s\n' "$name"
  if ! "$@"; then
    printf '✗ %s failed after %d s: %s\n' "$name" "$((SECONDS - began))" "$*" >&2
    exit 1
  fi
  printf '✓ %s: %d s\n' "$name" "$((SECONDS - began))"
}
