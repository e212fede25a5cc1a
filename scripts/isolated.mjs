/**
 * Wraps a command so that it has network, process and mount namespaces of its
 * own: loopback alone, nothing of the machine's network within reach, and a
 * /run that is empty, where `ip netns` keeps its names. When the outermost process
 * ends, however it ends, the kernel ends all that the command has started and
 * takes down every namespace and device. Nothing is left to clean up.
 */
export function isolated(command) {
  // The shell is process 1: it adopts and reaps what others leave.
  const script = 'mount -t tmpfs tmpfs /run && ip link set lo up && { "$@"; exit $?; }'
  return [
    ...['setpriv', '--pdeathsig', 'KILL', '--'],
    ...['unshare', '--net', '--pid', '--mount', '--mount-proc', '--fork', '--kill-child'],
    ...['--', 'sh', '-c', script, 'sh', ...command],
  ]
}
