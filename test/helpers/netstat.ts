/**
 * A counter of the kernel's network.
 *
 * @param text of /proc/net/netstat: a line of names and one of numbers for each group.
 * @param group such as TcpExt.
 */
export function netstatCounter(text: string, group: string, name: string): number {
  const [names = [], numbers = []] = text
    .split('\n')
    .filter(line => line.startsWith(`${group}:`))
    .map(line => line.split(' '))
  return Number(numbers[names.indexOf(name)])
}
