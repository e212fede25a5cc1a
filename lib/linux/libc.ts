import { getSystemErrorMap, getSystemErrorName } from 'node:util'
import koffi from 'koffi'

/**
 * The system calls that Node does not offer, through koffi. Hot calls take raw
 * addresses: a koffi struct argument costs 2 µs, an address 0.1.
 *
 * Every call here returns -1 on failure; read the reason with `lastError` at once.
 */
const libc = koffi.load(null)

/** koffi knows no ssize_t; intptr_t is as wide. */
type Fn<Args extends unknown[]> = (...args: Args) => number

/** Memory as system calls see it: a view, or an address from addressOf plus an offset. */
export type Memory = Uint8Array | number

export const open = libc.func('int open(const char *path, int flags, int mode)') as Fn<
  [path: string, flags: number, mode: number]
>
export const close = libc.func('int close(int fd)') as Fn<[fd: number]>
export const read = libc.func('intptr_t read(int fd, void *bytes, size_t length)') as Fn<
  [fd: number, bytes: Memory, length: number]
>
export const write = libc.func(
  'intptr_t write(int fd, const void *bytes, size_t length)',
) as Fn<[fd: number, bytes: Memory, length: number]>
export const writev = libc.func(
  'intptr_t writev(int fd, const void *slices, int count)',
) as Fn<[fd: number, slices: Memory, count: number]>
export const ioctl = libc.func(
  'int ioctl(int fd, unsigned long request, void *argument)',
) as Fn<[fd: number, request: number, argument: Memory]>
export const poll = libc.func(
  'int poll(void *fds, unsigned long count, int timeoutMs)',
) as Fn<[fds: Memory, count: number, timeoutMs: number]>
export const socket = libc.func('int socket(int domain, int type, int protocol)') as Fn<
  [domain: number, type: number, protocol: number]
>
export const bind = libc.func(
  'int bind(int fd, const void *address, unsigned int length)',
) as Fn<[fd: number, address: Memory, length: number]>
export const connect = libc.func(
  'int connect(int fd, const void *address, unsigned int length)',
) as Fn<[fd: number, address: Memory, length: number]>
export const listen = libc.func('int listen(int fd, int backlog)') as Fn<
  [fd: number, backlog: number]
>
export const accept4 = libc.func(
  'int accept4(int fd, void *address, void *length, int flags)',
) as Fn<[fd: number, address: null, length: null, flags: number]>
export const setsockopt = libc.func(
  'int setsockopt(int fd, int level, int option, const void *value, unsigned int length)',
) as Fn<[fd: number, level: number, option: number, value: Memory, length: number]>
export const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int option, void *value, void *length)',
) as Fn<[fd: number, level: number, option: number, value: Memory, length: Memory]>
export const send = libc.func(
  'intptr_t send(int fd, const void *bytes, size_t length, int flags)',
) as Fn<[fd: number, bytes: Memory, length: number, flags: number]>
export const sendto = libc.func(
  'intptr_t sendto(int fd, const void *bytes, size_t length, int flags, const void *address, unsigned int addressLength)',
) as Fn<
  [
    fd: number,
    bytes: Memory,
    length: number,
    flags: number,
    address: Memory,
    addressLength: number,
  ]
>
export const sendmsg = libc.func(
  'intptr_t sendmsg(int fd, const void *message, int flags)',
) as Fn<[fd: number, message: Memory, flags: number]>
export const recvmsg = libc.func(
  'intptr_t recvmsg(int fd, void *message, int flags)',
) as Fn<[fd: number, message: Memory, flags: number]>
export const recvmmsg = libc.func(
  'int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)',
) as Fn<[fd: number, messages: Memory, count: number, flags: number, timeout: null]>
export const sendmmsg = libc.func(
  'int sendmmsg(int fd, void *messages, unsigned int count, int flags)',
) as Fn<[fd: number, messages: Memory, count: number, flags: number]>
export const memfdCreate = libc.func(
  'int memfd_create(const char *name, unsigned int flags)',
) as Fn<[name: string, flags: number]>
export const flock = libc.func('int flock(int fd, int operation)') as Fn<
  [fd: number, operation: number]
>
export const prctl = libc.func(
  'int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)',
) as Fn<[option: number, a: number, b: number, c: number, d: number]>
/** _exit(2): ends the process as it is. */
export const exitNow = libc.func('void _exit(int status)') as (status: number) => void
/** For what libc has no function: three arguments of those calls that we make. */
export const syscall = libc.func(
  'long syscall(long number, unsigned long a, unsigned long b, void *c)',
) as Fn<[number: number, a: number, b: number, c: Memory]>
const clockGettime = libc.func('int clock_gettime(int clock, void *time)') as Fn<
  [clock: number, time: Uint8Array]
>

/** errno of the call before; koffi saves it per call. */
export function errno(): number {
  return koffi.errno()
}

/** The calls that move packets, which may be another kernel's than this machine's. */
export interface PacketCalls {
  read: typeof read
  writev: typeof writev
  sendmmsg: typeof sendmmsg
  recvmmsg: typeof recvmmsg
  errno: typeof errno
}

export const EINTR = 4
export const EIO = 5
export const EAGAIN = 11
export const EINVAL = 22
export const EMSGSIZE = 90
export const ENETUNREACH = 101
export const EHOSTUNREACH = 113

/** A failed system call, in the shape of Node's own errors. */
export class SystemError extends Error {
  override readonly name = 'SystemError'
  /** Symbolic name such as EBUSY. */
  readonly code: string
  readonly errno: number

  constructor(what: string, number: number) {
    super(`${what}: ${getSystemErrorMap().get(-number)?.[1] ?? `error ${number}`}`)
    this.code = getSystemErrorName(-number)
    this.errno = number
  }
}

/** The error of the call before, as an exception that says what failed. */
export function lastError(what: string): SystemError {
  return new SystemError(what, errno())
}

/**
 * The address of a view's first byte. It holds as long as the view is referenced:
 * the caller keeps it. Views must come from Buffer.alloc or an own ArrayBuffer.
 */
export function addressOf(view: Uint8Array): number {
  return Number(koffi.address(view))
}

const CLOCK_BOOTTIME = 7
const timespec = Buffer.alloc(16)

/** Milliseconds since boot, suspended time included, so that a machine that slept knows it. */
export function bootTimeMs(): number {
  clockGettime(CLOCK_BOOTTIME, timespec)
  const seconds = timespec.readUInt32LE(0) + timespec.readUInt32LE(4) * 2 ** 32
  return seconds * 1000 + timespec.readUInt32LE(8) / 1e6
}
