#!/bin/sh
# flannel's script of this name, with its options and its output.
here=$(dirname "$(readlink -f "$0")")
if ! command -v flannelctl >/dev/null && [ -x "$here/../dist/cmd/flannelctl.js" ]; then
  exec "$here/../dist/cmd/flannelctl.js" docker-opts "$@"
fi
exec flannelctl docker-opts "$@"
