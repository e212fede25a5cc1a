#!/bin/sh
# flannel's script of this name, with its options and its output.
exec flannelctl docker-opts "$@"
